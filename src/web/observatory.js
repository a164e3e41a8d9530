// The observatory: reads the one stream of cache changes and hands it to the panels. It is open only
// while the view is shown, so that an unwatched server has nothing to tell.
import { ServerError, byId, bytes, call, count, duration, h, percent, plural } from "./base.js";
import * as charts from "./chart.js";
import * as map from "./map.js";
import { showRecent, showRunning } from "./requests.js";
import { events } from "./stream.js";
import { showTree } from "./tree.js";

const kRetryMs = 2000;
const kRecentMax = 64;

let wanted = false, abort = null;
let state = null;  // the newest of everything that was told

function merge(told) {
  const groups = told.groups.map((group, i) => {
    if (group.cells) return group;
    const cells = state.groups[i].cells;
    for (const [index, ...cell] of group.changed) cells[index] = cell;
    return { ...group, cells };
  });
  const recent = [...(told.recent ?? []).reverse(), ...(state?.recent ?? [])].slice(0, kRecentMax);
  state = { ...state, ...told, groups, recent };
}

function setState(text, isProblem = false) {
  const note = byId("cache-state");
  note.hidden = !text;
  note.textContent = text;
  note.classList.toggle("problem", isProblem);
  byId("cache-panels").classList.toggle("stale", isProblem);
}

function tile(label, value, note) {
  return h("div", { class: "tile" }, h("span", { class: "label" }, label), h("span", { class: "value" }, value), h("span", { class: "note" }, note));
}

const showsAll = () => state.scope === "all";

// What a tenant can be told: of its own requests only.
function showOwnTiles() {
  const { recent, requests } = state;
  let held = 0, total = 0;
  for (const group of state.groups) {
    total += group.total;
    held += group.total - group.states[0];
  }
  const sum = (name) => recent.reduce((all, request) => all + request[name], 0);
  byId("tiles").replaceChildren(
    tile("Prompts from cache", percent(sum("cached_tokens"), sum("prompt_tokens")), `${count(sum("cached_tokens"))} of ${plural(sum("prompt_tokens"), "token")}, of the requests below`),
    tile("Your blocks", percent(held, total), `${count(held)} of ${count(total)} in the pool`),
    tile("Running", count(requests.running.length), `${count(requests.waiting)} waiting`));
}

function showTiles() {
  const { counters, requests } = state;
  let held = 0, total = 0;
  for (const group of state.groups) {
    total += group.total;
    held += group.total - group.states[0];
  }
  const [between, tokens] = state.latency.between_tokens;
  byId("tiles").replaceChildren(
    tile("Prompts from cache", percent(counters.tokens_reused, counters.tokens_looked_up), `${count(counters.tokens_reused)} of ${plural(counters.tokens_looked_up, "token")}`),
    tile("Look-ups with a hit", percent(counters.lookups_hit, counters.lookups), `${count(counters.lookups_hit)} of ${count(counters.lookups)}`),
    tile("Blocks held", percent(held, total), `${count(held)} of ${count(total)}`),
    tile("Running", count(requests.running.length), `${count(requests.waiting)} waiting`),
    tile("Between tokens", tokens ? duration(between / tokens) : "none yet", `${plural(counters.generated_tokens, "token")} written`),
    tile("Evicted", count(counters.blocks_evicted), `policy ${state.policy}`));
}

// ---- memory

function bar(label, value, all, note, color) {
  const part = all > 0 ? Math.min(100, (100 * value) / all) : 0;
  return h("li", { class: "usage" }, h("span", { class: "label" }, label),
           h("span", { class: "track", "aria-hidden": "true" }, h("span", { style: { width: `${part}%`, background: color ?? "var(--accent)" } })),
           h("span", { class: "value" }, note));
}

function showMemory() {
  const formats = new Map();
  let held = 0, all = 0;
  for (const group of state.groups) {
    const blocks = group.total - group.states[0];
    held += blocks * group.block_bytes;
    all += group.total * group.block_bytes;
    for (const [name, size] of Object.entries(group.format_bytes)) {
      const sum = formats.get(name) ?? [0, 0];
      formats.set(name, [sum[0] + blocks * size, sum[1] + group.total * size]);
    }
  }
  const tiers = [bar("memory", held, all, `${bytes(held)} of ${bytes(all)}`)];
  if (state.tier) tiers.push(bar("host, compact", state.tier.bytes, state.tier.capacity_bytes, `${bytes(state.tier.bytes)} of ${bytes(state.tier.capacity_bytes)}, ${plural(state.tier.blocks, "block")}`));
  const owners = state.owners.map((owner, i) => bar(owner.label, owner.bytes, all, `${bytes(owner.bytes)}, ${plural(owner.blocks, "block")}`, map.ownerColor(i)));
  byId("memory").replaceChildren(
    h("h3", {}, "By tier"), h("ul", { class: "usages" }, tiers),
    h("h3", {}, "By format"), h("ul", { class: "usages" }, [...formats].map(([name, [part, whole]]) => bar(name, part, whole, `${bytes(part)} of ${bytes(whole)}`))),
    h("h3", {}, "By salt"), owners.length ? h("ul", { class: "usages" }, owners) : h("p", { class: "small muted" }, "Nothing is kept yet."),
    h("p", { class: "small muted" }, `A block holds ${state.block_tokens} tokens.${showsAll() ? ` Bookkeeping: ${bytes(state.index_bytes)}.` : ""}`));
}

function showAll(told) {
  byId("charts-panel").hidden = !showsAll();
  byId("scope-note").hidden = showsAll();
  if (showsAll()) showTiles();
  else showOwnTiles();
  map.show(state);
  showMemory();
  if (showsAll()) charts.add(state);
  showRunning(state);
  if (told.recent?.length || !byId("recent").childElementCount) showRecent(state);
  if (told.tree) showTree(state);
}

// ---- the stream

async function read(signal) {
  const response = await call("/v1/kv/events", { signal });
  for await (const { event, data } of events(response)) {
    if (event === "end") throw new ServerError(503, "The server is shutting down.");
    const told = JSON.parse(data);
    if (event === "snapshot") {
      state = null;
      charts.reset();
      map.reset();
    }
    merge(told);
    setState("");
    byId("cache-panels").hidden = false;
    showAll(told);
  }
  throw new ServerError(0, "The stream broke off.");
}

async function run(signal) {
  while (!signal.aborted) {
    try {
      await read(signal);
    } catch (error) {
      if (signal.aborted) return;
      const message = error instanceof ServerError ? error.message : "The stream broke off.";
      const locked = error.status === 401;
      setState(locked ? "An API key is needed to see the cache." : `${message} Trying again; what is shown below is from before.`, true);
      if (!state) byId("cache-panels").hidden = true;
      if (locked) return;
    }
    await new Promise((resolve) => { setTimeout(resolve, kRetryMs); });
  }
}

function begin() {
  if (abort) return;
  abort = new AbortController();
  if (!state) setState("Loading.");
  run(abort.signal);
}

function stop() {
  abort?.abort();
  abort = null;
}

export function show() {
  wanted = true;
  begin();
}
export function hide() {
  wanted = false;
  stop();
}
export function restart() {
  stop();
  if (wanted) begin();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) stop();
  else if (wanted) begin();
});
