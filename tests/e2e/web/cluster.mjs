// The page against a real cluster of two ranks: node cluster.mjs URL CHROMIUM
import assert from "node:assert/strict";
import { connect, createServer } from "node:net";

import { check, everyPageIsInOrder, finish, json, until, withBrowser } from "./browser.mjs";

const [, , url, executable] = process.argv;
const GREEDY = { temperature: 0, max_tokens: 200, ignore_eos: true };
const QUESTION = "What is Tandem? Tell me everything about it.";

/** Long answers that are the same each time, whatever the page asks for. */
async function greedy(page) {
  await page.route("**/v1/chat/completions", async (route) => {
    const body = { ...route.request().postDataJSON(), ...GREEDY };
    await route.continue({ postData: JSON.stringify(body) });
  });
}

async function unbroken() {
  const body = { ...GREEDY, messages: [{ role: "user", content: QUESTION }] };
  const headers = { "content-type": "application/json" };
  const answer = await json(`${url}/v1/chat/completions`, {
    method: "POST", headers, body: JSON.stringify(body),
  });
  return answer.choices[0].message.content;
}

/** The answer as the page keeps it. */
function kept(page) {
  return page.evaluate(() => {
    const names = Object.keys(localStorage).filter((name) => name.startsWith("tandem.chat."));
    const all = names.map((name) => JSON.parse(localStorage[name]));
    const [newest] = all.sort((a, b) => b.changed - a.changed);
    return newest?.turns.at(-1)?.answer ?? null;
  });
}

async function ask(page, at = url) {
  await page.goto(`${at}/#/chat`);
  await page.getByRole("button", { name: "New conversation" }).first().click();
  await page.getByLabel("Message").fill(QUESTION);
  await page.getByRole("button", { name: "Send" }).click();
}

/** A way to the server that can be cut, with all that is under way on it. */
async function cableTo(to) {
  const sockets = new Set();
  let plugged = true;
  const server = createServer((near) => {
    const far = connect(Number(to.port), to.hostname);
    for (const [one, other] of [[near, far], [far, near]]) {
      sockets.add(one);
      one.on("error", () => {}).on("close", () => (sockets.delete(one), other.destroy()));
    }
    if (plugged) near.pipe(far).pipe(near);
    else near.destroy();
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    pull: () => {
      plugged = false;
      for (const socket of sockets) socket.destroy();
    },
    plug: () => (plugged = true),
    close: () => server.close(),
  };
}

async function shown(page, length) {
  const answer = page.getByLabel("Answer", { exact: true }).last();
  return until(async () => {
    const text = await answer.textContent().catch(() => "");
    return text.length >= length && text;
  }, `${length} characters of the answer`);
}

async function complete(page, seconds = 60) {
  return until(async () => {
    const answer = await kept(page);
    assert.equal(answer?.error ?? "", "");
    return answer?.finish === "length" && answer.content;
  }, "the whole answer", seconds);
}

const idle = () =>
  until(async () => {
    const { counters } = await json(`${url}/cluster`);
    return counters.journal === 0 && counters.slots === 0;
  }, "nothing under way", 10);

await withBrowser(executable, async (browser) => {
  await check("first paint, weight and hosts", async () => {
    const { page, seen, close } = await browser.open();
    await page.goto(url);
    await page.getByRole("heading", { name: "Machines" }).waitFor();
    const paint = await until(() => page.evaluate(
      () => performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
    ), "a paint");
    const bytes = await page.evaluate(() =>
      [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
        .filter(({ name }) => !/cluster|requests|history|models/.test(name))
        .reduce((sum, entry) => sum + entry.decodedBodySize, 0),
    );
    assert.ok(paint < 1000, `first paint after ${paint} ms`);
    assert.ok(bytes > 50_000 && bytes < 300_000, `${bytes} bytes`);
    assert.deepEqual([...seen.hosts], [new URL(url).host]);
    assert.deepEqual(seen.errors, []);
    await close();
    return `${Math.round(paint)} ms, ${Math.round(bytes / 1000)} kB`;
  });

  await check("nodes, links and ranks appear", async () => {
    const { page, close } = await browser.open();
    await page.goto(url);
    await page.locator(".card h3").nth(1).waitFor();
    assert.equal(await page.locator(".ring .edge.used").count(), 1);
    const links = page.getByRole("group", { name: "Links" });
    assert.match(await links.textContent(), /loopback/);
    const ranks = page.getByRole("group", { name: "Ranks of this epoch" });
    assert.equal(await ranks.locator("tbody tr").count(), 2);
    await close();
  });

  const whole = await unbroken();

  await check("a chat streams, and is listed among the requests", async () => {
    const { page, seen, close } = await browser.open();
    await greedy(page);
    await ask(page);
    const first = await shown(page, 40);
    assert.ok(first.length < whole.length, "all of it came at once");
    await page.getByRole("link", { name: "Requests" }).click();
    await page.getByRole("row").filter({ hasText: "OpenAI chat" }).waitFor();
    await page.getByRole("link", { name: "Chat", exact: true }).click();
    assert.equal(await complete(page), whole);
    assert.deepEqual(seen.errors, []);
    await close();
  });

  await check("a reload in mid-answer goes on, and the text is whole", async () => {
    const { page, seen, close } = await browser.open();
    await greedy(page);
    await ask(page);
    await shown(page, 60);
    for (let times = 0; times < 3; times++) {
      const before = (await kept(page))?.content.length ?? 0;
      await page.reload();
      await until(async () => {
        const now = await kept(page);
        return now && (now.content.length > before || now.finish);
      }, "growth after the reload");
    }
    assert.equal(await complete(page), whole);
    assert.deepEqual(seen.errors, []);
    await close();
  });

  await check("a lost connection goes on by itself", async () => {
    const { page, close } = await browser.open();
    await greedy(page);
    const cable = await cableTo(new URL(url));
    await ask(page, cable.url);
    await shown(page, 60);
    let resumed = 0;
    page.on("response", (answer) => (resumed += answer.url().includes("/v1/stream/") ? 1 : 0));
    cable.pull();
    await page.getByText("No answer from the server").waitFor();
    cable.plug();
    assert.equal(await complete(page), whole);
    assert.ok(resumed > 0, "the connection was not lost");
    await close();
    cable.pull();
    cable.close();
  });

  await check("stop frees the engine", async () => {
    const { page, close } = await browser.open();
    await greedy(page);
    await ask(page);
    await shown(page, 40);
    await page.getByRole("button", { name: "Stop" }).click();
    await idle();
    const answer = await until(async () => {
      const now = await kept(page);
      return now?.finish === "stopped" && now;
    }, "the answer is marked");
    assert.ok(whole.startsWith(answer.content) && answer.content.length < whole.length);
    await close();
  });

  await check("a request is cancelled from the list", async () => {
    const { page, close } = await browser.open();
    const body = { ...GREEDY, max_tokens: 4000, messages: [{ role: "user", content: QUESTION }] };
    const headers = { "content-type": "application/json" };
    const asked = fetch(`${url}/v1/chat/completions`, {
      method: "POST", headers, body: JSON.stringify(body),
    });
    await page.goto(`${url}/#/requests`);
    await page.getByRole("button", { name: /^Cancel OpenAI chat/ }).click();
    assert.equal((await asked).status, 503);
    await idle();
    await page.getByText("Nothing is under way.").waitFor();
    await close();
  });

  await check("with the keyboard alone", async () => {
    const { page, close } = await browser.open();
    await greedy(page);
    await page.goto(url);
    await page.getByRole("heading", { name: "Machines" }).waitFor();
    const focused = () => page.evaluate(() => {
      const { activeElement: element } = document;
      const style = getComputedStyle(element);
      return {
        name: element.getAttribute("aria-label") ?? element.textContent.trim(),
        visible: style.outlineStyle !== "none" || element.tagName === "MAIN",
      };
    });
    const tabTo = async (name) => {
      for (let presses = 0; presses < 30; presses++) {
        await page.keyboard.press("Tab");
        const now = await focused();
        assert.ok(now.visible, `no outline around ${now.name}`);
        if (now.name === name) return;
      }
      assert.fail(`Tab does not come to ${name}`);
    };
    // Another page takes the focus to its beginning; what had it on the page before is gone.
    const follow = async (heading) => {
      await page.keyboard.press("Enter");
      await page.getByRole("heading", { name: heading }).first().waitFor();
      await page.waitForFunction(() => document.activeElement?.id === "main");
    };
    await tabTo("Skip to the content");
    await tabTo("Requests");
    await follow("Requests");
    await page.keyboard.press("Shift+Tab");
    assert.equal((await focused()).name, "Chat");
    await follow("New conversation");
    await tabTo("Parameters");
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.closest("dialog") !== null), true);
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "detached" });
    assert.equal((await focused()).name, "Parameters");
    await tabTo("Message");
    await page.keyboard.type(QUESTION);
    await page.keyboard.press("Enter");
    await shown(page, 40);
    await page.keyboard.press("Escape");
    await idle();
    await close();
  });

  await check("an engine is killed: a new epoch, and the chat goes on", async () => {
    const { page, seen, close } = await browser.open();
    await greedy(page);
    const before = await json(`${url}/cluster`);
    await ask(page);
    await shown(page, 60);
    process.kill(before.ranks[1].pid, "SIGKILL");
    await page.getByText("Not serving").waitFor();
    assert.equal(await complete(page, 90), whole);
    await page.getByRole("link", { name: "Cluster" }).click();
    const past = page.getByRole("group", { name: "Epochs that are over" }).locator("tbody tr");
    await past.first().waitFor();
    const told = await past.first().textContent();
    const { epoch, history } = await json(`${url}/cluster`);
    assert.equal(epoch, before.epoch + 1);
    assert.ok(history.at(-1).recovery_seconds > 0);
    assert.match(told, new RegExp(`^${before.epoch}2`));
    assert.match(history.at(-1).reason, /rank 1/);
    assert.ok(told.endsWith(history.at(-1).reason));
    assert.deepEqual(seen.errors, []);
    await close();
    return `recovery ${history.at(-1).recovery_seconds.toFixed(1)} s`;
  });

  await check("every page at 360 and 1440 px, light and dark: axe-core finds nothing", () =>
    everyPageIsInOrder(browser, url, async (page, name) => {
      const mark = {
        cluster: ".card", requests: ".segments b:not(:empty)", charts: "figure.chart path",
        models: ".model", chat: ".composer",
      };
      await page.locator(mark[name]).first().waitFor({ state: "attached" });
    }),
  );
});
finish();
