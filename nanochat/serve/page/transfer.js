// Export and import: one conversation a line. `messages` is what `nanochat sft` reads (the shown branch, up to its last
// complete answer); `nanochat` holds the whole tree, from which the page restores it.

import { el } from "./dom.js";
import { newId } from "./store.js";

const ROLES = ["user", "assistant"];
const PARTS = ["text", "python", "python_output"];

/** Let the reader save a file with every conversation. */
export function download(store) {
  const lines = store.list().map((conversation) => `${JSON.stringify(exported(store, conversation))}\n`);
  const address = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  el("a", { href: address, download: `nanochat-${new Date().toISOString().slice(0, 10)}.jsonl` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

function exported(store, conversation) {
  return {
    messages: complete(conversation, store.path(conversation.id)),
    nanochat: { conversation, messages: store.all(conversation.id) },
  };
}

function complete(conversation, path) {
  const turns = path.map(({ role, content }) => ({ role, content }));
  const good = (message) => message?.state === "done" && message.finished !== "length";
  let count = 0;
  while (good(path[count + 1]) && hasText(path[count]) && hasText(path[count + 1])) count += 2;
  const system =
    conversation.system.trim() && count ? [{ role: "system", content: conversation.system }] : [];
  return [...system, ...turns.slice(0, count)];
}

function hasText({ content }) {
  const texts = typeof content === "string" ? [content] : content.map((part) => part.text);
  return texts.join("").trim() !== "";
}

/** Read a file into the store. Returns what to tell the reader. */
export async function importFile(store, file) {
  let [added, known] = [0, 0];
  const faults = [];
  for (const [index, line] of (await file.text()).split("\n").entries()) {
    if (!line.trim()) continue;
    try {
      const { conversation, messages } = records(JSON.parse(line));
      if (await store.restore(conversation, messages)) added++;
      else known++;
    } catch (error) {
      faults.push(`line ${index + 1}: ${error instanceof SyntaxError ? "not JSON" : error.message}`);
    }
  }
  const count = (number, name) => `${number} ${name}${number === 1 ? "" : "s"}`;
  const said = [`Imported ${count(added, "conversation")}`];
  if (known) said.push(`${known} already here`);
  if (faults.length) said.push(`${count(faults.length, "line")} left out (${faults[0]})`);
  return said.join("; ");
}

function records(value) {
  const tree = value?.nanochat;
  if (tree?.conversation && Array.isArray(tree.messages)) return restored(tree);
  const messages = Array.isArray(value) ? value : value?.messages;
  if (!Array.isArray(messages)) throw new Error("no messages");
  return foreign(messages);
}

/** Our own export: only known fields, each checked, since the file may come from anybody. */
function restored({ conversation, messages }) {
  const id = text(conversation.id, "id");
  const now = Date.now();
  const ids = new Set(messages.map((message) => text(message?.id, "id")));
  return {
    conversation: {
      id,
      title: text(conversation.title, "title"),
      named: conversation.named === true,
      system: text(conversation.system ?? "", "system"),
      chosen: Object.fromEntries(
        Object.entries(conversation.chosen ?? {}).filter(([, child]) => ids.has(child)),
      ),
      created: Number(conversation.created) || now,
      updated: Number(conversation.updated) || now,
    },
    messages: messages.map((message) => {
      if (message.parent !== null && !ids.has(message.parent))
        throw new Error("a message without its parent");
      return { ...checked(message), id: message.id, conversation: id, parent: message.parent, saved: now };
    }),
  };
}

function checked(message) {
  const { role, content } = message;
  if (!ROLES.includes(role)) throw new Error(`unknown role ${JSON.stringify(role)}`);
  const parts = Array.isArray(content) && role === "assistant";
  if (parts && !content.every((part) => PARTS.includes(part?.type) && typeof part.text === "string")) {
    throw new Error("a part that is not text");
  }
  const numbers = (list) => (Array.isArray(list) && list.every(Number.isInteger) ? list : []);
  return {
    role,
    content: parts
      ? content.map(({ type, text: words, cut }) => ({ type, text: words, ...(cut === true ? { cut } : {}) }))
      : text(content, "content"),
    created: Number(message.created) || Date.now(),
    state: ["done", "stopped", "interrupted"].includes(message.state) ? message.state : "interrupted",
    finished: ["stop", "length"].includes(message.finished) ? message.finished : null,
    ids: numbers(message.ids),
    model: typeof message.model === "string" ? message.model : null,
    promptTokens: Number(message.promptTokens) || 0,
  };
}

/** Conversations in the training format, without a tree. */
function foreign(messages) {
  const now = Date.now();
  const system = messages[0]?.role === "system" ? text(messages[0].content, "content") : "";
  const conversation = { id: newId(), title: "", system, chosen: {}, created: now, updated: now };
  let parent = null;
  const turns = messages.slice(messages[0]?.role === "system" ? 1 : 0).map((message, i) => {
    if (message?.role !== ROLES[i % 2]) throw new Error("roles out of turn");
    const id = newId();
    const full = checked({ ...message, created: now + i, state: "done", finished: "stop" });
    const turn = { ...full, id, conversation: conversation.id, parent, saved: now };
    parent = id;
    return turn;
  });
  if (!turns.length) throw new Error("no messages");
  return { conversation: { ...conversation, title: titleOf(turns[0].content) }, messages: turns };
}

function text(value, name) {
  if (typeof value !== "string") throw new Error(`${name} is not text`);
  return value;
}

/** A conversation's title from its first question. */
export function titleOf(question) {
  const line = question.trim().split("\n")[0];
  return line.length > 60 ? `${line.slice(0, 59)}…` : line || "New chat";
}
