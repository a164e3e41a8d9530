// The page in a real browser against a running server with the built-in model.
// Usage: node page_test.mjs [FOLDER FOR SCREENSHOTS]. See run for the environment.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { createInterface } from "node:readline";

const { QUIPU_PROGRAM, QUIPU_WEB_DIR, QUIPU_BROWSER } = process.env;
const { chromium } = createRequire(path.join(QUIPU_WEB_DIR, "package.json"))("playwright-core");
const root = path.resolve(import.meta.dirname, "..", "..");
const shots = process.argv[2];
if (shots) mkdirSync(shots, { recursive: true });
const kPatience = 60_000;
const kKey = "sk-page-test";

async function serve(...flags) {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("QUIPU_")));
  const child = spawn(QUIPU_PROGRAM, ["serve", "-m", path.join(root, "models", "quipu-stories-q8_0.gguf"), "--port", "0", "--json",
                                      "--threads", "2", "--kv-memory", "32MiB", "--log-jsonl", "/dev/null", ...flags],
                      { env, stdio: ["ignore", "pipe", "inherit"] });
  const line = await new Promise((resolve, reject) => {
    createInterface(child.stdout).once("line", resolve);
    child.once("exit", (code) => reject(new Error(`the server ended with ${code}`)));
  });
  return { child, origin: `http://${JSON.parse(line).address}` };
}
const ended = (child) => (child.exitCode !== null ? child.exitCode : new Promise((resolve) => { child.once("exit", resolve); }));

// Everything a page does wrong, whatever the test looks at.
function watch(page, origin, faults) {
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) faults.push(`console: ${message.text()}`); });
  page.on("pageerror", (error) => faults.push(`exception: ${error.message}`));
  page.on("request", (request) => { if (!request.url().startsWith(origin)) faults.push(`another origin: ${request.url()}`); });
}

const noSidewaysScroll = async (page, where) => {
  const [inner, outer] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(inner <= outer, `${where}: ${inner} pixels wide on a screen of ${outer}`);
};
const shot = async (page, name) => { if (shots) await page.screenshot({ path: path.join(shots, `${name}.png`) }); };
const idle = (page) => page.waitForFunction(() => !document.querySelector("#send").hidden, null, { timeout: kPatience });

async function say(page, text) {
  await page.fill("#prompt", text);
  await page.press("#prompt", "Enter");
}
const metaOf = async (page) => (await page.locator(".message.assistant .meta").last().textContent());
const cachedIn = (meta) => Number(/([\d,]+) of [\d,]+ prompt tokens? from cache/.exec(meta)[1].replace(",", ""));

async function setSampling(page, values) {
  await page.locator("#sampling summary").click();
  for (const [name, value] of Object.entries(values)) {
    await page.fill(`#sampling-${name}`, value);
    await page.dispatchEvent(`#sampling-${name}`, "change");
  }
  await page.locator("#sampling summary").click();
}

// With a slow line while `work` runs: the built-in model says all it has to say before a page has looked twice.
async function slowly(page, work) {
  const line = await page.context().newCDPSession(page);
  const limit = (bytesPerSecond) => line.send("Network.emulateNetworkConditions", { offline: false, latency: 0, downloadThroughput: bytesPerSecond, uploadThroughput: -1 });
  await line.send("Network.enable");
  await limit(16 * 1024);
  try {
    return await work();
  } finally {
    await limit(-1);
    await line.detach();
  }
}

// ---- tests; each gets a page of the same browser session

async function chatStreams(page) {
  await setSampling(page, { seed: "1", max_tokens: "160" });
  const lengths = new Set();
  await slowly(page, async () => {
    await say(page, "Tell me a story about a goat.");
    while (await page.locator(".message.busy, #stop:visible").count()) {
      lengths.add((await page.locator(".message.assistant .text").last().textContent()).length);
      await page.waitForTimeout(10);
    }
  });
  assert.ok([...lengths].filter((length) => length > 0).length >= 3, `a stream grows; lengths seen: ${[...lengths]}`);
  const meta = await metaOf(page);
  assert.match(meta, /first text .*\d+ tokens, [\d,]+\/s/);
  await shot(page, "chat-first");
}

async function editBranches(page) {
  await say(page, "What happened then?");
  await idle(page);
  assert.ok(cachedIn(await metaOf(page)) > 40, "the second turn goes on from the first");
  const before = await page.locator(".message .text").allTextContents();
  await page.locator(".message.user").last().getByRole("button", { name: "Edit" }).click();
  await page.locator(".editor textarea").fill("Who else was there?");
  await page.press(".editor textarea", "Enter");
  await idle(page);
  assert.ok(cachedIn(await metaOf(page)) > 40, "a branch goes on from what both share");
  assert.equal(await page.locator(".branches").last().textContent(), "‹2/2›");
  assert.notDeepEqual(await page.locator(".message .text").allTextContents(), before);
  await page.getByRole("button", { name: "Previous branch" }).click();
  assert.deepEqual(await page.locator(".message .text").allTextContents(), before, "nothing is lost");
  await page.getByRole("button", { name: "Next branch" }).click();
  await page.reload();
  assert.equal(await page.locator(".message").count(), 4, "a conversation is kept in the browser");
  await shot(page, "chat-branch");
}

async function stopStops(page) {
  await page.locator("#new-chat").click();
  await setSampling(page, { max_tokens: "1500" });
  await slowly(page, async () => {
    await say(page, "Tell me a long story.");
    await page.waitForFunction(() => document.querySelector(".message.assistant .text")?.textContent.length > 10, null, { timeout: kPatience });
    await page.click("#stop");
    await idle(page);
  });
  assert.match(await metaOf(page), /stopped/);
}

// The counts of the legend, by state, and the total it names.
const legend = (page) => page.evaluate(() => ({
  counts: Object.fromEntries([...document.querySelectorAll("#maps .legend li[data-state]")].map((item) => [item.dataset.state, Number(item.querySelector("b").textContent.replaceAll(",", ""))])),
  total: Number(document.querySelector("#maps .legend .total").dataset.total),
}));

async function mapIsLive(page) {
  await page.goto(new URL("/#cache", page.url()).href);
  await page.waitForSelector("#cache-panels:visible", { timeout: kPatience });
  const totalsAddUp = async () => {
    const { counts, total } = await legend(page);
    assert.equal(Object.values(counts).reduce((sum, value) => sum + value, 0), total);
    return counts;
  };
  const pixels = () => page.evaluate(() => document.querySelector("canvas.map").toDataURL());
  const before = await totalsAddUp();
  const drawn = await pixels();
  assert.ok(before.cached > 0, "what the chat left is cached");
  // A request that certainly lasts for some of the map's updates: what a chat says may be over between two of them.
  const leaves = new AbortController();
  const answer = fetch(new URL("/v1/completions", page.url()), {
    method: "POST", headers: { "Content-Type": "application/json" }, signal: leaves.signal,
    body: JSON.stringify({ prompt: "Tell me about a dragon and a long journey.", max_tokens: 1900, ignore_eos: true }),
  }).catch(() => null);
  let during;
  for (let i = 0; i < 600; i += 1) {
    during = await totalsAddUp();
    if (during.open > 0 && during.free < before.free) break;  // not where a block has just closed
    await page.waitForTimeout(50);
  }
  assert.ok(during.open > 0 && during.free < before.free, `blocks are taken: ${JSON.stringify([before, during])}`);
  assert.notEqual(await pixels(), drawn, "the map is drawn anew");
  assert.ok(await page.locator("#running li").count() > 0, "the running request is shown");
  await shot(page, "cache-busy");
  leaves.abort();
  await answer;
  await page.waitForFunction(() => document.querySelectorAll("#running li").length === 0, null, { timeout: kPatience });
  const after = await totalsAddUp();
  assert.ok(after.cached > before.cached, "and kept");
  // By keyboard, and in every colouring.
  await page.focus("canvas.map");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  assert.match(await page.locator("#map-detail").textContent(), /^Block 1: /);
  for (const mode of ["age", "users", "hits", "owner", "state"]) await page.selectOption("#map-mode", mode);
}

async function requestsAreExplained(page, chatPage) {
  const told = page.locator("#recent .request").first();
  const number = Number(await told.getAttribute("data-number"));
  await chatPage.locator("#new-chat").click();
  await setSampling(chatPage, { max_tokens: "8" });
  await say(chatPage, "Tell me a story about a horse.");
  await idle(chatPage);
  await page.waitForSelector(`#recent .request[data-number="${number + 1}"]`, { timeout: kPatience });
  const text = await told.textContent();
  assert.match(text, /\d+ of \d+ prompt tokens/);
  assert.match(text, /goes on with “.+” where the cache has “.+”/, "the first token that differs, with its text");
  assert.match(await page.locator("#tree").textContent(), /goat/, "the tree shows the prompts");
  assert.ok(await page.locator("#tree ul ul .run").count() > 0, "and forks where they differ");
}

async function snapshotAddsUp(origin) {
  const snapshot = await (await fetch(`${origin}/v1/kv/snapshot`)).json();
  for (const group of snapshot.groups) {
    const sums = [0, 0, 0, 0, 0];
    for (const cell of group.cells) cell.slice(0, 5).forEach((value, i) => { sums[i] += value; });
    assert.deepEqual(sums, group.states);
    assert.equal(sums.reduce((a, b) => a + b), group.total);
  }
}

async function everySizeAndColour(browser, origin, faults, state) {
  for (const colorScheme of ["light", "dark"]) {
    for (const [name, viewport] of [["phone", { width: 360, height: 740 }], ["desktop", { width: 1280, height: 860 }]]) {
      const context = await browser.newContext({ colorScheme, viewport, storageState: state });
      const page = await context.newPage();
      watch(page, origin, faults);
      for (const view of ["chat", "cache"]) {
        await page.goto(`${origin}/#${view}`);
        await page.waitForSelector(view === "chat" ? ".message, .empty" : "#cache-panels:visible", { timeout: kPatience });
        await page.waitForFunction(() => document.querySelector("#server").dataset.state === "up");
        const dark = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
        const [red] = dark.match(/\d+/g).map(Number);
        assert.equal(red < 128, colorScheme === "dark", `${colorScheme}: ${dark}`);
        await noSidewaysScroll(page, `${view} on a ${name}`);
        const nameless = await page.evaluate(() => [...document.querySelectorAll("button, input, select, textarea, canvas, a, summary")]
          .filter((element) => !(element.getAttribute("aria-label") || element.labels?.[0]?.textContent || element.textContent.trim())).map((element) => element.outerHTML));
        assert.deepEqual(nameless, [], "everything that can be used has a name");
        if (shots) await page.waitForTimeout(view === "cache" ? 2500 : 200);
        await shot(page, `${view}-${name}-${colorScheme}`);
        if (view === "cache" && name === "phone" && shots)
          await page.evaluate(() => document.querySelector(".charts-panel").scrollIntoView()).then(() => shot(page, `${view}-${name}-${colorScheme}-more`));
      }
      await context.close();
    }
  }
}

async function headersAreStrict(origin) {
  const answer = await fetch(`${origin}/`);
  const policy = answer.headers.get("content-security-policy");
  assert.ok(policy.includes("default-src 'none'") && !policy.includes("unsafe"), policy);
  const again = await fetch(`${origin}/`, { headers: { "If-None-Match": answer.headers.get("etag") } });
  assert.equal(again.status, 304);
  assert.equal((await fetch(`${origin}/web/none.js`)).status, 404);
}

async function goneIsSaid(page, server) {
  server.child.kill("SIGTERM");
  assert.equal(await ended(server.child), 0, "a watched server drains and ends");
  await page.waitForFunction(() => /Trying again/.test(document.querySelector("#cache-state").textContent), null, { timeout: kPatience });
}

async function keysAreAskedFor(browser) {
  const server = await serve("--api-key", kKey, "--api-key", `${kKey}-other`, "--operator-key", `${kKey}-boss`);
  try {
    const context = await browser.newContext();
    const page = await context.newPage();
    await page.goto(`${server.origin}/#cache`);
    await page.waitForSelector("#key-dialog[open]", { timeout: kPatience });
    await page.fill("#key-field", kKey);
    await page.press("#key-field", "Enter");
    await page.waitForSelector("#cache-panels:visible", { timeout: kPatience });
    assert.ok(await page.locator("#scope-note").isVisible(), "a tenant is told that it sees its own");
    assert.ok(await page.locator("#charts-panel").isHidden(), "and no totals");
    // What another tenant does is not seen at all.
    const ask = (key, route, body) => fetch(server.origin + route, { method: body ? "POST" : "GET", headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" }, body });
    const secret = "The password of the lighthouse is marmalade and nobody may ever know it, not even the cat who lives there.";
    await (await ask(`${kKey}-other`, "/v1/completions", JSON.stringify({ prompt: secret, max_tokens: 40, seed: 1 }))).text();
    const seen = await (await ask(kKey, "/v1/kv/snapshot")).text();
    const told = JSON.parse(seen);
    assert.ok(!seen.includes("marmalade") && told.tree.length === 0 && told.recent.length === 0, seen);
    assert.deepEqual(told.owners, []);
    assert.equal(told.groups[0].states[0], told.groups[0].total);
    assert.ok(!("counters" in told) && !("latency" in told), "totals count others too");
    const own = await (await ask(`${kKey}-other`, "/v1/kv/snapshot")).text();
    assert.ok(own.includes("lighthouse"), "its own tree it sees");
    const all = await (await ask(`${kKey}-boss`, "/v1/kv/snapshot")).text();
    assert.ok(all.includes("lighthouse") && JSON.parse(all).counters.lookups > 0, "an operator sees all");
    // Explained from its own salts: another tenant's text never shows as what the cache has.
    const say = (key, prompt) => ask(key, "/v1/completions", JSON.stringify({ prompt, max_tokens: 1, seed: 1 })).then((answer) => answer.text());
    const [first, second] = ["cinnamon", "paprika"].map((word) => secret.replace("marmalade", word));
    await say(kKey, first);
    await say(kKey, second);
    await page.waitForSelector("#recent .request .why", { timeout: kPatience });
    await page.waitForFunction(() => /where the cache has “[^”]+”/.test(document.querySelector("#recent .request").textContent), null, { timeout: kPatience });
    assert.ok(!(await page.locator("#recent").textContent()).includes("marm"));
    assert.equal((await ask("wrong", "/v1/kv/snapshot")).status, 401);
    assert.equal((await ask("wrong", "/v1/kv/events")).status, 401);
    await context.close();
  } finally {
    server.child.kill("SIGKILL");
    await ended(server.child);
  }
}

// ---- all of them, one after the other

const browser = await chromium.launch({ executablePath: QUIPU_BROWSER, args: ["--no-sandbox"] });
const server = await serve();
const faults = [];
let failed = 0;
async function test(name, body) {
  const begin = performance.now();
  try {
    await body();
    assert.deepEqual(faults, [], "the page is quiet and stays with its server");
    console.log(`ok     ${name} (${((performance.now() - begin) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}: ${error.stack}`);
    faults.length = 0;
  }
}
try {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 } });
  const chatPage = await context.newPage(), cachePage = await context.newPage();
  watch(chatPage, server.origin, faults);
  watch(cachePage, server.origin, faults);
  await chatPage.goto(`${server.origin}/`);
  await test("headers are strict", () => headersAreStrict(server.origin));
  await test("a reply streams, with its timings", () => chatStreams(chatPage));
  await test("an edit branches, and finds what it shares in the cache", () => editBranches(chatPage));
  const state = await context.storageState();
  await test("stop stops", () => stopStops(chatPage));
  await cachePage.goto(`${server.origin}/#cache`);
  await test("the map changes while tokens are written, and adds up", () => mapIsLive(cachePage));
  await test("requests are explained", () => requestsAreExplained(cachePage, chatPage));
  await test("the snapshot adds up", () => snapshotAddsUp(server.origin));
  await test("every size and colour", () => everySizeAndColour(browser, server.origin, faults, state));
  await chatPage.close();
  cachePage.removeAllListeners("console");  // a server that is gone cannot be reached, and the browser says so
  await test("a server that is gone is said to be", () => goneIsSaid(cachePage, server));
  await context.close();
  await test("a key is asked for, and tenants see their own", () => keysAreAskedFor(browser));
} finally {
  server.child.kill("SIGKILL");
  await browser.close();
}
console.log(failed ? `${failed} failed` : "all passed");
process.exit(failed ? 1 : 0);
