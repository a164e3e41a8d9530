// What each recent request found in the cache, and why not more, in words.
import { ago, byId, count, duration, h, plural, visible } from "./base.js";

const kSources = [
  ["shared", "shared", "whole blocks that others use or used too"],
  ["tail", "tail", "the last block of a finished request, taken over"],
  ["copied", "copied", "the matching part of a block, copied"],
];

const quoted = (text) => `“${visible(text)}”`;

function why(request) {
  const reused = request.found.shared + request.found.tail + request.found.copied;
  const differs = request.differs === null ? "" : request.cached === null
    ? ` The first token not found is ${quoted(request.differs)}.`
    : ` Then the prompt goes on with ${quoted(request.differs)} where the cache has ${quoted(request.cached)}.`;
  const gone = request.gone > 0 ? ` ${plural(request.gone, "more token")} would have been found${request.gone_age_ms === null ? "" : `, last used ${ago(request.gone_age_ms / 1000)}`}.` : "";
  switch (request.reason) {
    case "none": return reused > 0 ? "Everything that can be reused was found; the last prompt token is always computed." : "There was nothing to reuse: a prompt of one token.";
    case "never_seen": return (reused > 0 ? `The cache knows the first ${plural(reused, "token")}.` : "The cache has seen nothing that begins like this.") + differs;
    case "evicted": return `The rest was here and had to make room.${gone}${differs}`;
    case "expired": return `The rest was here until its time to live was over.${gone}${differs}`;
    case "cleared": return `The rest was here until the cache was emptied.${gone}${differs}`;
    case "below_window": return "The rest is here, but not all that the sliding window needs to go on after it.";
    case "other_salt": return `The rest is here under another salt, which is not shared.${differs}`;
    case "no_room": return "The rest is here, but no block was free for a copy of it.";
    case "tier_failed": return "The rest was in the tier, which lost or damaged it.";
    case "cache_off": return "The cache keeps nothing.";
    default: return request.reason;
  }
}

function promptBar(request) {
  const all = Math.max(1, request.prompt_tokens);
  const parts = kSources.map(([name]) => [name, request.found[name]]);
  const label = [...parts.filter(([, n]) => n > 0).map(([name, n]) => `${count(n)} ${name}`),
                 `${count(request.prompt_tokens - request.cached_tokens)} computed`].join(", ");
  return h("div", {}, h("div", { class: "prompt-bar", role: "img", "aria-label": label },
             parts.filter(([, n]) => n > 0).map(([name, n]) => h("span", { class: name, style: { width: `${(100 * n) / all}%` } }))),
           h("p", { class: "small" }, label,
             request.found.from_tier > 0 && `; ${count(request.found.from_tier)} of them brought back from a tier`,
             request.found.waited_for > 0 && `; waited for ${count(request.found.waited_for)} that another request was computing`));
}

function element(request) {
  const facts = [new Date(request.ended_ms).toLocaleTimeString("en-GB"), request.tenant, request.path,
                 request.first_token_ms !== null && `first token ${duration(request.first_token_ms / 1000)}`,
                 `${plural(request.completion_tokens, "token")}${request.decode_tokens_per_s > 0 ? ` at ${count(request.decode_tokens_per_s)}/s` : ""}`,
                 request.preemptions > 0 && plural(request.preemptions, "preemption"), request.finish].filter(Boolean);
  return h("li", { class: "request", "data-number": request.number },
    h("p", { class: "request-head" }, h("b", {}, request.prompt_tokens > 0 ? `${Math.round((100 * request.cached_tokens) / request.prompt_tokens)} %` : "–"),
      h("span", {}, `${count(request.cached_tokens)} of ${plural(request.prompt_tokens, "prompt token")}`),
      h("span", { class: "small muted" }, facts.join(" · "))),
    promptBar(request), h("p", { class: "why small" }, why(request)));
}

export function showRecent(state) {
  byId("requests-note").textContent = state.recent.length ? `last ${count(state.recent.length)}` : "";
  byId("recent").replaceChildren(...(state.recent.length ? state.recent.map(element)
    : [h("li", { class: "small muted" }, "No request has ended yet. Say something in the chat.")]));
}

export function showRunning(state) {
  byId("running").replaceChildren(...state.requests.running.map((request) => {
    const isReading = request.output_tokens === 0;
    const part = request.prompt_tokens > 0 ? (100 * request.computed_tokens) / request.prompt_tokens : 0;
    return h("li", { class: "running small" }, h("span", { class: "place" }, `place ${request.place}`),
      h("span", { class: "track", "aria-hidden": "true" }, h("span", { style: { width: `${part}%` } })),
      isReading ? `reads its prompt, ${count(request.computed_tokens)} of ${count(request.prompt_tokens)}` : `${plural(request.output_tokens, "token")} written`);
  }));
}
