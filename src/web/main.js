// Which view is shown, how the server is, and the key it may need.
import { ServerError, byId, call, key } from "./base.js";
import * as chat from "./chat.js";
import * as observatory from "./observatory.js";

function show() {
  const cache = location.hash === "#cache";
  byId("view-chat").hidden = cache;
  byId("view-cache").hidden = !cache;
  for (const [id, on] of [["tab-chat", !cache], ["tab-cache", cache]]) {
    if (on) byId(id).setAttribute("aria-current", "page");
    else byId(id).removeAttribute("aria-current");
  }
  document.title = cache ? "quipu: cache" : "quipu";
  if (cache) observatory.show();
  else observatory.hide();
}

function setServer(state, text) {
  byId("server").dataset.state = state;
  byId("server").querySelector(".text").textContent = text;
}

let model = "";
async function check() {
  try {
    if (!model) model = (await (await call("/v1/models")).json()).data[0].id;
    else await call("/health");
    setServer("up", model);
  } catch (error) {
    const status = error instanceof ServerError ? error.status : 0;
    if (status === 401) setServer("locked", "needs a key");
    else if (status === 503) setServer("down", "shutting down");
    else setServer("down", "server gone");
  }
}

function watchKey() {
  const dialog = byId("key-dialog");
  const ask = () => {
    byId("key-button").hidden = false;
    if (dialog.open) return;
    byId("key-note").textContent = key.get() ? "The server does not know the key you gave." : "It stays in this tab, until you close it.";
    byId("key-field").value = "";
    dialog.showModal();
  };
  let refused = false;
  document.addEventListener("quipu-needs-key", () => { if (!refused) ask(); });
  byId("key-button").addEventListener("click", ask);
  byId("key-cancel").addEventListener("click", () => dialog.close(""));
  dialog.addEventListener("close", () => {
    const typed = byId("key-field").value.trim();
    refused = dialog.returnValue !== "ok" || !typed;
    if (refused) return;
    key.set(typed);
    model = "";
    check().then(() => observatory.restart());
  });
}

watchKey();
chat.start();
addEventListener("hashchange", show);
show();
check();
setInterval(() => { if (!document.hidden) check(); }, 5000);
document.addEventListener("visibilitychange", () => { if (!document.hidden) check(); });
