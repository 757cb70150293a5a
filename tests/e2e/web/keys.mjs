// The page against a server that asks for keys: node keys.mjs URL CHROMIUM KEY
import assert from "node:assert/strict";

import { check, finish, violations, withBrowser } from "./browser.mjs";

const [, , url, executable, key] = process.argv;

await withBrowser(executable, async (browser) => {
  await check("a key is asked for, refused, taken and forgotten", async () => {
    const { page, seen, close } = await browser.open();
    await page.goto(url);
    const dialog = page.getByRole("dialog");
    await dialog.getByText("This server asks for an API key.").waitFor();
    assert.deepEqual(await violations(page), []);
    await dialog.getByLabel("Key", { exact: true }).fill("tdm_wrong");
    await dialog.getByRole("button", { name: "Use this key" }).click();
    await dialog.getByText("not known here").waitFor();
    await dialog.getByLabel("Key", { exact: true }).fill(key);
    await dialog.getByLabel("Keep it in this browser").check();
    await dialog.getByRole("button", { name: "Use this key" }).click();
    await page.getByText("serving", { exact: true }).waitFor();
    await page.reload();
    await page.getByText("serving", { exact: true }).waitFor();
    assert.equal(await dialog.count(), 0);
    await page.getByRole("link", { name: "Requests" }).click();
    await page.getByText("Those of your key; the counts are of all.").waitFor();
    assert.equal(await page.getByRole("row").count(), 1);
    await page.getByRole("button", { name: "Forget key" }).click();
    await dialog.waitFor();
    assert.equal(await page.evaluate(() => localStorage.length + sessionStorage.length), 0);
    assert.deepEqual(seen.errors, []);
    await close();
  });
});
finish();
