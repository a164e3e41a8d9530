// Conversations, in this browser's local storage and nowhere else.
//
// A conversation is a tree of messages: nodes[i] = {role, text, parent, ...}, parent -1 at the top.
// `chosen` says which child is shown of each parent (by index; "-1" for the top), the last one if
// it says nothing. Editing or retrying a message adds a sibling, so nothing is ever lost, and what
// two branches share is what the server finds in its cache.

const kPrefix = "quipu.conversation.";

export function newConversation() {
  return { id: `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 6)}`, title: "", changed: Date.now(),
           nodes: [], chosen: {} };
}

export function all() {
  const list = [];
  for (let i = 0; i < localStorage.length; i += 1) {
    const name = localStorage.key(i);
    if (!name.startsWith(kPrefix)) continue;
    try {
      const conversation = JSON.parse(localStorage.getItem(name));
      if (Array.isArray(conversation?.nodes)) list.push(conversation);
    } catch { /* not ours, or damaged: left alone */ }
  }
  return list.sort((a, b) => b.changed - a.changed);
}

// False when the browser has no room, or keeps nothing.
export function save(conversation) {
  conversation.changed = Date.now();
  try {
    localStorage.setItem(kPrefix + conversation.id, JSON.stringify(conversation));
    return true;
  } catch {
    return false;
  }
}

export const remove = (conversation) => localStorage.removeItem(kPrefix + conversation.id);

export function siblings(conversation, index) {
  const parent = conversation.nodes[index].parent;
  return conversation.nodes.map((node, i) => (node.parent === parent ? i : -1)).filter((i) => i >= 0);
}

// Indices from the top to the end of what is shown.
export function path(conversation) {
  const shown = [];
  let parent = -1;
  while (true) {
    const children = conversation.nodes.map((node, i) => (node.parent === parent ? i : -1)).filter((i) => i >= 0);
    if (children.length === 0) return shown;
    const chosen = conversation.chosen[parent];
    parent = children.includes(chosen) ? chosen : children[children.length - 1];
    shown.push(parent);
  }
}

export function add(conversation, parent, role, text) {
  conversation.nodes.push({ role, text, parent });
  const index = conversation.nodes.length - 1;
  conversation.chosen[parent] = index;
  if (!conversation.title && role === "user") conversation.title = text.slice(0, 60);
  return index;
}

export function choose(conversation, index) {
  conversation.chosen[conversation.nodes[index].parent] = index;
}
