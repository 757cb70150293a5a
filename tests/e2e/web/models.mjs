// The page against a real server of two models: node models.mjs URL CHROMIUM
import assert from "node:assert/strict";

import { check, finish, json, until, withBrowser } from "./browser.mjs";

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
});
finish();
