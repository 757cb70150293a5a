// A real browser, and what the checks of the page have in common. Each check prints one line:
// "ok NAME" or "not ok NAME: why".
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { chromium } from "playwright-core";

const require = createRequire(import.meta.url);
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
export const PAGES = ["cluster", "requests", "charts", "models", "chat"];

/** Runs `work(browser)`, where browser.open(options) makes a page in a profile of its own. */
export async function withBrowser(executablePath, work) {
  const folder = mkdtempSync(join(tmpdir(), "tandem-browser-"));
  const context = await chromium.launchPersistentContext(folder, {
    executablePath, args: FLAGS, viewport: null,
  });
  const browser = context.browser();
  try {
    await work({
      open: (options) => open(browser, options),
      traced: (page, during) => traced(browser, page, during),
    });
  } finally {
    await context.close();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** A page, and all that went wrong on it. */
async function open(browser, { width = 1440, height = 900, dark = false } = {}) {
  const context = await browser.newContext({
    viewport: { width, height }, colorScheme: dark ? "dark" : "light",
  });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  const seen = { hosts: new Set(), errors: [], bytes: 0 };
  page.on("request", (request) => seen.hosts.add(new URL(request.url()).host));
  page.on("pageerror", (error) => seen.errors.push(error.message));
  page.on("console", (message) => {
    // A refused request is a finding of the check that made it, and said there.
    if (message.type() === "error" && !/Failed to load resource/.test(message.text())) {
      seen.errors.push(message.text());
    }
  });
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => {
      window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  return { page, seen, close: () => context.close() };
}

/** Milliseconds of processor time of each task of renderers' main threads. */
async function traced(browser, page, during) {
  const categories = ["disabled-by-default-devtools.timeline", "toplevel", "__metadata"];
  await browser.startTracing(page, { categories });
  await during();
  const { traceEvents } = JSON.parse((await browser.stopTracing()).toString());
  const mains = new Set(
    traceEvents
      .filter(({ name, args }) => name === "thread_name" && args?.name === "CrRendererMain")
      .map(({ pid, tid }) => `${pid} ${tid}`),
  );
  return traceEvents
    .filter(({ name, tdur, pid, tid }) => /RunTask/.test(name) && tdur && mains.has(`${pid} ${tid}`))
    .map(({ tdur }) => tdur / 1000);
}

let failures = 0;

/** One thing that is shown. */
export async function check(name, work) {
  const begun = performance.now();
  try {
    const told = await work();
    const seconds = ((performance.now() - begun) / 1000).toFixed(1);
    console.log(`ok ${name}${told ? `: ${told}` : ""} (${seconds} s)`);
  } catch (error) {
    failures += 1;
    console.log(`not ok ${name}: ${String(error.stack ?? error).split("\n").slice(0, 6).join(" | ")}`);
  }
}

export function finish() {
  process.exitCode = failures ? 1 : 0;
}

/** What axe-core finds wrong with the page as it is. */
export async function violations(page) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return found.violations.map((each) => {
    const where = each.nodes.slice(0, 3).map((node) => node.target.join(" ")).join(", ");
    return `${each.id}: ${each.help} (${where})`;
  });
}

/** Poll `ask` until it is true. */
export async function until(ask, what, seconds = 20) {
  const end = Date.now() + 1000 * seconds;
  for (;;) {
    const found = await ask();
    if (found) return found;
    assert.ok(Date.now() < end, `after ${seconds} s still not: ${what}`);
    await new Promise((done) => setTimeout(done, 30));
  }
}

export async function json(url, init) {
  const answer = await fetch(url, init);
  assert.ok(answer.ok, `${url}: ${answer.status}`);
  return answer.json();
}

/** Every page without sideways scrolling and without a finding of axe-core, at two widths, light
 * and dark. */
export async function everyPageIsInOrder(browser, url, ready) {
  let looked = 0;
  for (const width of [360, 1440]) {
    for (const dark of [false, true]) {
      const { page, close } = await browser.open({ width, height: 800, dark });
      for (const name of PAGES) {
        await page.goto(`${url}/#/${name}`);
        await ready(page, name);
        const found = await violations(page);
        assert.deepEqual(found, [], `${name} at ${width}${dark ? ", dark" : ""}`);
        const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(over <= 0, `${name} at ${width} is ${over} px too wide`);
        looked += 1;
      }
      await close();
    }
  }
  const { page, close } = await browser.open();
  await page.goto(url);
  await page.locator("main h2").first().waitFor();
  await page.evaluate(() => document.querySelector("main").append(document.createElement("button")));
  assert.equal((await violations(page)).length, 1, "what is wrong is not found");
  await close();
  return `${looked} looks`;
}
