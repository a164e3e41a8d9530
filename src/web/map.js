// The block pool as a map: a cell for each block, or for a run of them where the pool is large.
import { ago, byId, count, h, plural } from "./base.js";

// As the server lists them. In a cell: five counts by state, then readers, hits, last use, owner.
const kStates = [
  ["free", "free", "holds nothing"],
  ["open", "open", "being written"],
  ["closed", "in use", "full, and read by a running request"],
  ["cached", "cached", "kept for later, may be evicted"],
  ["in_flight", "in flight", "on its way from a tier"],
];
const kUsers = 5, kHits = 6, kUsed = 7, kOwner = 8;
const kFadeMs = 900;
const kOwnerHues = [205, 28, 150, 280, 95, 335, 180, 55, 250, 10, 120, 305];

let maps = [];   // one per group of layers: {canvas, cells, flash, ...}
let state = null, fading = false;

const still = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const ownerColor = (owner) => `hsl(${kOwnerHues[owner % kOwnerHues.length]} ${dark.matches ? "45% 58%" : "45% 46%"})`;

let palette = {};
function readPalette() {
  palette = { flash: color("--ink"), focus: color("--accent"), scale: [] };
  for (const [name] of kStates) palette[name] = color(`--state-${name}`);
  for (let i = 0; i < 6; i += 1) palette.scale.push(color(`--scale-${i}`));
}

const scale = (part) => palette.scale[Math.max(0, Math.min(5, Math.round(part * 5)))];
const log2part = (value, top) => Math.log2(1 + value) / Math.log2(1 + top);

// The colours of a cell from top to bottom: [[colour, part], ...].
function paint(cell, mode) {
  const all = cell[0] + cell[1] + cell[2] + cell[3] + cell[4];
  const held = all - cell[0];
  if (mode === "state") return kStates.map(([name], i) => [palette[name], cell[i] / all]).filter(([, part]) => part > 0);
  if (held === 0) return [[palette.free, 1]];
  let shown = palette.closed;
  if (mode === "owner") shown = cell[kOwner] < 0 ? palette.free : ownerColor(cell[kOwner]);
  else if (mode === "users") shown = scale(log2part(cell[kUsers], 16));
  else if (mode === "hits") shown = scale(log2part(cell[kHits], 64));
  else if (mode === "age") shown = cell[kUsed] ? scale(1 - log2part((state.now - cell[kUsed]) / 10, 600)) : palette.free;
  return [[palette.free, cell[0] / all], [shown, held / all]].filter(([, part]) => part > 0);
}

function describe(map, index) {
  const cell = map.cells[index];
  const first = index * map.group.blocks_per_cell;
  const last = Math.min(map.group.total, first + map.group.blocks_per_cell) - 1;
  const parts = [];
  if (first === last) {
    const [, name, meaning] = kStates[cell.findIndex((value, i) => i < 5 && value > 0)];
    parts.push(`Block ${count(first)}: ${name} (${meaning})`);
  } else {
    parts.push(`Blocks ${count(first)} to ${count(last)}: ${kStates.map(([, name], i) => cell[i] && `${count(cell[i])} ${name}`).filter(Boolean).join(", ")}`);
  }
  if (cell[kUsers]) parts.push(plural(cell[kUsers], "reader"));
  if (cell[kHits]) parts.push(plural(cell[kHits], "hit"));
  if (cell[kUsed]) parts.push(`used ${ago((state.now - cell[kUsed]) / 10)}`);
  if (cell[kOwner] >= 0) parts.push(state.owners[cell[kOwner]]?.label ?? "");
  return parts.join(", ");
}

function layout(map) {
  const width = map.canvas.parentElement.clientWidth;
  let size = 20;
  while (size > 4 && Math.ceil(map.cells.length / Math.floor(width / size)) * size > 300) size -= 1;
  const columns = Math.max(1, Math.floor(width / size));
  const rows = Math.ceil(map.cells.length / columns);
  const ratio = window.devicePixelRatio || 1;
  Object.assign(map, { size, columns, width });
  map.canvas.width = Math.round(width * ratio);
  map.canvas.height = Math.round(rows * size * ratio);
  map.canvas.style.height = `${rows * size}px`;
  map.context.setTransform(ratio, 0, 0, ratio, 0, 0);
}

function draw(map) {
  if (map.canvas.parentElement.clientWidth !== map.width) layout(map);
  const { context, size, columns } = map;
  const mode = byId("map-mode").value;
  const now = performance.now();
  const inner = size - (size > 6 ? 2 : 1);
  context.clearRect(0, 0, map.canvas.width, map.canvas.height);
  map.cells.forEach((cell, index) => {
    const x = (index % columns) * size;
    let y = Math.floor(index / columns) * size;
    const top = y;
    for (const [shown, part] of paint(cell, mode)) {
      context.fillStyle = shown;
      context.fillRect(x, y, inner, inner * part);
      y += inner * part;
    }
    const since = now - map.flash[index];
    if (since < kFadeMs && !still.matches) {
      context.globalAlpha = 0.75 * (1 - since / kFadeMs);
      context.strokeStyle = palette.flash;
      context.strokeRect(x + 0.5, top + 0.5, inner - 1, inner - 1);
      context.globalAlpha = 1;
      fading = true;
    }
  });
  if (map.at >= 0) {
    context.strokeStyle = palette.focus;
    context.lineWidth = 2;
    context.strokeRect((map.at % columns) * size, Math.floor(map.at / columns) * size, inner, inner);
    context.lineWidth = 1;
  }
}

let asked = false;
function drawSoon() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = fading = false;
    maps.forEach(draw);
    if (fading) drawSoon();
  });
}

function point(map, index) {
  if (index < 0 || index >= map.cells.length) return;
  map.at = index;
  byId("map-detail").textContent = describe(map, index);
  drawSoon();
}

function build() {
  maps = state.groups.map((group, i) => {
    const canvas = h("canvas", { class: "map", tabIndex: 0, role: "img" });
    const legend = h("ul", { class: "legend" });
    const layers = group.window ? `${plural(group.layers, "layer")} with a window of ${count(group.window)}` : plural(group.layers, "layer");
    const title = state.groups.length > 1 ? h("h3", {}, layers) : null;
    const map = { group, canvas, legend, title, cells: group.cells, flash: new Float64Array(group.cells.length).fill(-1e9), at: -1,
                  context: canvas.getContext("2d"), width: 0, index: i };
    canvas.addEventListener("pointermove", (event) => {
      const column = Math.floor(event.offsetX / map.size);
      if (column < map.columns) point(map, Math.floor(event.offsetY / map.size) * map.columns + column);
    });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -map.columns, ArrowDown: map.columns }[event.key];
      if (!step) return;
      event.preventDefault();
      point(map, map.at < 0 ? 0 : map.at + step);
    });
    const leave = () => { map.at = -1; drawSoon(); };
    canvas.addEventListener("pointerleave", leave);
    canvas.addEventListener("blur", leave);
    return map;
  });
  byId("maps").replaceChildren(...maps.flatMap((map) => [map.title, h("div", { class: "map-box" }, map.canvas), map.legend].filter(Boolean)));
}

function showLegend(map) {
  const mode = byId("map-mode").value;
  const { states, total, blocks_per_cell: per } = map.group;
  const item = (shown, label, value, name, title) => h("li", { title, "data-state": name },
    h("span", { class: "swatch", style: { background: shown } }), label, value === undefined ? null : h("b", {}, count(value)));
  let items;
  if (mode === "state") items = kStates.map(([name, label, meaning], i) => item(palette[name], label, states[i], name, meaning));
  else if (mode === "owner") items = state.owners.map((owner, i) => item(ownerColor(i), owner.label, owner.blocks));
  else {
    const [low, high] = { age: ["10 min ago or more", "just now"], users: ["no reader", "16 or more"], hits: ["no hit", "64 or more"] }[mode];
    items = [h("li", {}, low), h("li", { class: "ramp", "aria-hidden": "true" }, palette.scale.map((shown) => h("span", { style: { background: shown } }))), h("li", {}, high)];
  }
  items.push(h("li", { class: "total", "data-total": total }, per > 1 ? `${count(per)} blocks to a cell, ${count(total)} in all` : `${count(total)} blocks`));
  map.legend.replaceChildren(...items);
  map.canvas.setAttribute("aria-label", `Map of ${plural(total, "block")}: ${kStates.map(([, name], i) => `${count(states[i])} ${name}`).join(", ")}`);
}

export function reset() { maps = []; }

export function show(newest) {
  state = newest;
  readPalette();
  if (maps.length === 0) build();
  const now = performance.now();
  maps.forEach((map, i) => {
    map.group = state.groups[i];
    for (const [index] of map.group.changed ?? []) map.flash[index] = now;
    map.cells = map.group.cells;
    showLegend(map);
    if (map.at >= 0) byId("map-detail").textContent = describe(map, map.at);
  });
  drawSoon();
}

const redraw = () => { if (state && maps.length) show({ ...state, groups: state.groups.map((group) => ({ ...group, changed: [] })) }); };
byId("map-mode").addEventListener("change", redraw);
dark.addEventListener("change", redraw);
new ResizeObserver(redraw).observe(byId("maps"));
