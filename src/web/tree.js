// The prefix tree: cords that fork where prompts differ, with a knot for each run of blocks.
import { byId, count, duration, h, plural, visible } from "./base.js";

const kShownMax = 48;
let showsAll = false, newest = null;

function item(run, state, top) {
  const age = duration(Math.max(0, state.now - run.used) / 10);
  const facts = [plural(run.tokens, "token"), run.readers > 0 && plural(run.readers, "reader"), run.pins > 0 && "pinned", run.tail && "open end",
                 `used ${age} ago`].filter(Boolean).join(" · ");
  const knot = 5 + Math.round((7 * Math.log2(1 + run.hits)) / Math.log2(1 + top));
  return h("li", { class: run.readers > 0 ? "read" : "" },
    h("div", { class: "run", style: { "--knot": `${knot}px` } },
      h("span", { class: "hits", title: "look-ups that came through here" }, plural(run.hits, "hit")),
      h("code", {}, visible(run.text), run.tokens > 24 ? "…" : ""), h("span", { class: "small muted" }, facts)));
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
  const roots = new Map(), lists = [];
  const shown = showsAll ? runs.length : Math.min(runs.length, kShownMax);
  for (let i = 0; i < shown; i += 1) {
    const run = runs[i];
    if (run.parent < 0 && !roots.has(run.owner)) roots.set(run.owner, h("ul", { class: "cord" }));
    const parent = run.parent < 0 ? roots.get(run.owner) : lists[run.parent].list ??= lists[run.parent].element.appendChild(h("ul", {}));
    const element = item(run, state, top);
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
