// The page against a real server of two models: node models.mjs URL CHROMIUM
import assert from "node:assert/strict";

import { check, finish, json, until, violations, withBrowser } from "./browser.mjs";

const [, , url, executable] = process.argv;

await withBrowser(executable, async (browser) => {
  const { models } = await json(`${url}/models`);
  const other = models.find((model) => model.state === "unloaded").id;

  await check("a second model is loaded on demand, from its page", async () => {
    const { page, seen, close } = await browser.open();
    await page.goto(`${url}/#/models`);
    await page.getByRole("button", { name: `Load ${other}` }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByText("chosen").waitFor();
    assert.match(await dialog.textContent(), /iB of .*iB/);
    await dialog.getByRole("button", { name: "Load", exact: true }).click();
    const card = page.locator(".model").filter({ hasText: other });
    await card.getByText("loaded", { exact: true }).waitFor({ timeout: 60_000 });
    await card.getByText(/1 rank|2 ranks/).waitFor();
    await card.getByRole("button", { name: `Unload ${other}` }).click();
    await card.getByText("unloaded", { exact: true }).waitFor({ timeout: 30_000 });
    assert.deepEqual(seen.errors, []);
    await close();
  });

  await check("a chat with a model that is not loaded loads it", async () => {
    const { page, close } = await browser.open();
    await page.goto(`${url}/#/chat`);
    await page.getByLabel("Model").selectOption(other);
    await page.getByRole("button", { name: "Parameters" }).click();
    await page.getByLabel("Most tokens").fill("8");
    await page.getByRole("button", { name: "Use these" }).click();
    await page.getByLabel("Message").fill("Hello");
    await page.keyboard.press("Enter");
    await page.getByText("The answer is complete.").waitFor({ state: "attached", timeout: 60_000 });
    assert.equal(await page.locator(".banner").count(), 0);
    await until(async () => {
      const now = await json(`${url}/models`);
      return now.models.find((model) => model.id === other).state === "loaded";
    }, "loaded");
    await close();
  });

  await check("each group can be looked at", async () => {
    const { groups } = await json(`${url}/cluster`);
    assert.deepEqual(groups.map(({ model }) => model).sort(), models.map(({ id }) => id).sort());
    const { page, seen, close } = await browser.open({ width: 360, height: 800 });
    await page.goto(url);
    const choice = page.getByRole("combobox", { name: "Group" });
    const own = groups[0].model;
    await page.getByRole("heading", { level: 1, name: own }).waitFor();
    await choice.focus();
    await page.keyboard.press("ArrowDown");
    await page.getByRole("heading", { level: 1, name: other }).waitFor();
    assert.ok(await choice.evaluate((select) => select === document.activeElement));
    await page.locator(".card .legend").getByText("other groups").waitFor();
    assert.deepEqual(await violations(page), []);
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(over <= 0, `${over} px too wide`);
    const asked = page.waitForRequest((request) => /\/history\?.*model=/.test(request.url()));
    await page.getByRole("link", { name: "Charts" }).click();
    assert.equal(new URL((await asked).url()).searchParams.get("model"), other);
    assert.deepEqual(await violations(page), []);
    await json(`${url}/models/unload`, {
      method: "POST", headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: other }),
    });
    await choice.waitFor({ state: "detached", timeout: 30_000 });
    await page.getByRole("link", { name: "Cluster" }).click();
    await page.getByRole("heading", { level: 1, name: own }).waitFor();
    assert.deepEqual(seen.errors, []);
    await close();
  });
});
finish();
