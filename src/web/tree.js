// The prefix tree: cords that fork where prompts differ, with a knot for each run of blocks.
import { ago, byId, count, h, plural, visible } from "./base.js";

const kShownMax = 48;
let showsAll = false, newest = null;

// How many characters two texts share at their beginning.
function common(a, b) {
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n += 1;
  return n;
}

// What tells a run from its siblings: a block's beginning is often the same for all of them.
function distinct(run, siblings) {
  const shared = Math.max(0, ...siblings.filter((other) => other !== run).map((other) => common(run.text, other.text)));
  const start = run.text.slice(0, shared).search(/\S+\s*$/);
  return shared > 12 && start > 0 && shared < run.text.length ? `…${run.text.slice(start)}` : run.text;
}

function item(run, state, top, siblings) {
  const facts = [plural(run.tokens, "token"), run.readers > 0 && plural(run.readers, "reader"), run.pins > 0 && "pinned", run.tail && "open end",
                 `used ${ago((state.now - run.used) / 10)}`].filter(Boolean).join(" · ");
  const knot = 5 + Math.round((7 * Math.log2(1 + run.hits)) / Math.log2(1 + top));
  return h("li", { class: run.readers > 0 ? "read" : "" },
    h("div", { class: "run", style: { "--knot": `${knot}px` } },
      h("span", { class: "hits", title: "look-ups that came through here" }, plural(run.hits, "hit")),
      h("code", { title: run.text }, visible(distinct(run, siblings))), h("span", { class: "small muted" }, facts)));
}

export function showTree(state) {
  newest = state;
  const runs = state.tree;
  const top = Math.max(1, ...runs.map((run) => run.hits));
  const several = new Set(runs.map((run) => run.owner)).size > 1;
  byId("tree-note").textContent = runs.length ? `${plural(runs.length, "run")}, those used last` : "";
  if (runs.length === 0) {
    byId("tree").replaceChildren(h("p", { class: "small muted" }, "Nothing is cached yet."));
    return;
  }
  const siblings = Map.groupBy(runs, (run) => `${run.owner} ${run.parent}`);
  const roots = new Map(), lists = [];
  const shown = showsAll ? runs.length : Math.min(runs.length, kShownMax);
  for (let i = 0; i < shown; i += 1) {
    const run = runs[i];
    if (run.parent < 0 && !roots.has(run.owner)) roots.set(run.owner, h("ul", { class: "cord" }));
    const parent = run.parent < 0 ? roots.get(run.owner) : lists[run.parent].list ??= lists[run.parent].element.appendChild(h("ul", {}));
    const element = item(run, state, top, siblings.get(`${run.owner} ${run.parent}`));
    parent.append(element);
    lists.push({ element, list: null });
  }
  for (let i = 0; i < shown; i += 1) {
    const below = runs.filter((run, at) => at >= shown && run.parent === i).length + runs[i].hidden;
    if (below > 0) lists[i].element.append(h("p", { class: "small muted more" }, `${plural(below, "branch", "branches")} more`));
  }
  const parts = [...roots].flatMap(([owner, list]) => [several && h("h3", {}, state.owners[owner]?.label ?? ""), list].filter(Boolean));
  if (runs.length > kShownMax)
    parts.push(h("button", { type: "button", class: "quiet", onclick: () => { showsAll = !showsAll; showTree(newest); } }, showsAll ? "Show fewer" : `Show all ${count(runs.length)}`));
  byId("tree").replaceChildren(...parts);
}
