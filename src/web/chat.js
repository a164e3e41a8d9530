// The chat: streams replies, and lets a conversation be edited, retried and branched.
import { ServerError, byId, call, count, duration, h, plural } from "./base.js";
import * as store from "./store.js";
import { events } from "./stream.js";

// Left empty, a field is not sent and the server's own default holds.
const kFields = [
  { name: "system", label: "System prompt", type: "text", wide: true },
  { name: "temperature", label: "Temperature", step: 0.1, min: 0, max: 100, initial: "0.7" },
  { name: "top_p", label: "Top p", step: 0.05, min: 0, max: 1 },
  { name: "top_k", label: "Top k", step: 1, min: 0 },
  { name: "min_p", label: "Min p", step: 0.01, min: 0, max: 1 },
  { name: "repetition_penalty", label: "Repetition penalty", step: 0.05, min: 0.01 },
  { name: "max_tokens", label: "Tokens at most", step: 1, min: 1, initial: "256" },
  { name: "seed", label: "Seed", step: 1, min: 0 },
];
const kSettings = "quipu.sampling";

let conversation = store.newConversation();
let running = null;  // {index, abort} of the reply that is being written
let editing = -1;    // the message that is being edited
let notKept = false;

// ---- settings

function settings() {
  try { return JSON.parse(localStorage.getItem(kSettings)) ?? {}; } catch { return {}; }
}

function buildSettings() {
  const kept = settings();
  for (const field of kFields) {
    const id = `sampling-${field.name}`;
    const input = h("input", { id, type: field.type ?? "number", step: field.step ?? "any", min: field.min ?? "",
                               max: field.max ?? "", placeholder: "default", value: kept[field.name] ?? field.initial ?? "" });
    byId("sampling-fields").append(h("div", { class: field.wide ? "wide" : "" }, h("label", { htmlFor: id }, field.label), input));
    input.addEventListener("change", () => {
      try { localStorage.setItem(kSettings, JSON.stringify({ ...settings(), [field.name]: input.value })); } catch { notKept = true; }
    });
  }
}

function requestBody(messages) {
  const body = { messages, stream: true, stream_options: { include_usage: true } };
  for (const field of kFields) {
    const value = byId(`sampling-${field.name}`).value.trim();
    if (value === "") continue;
    if (field.name === "system") body.messages = [{ role: "system", content: value }, ...messages];
    else body[field.name] = Number(value);
  }
  return body;
}

// ---- running

// Writes the reply to the message `parent` into a new node.
async function reply(parent) {
  const shown = [];
  for (let at = parent; at >= 0; at = conversation.nodes[at].parent)
    shown.unshift({ role: conversation.nodes[at].role, content: conversation.nodes[at].text });
  const current = conversation;
  const index = store.add(current, parent, "assistant", "");
  const node = current.nodes[index];
  const abort = new AbortController();
  running = { index, abort, conversation: current };
  showMessages();
  const begin = performance.now();
  let first = 0, last = 0;
  try {
    const response = await call("/v1/chat/completions", { body: requestBody(shown), signal: abort.signal });
    for await (const { data } of events(response)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(500, chunk.error.message);
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) {
        last = performance.now();
        first ||= last;
        node.text += choice.delta.content;
        showText(index);
      }
      if (choice?.finish_reason) node.finish = choice.finish_reason;
      if (chunk.usage) {
        node.prompt = chunk.usage.prompt_tokens;
        node.cached = chunk.usage.prompt_tokens_details?.cached_tokens ?? 0;
        node.tokens = chunk.usage.completion_tokens;
      }
    }
    if (!node.finish) node.error = "The stream broke off.";
  } catch (error) {
    if (abort.signal.aborted) node.finish = "stopped";
    else node.error = error instanceof ServerError ? error.message : "The stream broke off.";
  }
  if (first) {
    node.first_s = (first - begin) / 1000;
    node.decode_s = (last - first) / 1000;
  }
  running = null;
  keep(current);
  showMessages();
  byId("prompt").focus({ preventScroll: true });
}

function send(text) {
  const path = store.path(conversation);
  const parent = path.length ? path[path.length - 1] : -1;
  const index = store.add(conversation, parent, "user", text);
  keep(conversation);
  reply(index);
}

function keep(which) {
  notKept = !store.save(which);
  showList();
}

// ---- showing

// "16 of 17 prompt tokens from the cache · first token after 40 ms · 48 tokens, 90 a second"
function metaOf(node) {
  const parts = [];
  if (node.prompt !== undefined) {
    parts.push(h("span", { class: "cached" },
      h("span", { class: "meter", style: { "--part": `${(100 * node.cached) / node.prompt}%` }, "aria-hidden": "true" }),
      `${count(node.cached)} of ${plural(node.prompt, "prompt token")} from cache`));
  }
  if (node.first_s !== undefined) parts.push(h("span", { title: "from sending to the first text, in this browser" }, `first text ${duration(node.first_s)}`));
  if (node.tokens !== undefined) {
    const rate = node.tokens > 1 && node.decode_s > 0 ? `, ${count((node.tokens - 1) / node.decode_s)}/s` : "";
    parts.push(h("span", {}, `${plural(node.tokens, "token")}${rate}`));
  }
  if (node.finish === "length") parts.push(h("span", {}, "ended at the limit"));
  if (node.finish === "stopped") parts.push(h("span", {}, "stopped"));
  return parts.length ? h("p", { class: "meta" }, parts) : null;
}

function branchControl(index) {
  const siblings = store.siblings(conversation, index);
  if (siblings.length < 2) return null;
  const at = siblings.indexOf(index);
  const step = (to, label, sign) => h("button", { type: "button", class: "quiet", "aria-label": label, disabled: to < 0 || to >= siblings.length || !!running,
    onclick: () => { store.choose(conversation, siblings[to]); keep(conversation); showMessages(); } }, sign);
  return h("span", { class: "branches" }, step(at - 1, "Previous branch", "‹"),
           h("span", { "aria-label": `Branch ${at + 1} of ${siblings.length}` }, `${at + 1}/${siblings.length}`), step(at + 1, "Next branch", "›"));
}

function editor(index) {
  const node = conversation.nodes[index];
  const area = h("textarea", { rows: Math.min(8, node.text.split("\n").length + 1), value: node.text, "aria-label": "Edited message" });
  const done = () => { editing = -1; showMessages(); };
  const form = h("form", { class: "editor" }, area, h("div", { class: "row end" },
    h("button", { type: "button", class: "quiet", onclick: done }, "Cancel"),
    h("button", { type: "submit", class: "strong" }, "Send as a new branch")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (running || !area.value.trim()) return;
    editing = -1;
    const added = store.add(conversation, node.parent, "user", area.value.trim());
    keep(conversation);
    reply(added);
  });
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") done();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
  });
  queueMicrotask(() => area.focus());
  return form;
}

function messageElement(index) {
  const node = conversation.nodes[index];
  const busy = running?.conversation === conversation && running.index === index;
  const isUser = node.role === "user";
  const tools = h("div", { class: "tools" }, branchControl(index),
    !busy && isUser && h("button", { type: "button", class: "quiet", disabled: !!running, onclick: () => { editing = index; showMessages(); } }, "Edit"),
    !busy && !isUser && h("button", { type: "button", class: "quiet", disabled: !!running, onclick: () => reply(node.parent) }, "Retry"),
    !busy && node.text && h("button", { type: "button", class: "quiet", onclick: (event) => copy(node.text, event.target) }, "Copy"));
  return h("article", { class: `message ${node.role}${busy ? " busy" : ""}`, id: `message-${index}`, "aria-busy": busy ? "true" : null,
                        "aria-label": isUser ? "You" : "Reply" },
    editing === index ? editor(index) : h("div", { class: "text" }, node.text),
    node.error && h("p", { class: "problem", role: "alert" }, node.error),
    !isUser && metaOf(node), editing === index ? null : tools);
}

async function copy(text, button) {
  let said = "Copied";
  try { await navigator.clipboard.writeText(text); } catch { said = "Not allowed"; }
  button.textContent = said;
  setTimeout(() => { button.textContent = "Copy"; }, 1200);
}

const box = () => byId("messages");
const atEnd = () => box().scrollHeight - box().scrollTop - box().clientHeight < 60;

function showText(index) {
  if (running?.conversation !== conversation) return;
  const stick = atEnd();
  const element = byId(`message-${index}`)?.querySelector(".text");
  if (element) element.textContent = conversation.nodes[index].text;
  if (stick) box().scrollTop = box().scrollHeight;
}

function showMessages() {
  const stick = atEnd();
  const top = box().scrollTop;
  const path = store.path(conversation);
  const empty = h("div", { class: "empty" }, h("p", {}, "Nothing said yet."),
    h("p", { class: "muted" }, "Each reply shows how much of its prompt came from the cache. Edit a message to branch: what both branches share is not computed again."));
  box().replaceChildren(...(path.length ? path.map(messageElement) : [empty]));
  if (notKept) box().append(h("p", { class: "problem" }, "This browser has no room to keep the conversation: it will be gone when the page closes."));
  box().scrollTop = stick ? box().scrollHeight : top;
  byId("send").hidden = !!running;
  byId("stop").hidden = !running;
}

function showList() {
  const list = store.all();
  byId("conversation-list").replaceChildren(...list.map((one) => h("li", {},
    h("button", { type: "button", class: "pick", "aria-current": one.id === conversation.id ? "true" : null, disabled: !!running,
                  onclick: () => open(one) }, one.title || "untitled"),
    h("button", { type: "button", class: "quiet", "aria-label": `Delete ${one.title || "untitled"}`, disabled: !!running,
                  onclick: () => { store.remove(one); if (one.id === conversation.id) open(store.newConversation()); else showList(); } }, "×"))));
}

function open(which) {
  conversation = which;
  editing = -1;
  showList();
  showMessages();
  box().scrollTop = box().scrollHeight;
}

export function start() {
  buildSettings();
  const wide = matchMedia("(min-width: 760px)");
  byId("conversation-box").open = wide.matches;
  wide.addEventListener("change", () => { byId("conversation-box").open = wide.matches; });
  open(store.all()[0] ?? conversation);
  byId("new-chat").addEventListener("click", () => { if (!running) { open(store.newConversation()); byId("prompt").focus(); } });
  byId("stop").addEventListener("click", () => running?.abort.abort());
  const area = byId("prompt");
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = area.value.trim();
    if (!text || running) return;
    area.value = "";
    send(text);
  });
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      byId("composer").requestSubmit();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running && !byId("key-dialog").open) running.abort.abort();
  });
}
