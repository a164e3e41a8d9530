// Small charts of the last five minutes, drawn from the differences of what the server counts.
import { byId, count, duration, h } from "./base.js";

const kSpanS = 300, kSampleMs = 1000;
const kWidth = 300, kHeight = 64;

const per = (sum) => (now, before) => {
  const n = now.latency[sum][1] - before.latency[sum][1];
  return n > 0 ? (now.latency[sum][0] - before.latency[sum][0]) / n : null;
};
const kCharts = [
  { title: "From cache", top: 1, text: (v) => `${Math.round(100 * v)} %`,
    of: (now, before) => {
      const looked = now.counters.tokens_looked_up - before.counters.tokens_looked_up;
      return looked > 0 ? (now.counters.tokens_reused - before.counters.tokens_reused) / looked : null;
    } },
  { title: "Blocks held", top: 1, text: (v) => `${Math.round(100 * v)} %`, line: true,
    of: (now) => {
      const total = now.groups.reduce((sum, group) => sum + group.total, 0);
      return now.groups.reduce((sum, group) => sum + group.total - group.states[0], 0) / total;
    } },
  { title: "First token after", text: duration, of: per("first_token") },
  { title: "Between tokens", text: duration, of: per("between_tokens") },
  { title: "Time of a step", text: duration, of: per("step") },
  { title: "Tokens a second", text: count, line: true,
    of: (now, before, seconds) => (now.counters.tokens_out - before.counters.tokens_out) / seconds },
];

let samples = [];  // {at, values}
let before = null, beforeAt = 0;
let built = false;

const svg = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  return element;
};

function build() {
  built = true;
  byId("charts").replaceChildren(...kCharts.map((chart) => {
    chart.value = h("b", {}, "");
    chart.limit = h("span", { class: "limit" });
    chart.drawing = svg("svg", { viewBox: `0 0 ${kWidth} ${kHeight}`, preserveAspectRatio: "none", role: "img" });
    return h("figure", { class: "chart" }, h("figcaption", {}, chart.title, chart.value), h("div", { class: "plot" }, chart.drawing, chart.limit));
  }));
}

function niceTop(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

function draw(chart, which, end) {
  const points = samples.map(({ at, values }) => [kWidth * (1 - (end - at) / 1000 / kSpanS), values[which]]).filter(([x]) => x >= 0);
  const known = points.filter(([, value]) => value !== null);
  const top = chart.top ?? niceTop(Math.max(0, ...known.map(([, value]) => value)));
  const y = (value) => (kHeight - 2 - (kHeight - 6) * Math.min(1, value / top)).toFixed(1);
  const step = kWidth / kSpanS;
  let drawn = [];
  if (chart.line) {
    const path = known.map(([x, value], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y(value)}`).join("");
    if (known.length > 1) drawn = [svg("path", { d: `${path}L${known.at(-1)[0].toFixed(1)} ${kHeight}L${known[0][0].toFixed(1)} ${kHeight}Z`, class: "area" }),
                                   svg("path", { d: path, class: "line" })];
  } else {  // a mark for each second in which there was something to measure
    drawn = known.map(([x, value]) => svg("rect", { x: (x - step).toFixed(1), y: y(value), width: Math.max(1.6, step).toFixed(1),
                                                    height: (kHeight - y(value)).toFixed(1), class: "mark" }));
  }
  chart.drawing.replaceChildren(svg("path", { d: `M0 ${kHeight - 0.5}H${kWidth}`, class: "base" }), ...drawn);
  chart.limit.textContent = known.length ? chart.text(top) : "";
  const last = known.at(-1);
  chart.value.textContent = last ? chart.text(last[1]) : "–";
  chart.drawing.setAttribute("aria-label", `${chart.title}: ${chart.value.textContent}; the scale ends at ${chart.text(top)}`);
}

export function reset() {
  samples = [];
  before = null;
}

export function add(state) {
  if (!built) build();
  const now = performance.now();
  // Counted when it is written, unlike generated_tokens, which counts requests that ended.
  const tokensOut = state.latency.between_tokens[1] + state.latency.first_token[1];
  const current = { latency: state.latency, groups: state.groups, counters: { ...state.counters, tokens_out: tokensOut } };
  if (!before) {
    before = current;
    beforeAt = now;
    samples.push({ at: now, values: kCharts.map((chart) => (chart.line ? chart.of(current, current, 1) : null)) });
  } else if (now - beforeAt >= kSampleMs) {
    samples.push({ at: now, values: kCharts.map((chart) => chart.of(current, before, (now - beforeAt) / 1000)) });
    samples = samples.filter(({ at }) => now - at <= kSpanS * 1000);
    before = current;
    beforeAt = now;
  } else {
    return;
  }
  kCharts.forEach((chart, i) => draw(chart, i, now));
}
