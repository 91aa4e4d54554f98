// Conversations in this browser: IndexedDB, one record a message, so that two tabs never overwrite each other's.
// A conversation is a tree: editing and regenerating add a sibling; `chosen` says which child is shown.

import { committed, done, openDatabase } from "./database.js";
import { textOf } from "./message.js";
import { local, session } from "./storage.js";

const TAB = session.get("nanochat.tab") ?? newId();
session.set("nanochat.tab", TAB);
const RESCUE = "nanochat.rescue.";
const SILENT_MS = 6000; // an answer that another tab writes is saved more often than this

export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(9))]
    .map((byte) => byte.toString(36).padStart(2, "0"))
    .join("");
}

/** All conversations and messages. Dispatches `change` with detail {conversation}, and `fault`. */
export class Store extends EventTarget {
  conversations = new Map();
  messages = new Map();
  fault = null; // the latest error because of which something was not kept
  #children = new Map(); // conversation id → parent id or null → messages in order of creation
  #channel = new BroadcastChannel("nanochat");
  #database = null;
  #writes = 0;
  #unsaved = new Map(); // record id → number of its writes that are not committed yet

  static async open() {
    const store = new Store();
    try {
      store.#database = await openDatabase();
      await store.#load();
    } catch (error) {
      store.#database = null;
      store.fault = error;
    }
    store.#channel.onmessage = ({ data }) => store.#hear(data);
    addEventListener("pagehide", () => store.#leave());
    return store;
  }

  async #load() {
    const transaction = this.#database.transaction(["conversations", "messages"]);
    const [conversations, messages] = await Promise.all(
      ["conversations", "messages"].map((name) => done(transaction.objectStore(name).getAll())),
    );
    conversations.forEach((conversation) => this.conversations.set(conversation.id, conversation));
    const known = (message) => this.conversations.has(message.conversation);
    messages.filter(known).forEach((message) => this.#keep(message));
    const orphans = messages.filter((message) => !known(message)); // of purged conversations
    if (orphans.length) this.#write(["messages"], [], (rows) => orphans.forEach(({ id }) => rows.delete(id)));
    for (const conversation of conversations) {
      if (conversation.deleted && Date.now() - conversation.deleted > 60_000) this.purge(conversation.id);
    }
    this.#rescue();
    messages.forEach((message) => this.#checkWriter(message.id));
  }

  /** The database may not finish a write while the page closes; this storage does. */
  #leave() {
    const unsaved = ({ id }) => this.#unsaved.has(id);
    const streaming = ({ state, tab }) => state === "streaming" && tab === TAB;
    const conversations = [...this.conversations.values()].filter(unsaved);
    const messages = [...this.messages.values()].filter((each) => unsaved(each) || streaming(each));
    if (conversations.length || messages.length)
      local.set(RESCUE + TAB, JSON.stringify({ conversations, messages }));
  }

  #rescue() {
    for (const key of local.keys().filter((each) => each.startsWith(RESCUE))) {
      const { conversations, messages } = JSON.parse(local.get(key));
      for (const conversation of conversations) {
        if (this.conversations.has(conversation.id)) this.patch(conversation.id, conversation);
        else this.#put(conversation);
      }
      for (const message of messages) {
        const state = message.state === "streaming" ? "interrupted" : message.state;
        if (this.conversations.has(message.conversation)) this.putMessage({ ...message, state });
      }
      local.remove(key);
    }
  }

  /** An answer whose writer is gone (this tab was reloaded, or another was closed) is interrupted. */
  #checkWriter(id) {
    const message = this.messages.get(id);
    if (message?.state !== "streaming") return;
    if (message.tab === TAB || Date.now() - message.saved > SILENT_MS) {
      this.putMessage({ ...message, state: "interrupted" });
    } else setTimeout(() => this.#checkWriter(id), SILENT_MS);
  }

  #fault(error) {
    this.fault = error;
    this.dispatchEvent(new Event("fault"));
  }

  /** Change the database; `ids` are the records that this writes. */
  async #write(names, ids, work) {
    if (!this.#database) return;
    this.#writes++;
    const count = (id, by) => this.#unsaved.set(id, (this.#unsaved.get(id) ?? 0) + by);
    ids.forEach((id) => count(id, 1));
    try {
      const transaction = this.#database.transaction(names, "readwrite");
      work(...names.map((name) => transaction.objectStore(name)));
      await committed(transaction);
    } catch (error) {
      this.#fault(error);
    } finally {
      for (const id of ids) {
        count(id, -1);
        if (!this.#unsaved.get(id)) this.#unsaved.delete(id);
      }
    }
  }

  #tell(conversation, message = null) {
    this.#channel.postMessage({ conversation, message });
    this.#changed(conversation);
  }

  #changed(conversation) {
    this.dispatchEvent(new CustomEvent("change", { detail: { conversation } }));
  }

  /** Another tab has written. A read that a write of this tab has overtaken is repeated: it may be stale. */
  async #hear({ conversation, message }) {
    if (!this.#database) return;
    let found, written, writes;
    do {
      writes = this.#writes;
      const transaction = this.#database.transaction(["conversations", "messages"]);
      const read = (name, id) => id && done(transaction.objectStore(name).get(id));
      [found, written] = await Promise.all([read("conversations", conversation), read("messages", message)]);
    } while (writes !== this.#writes);
    const mine = this.conversations.get(conversation)?.chosen;
    // What this tab shows stays: a reader is not moved to the version that another tab writes.
    if (found) this.conversations.set(conversation, { ...found, chosen: { ...found.chosen, ...mine } });
    else this.#forget(conversation);
    if (found && written) this.#keep(written);
    this.#changed(conversation);
  }

  #keep(message) {
    const known = this.messages.has(message.id);
    this.messages.set(message.id, message);
    const tree = this.#children.get(message.conversation) ?? new Map();
    this.#children.set(message.conversation, tree);
    const siblings = tree.get(message.parent) ?? [];
    if (known) siblings[siblings.findIndex((each) => each.id === message.id)] = message;
    else siblings.push(message);
    siblings.sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
    tree.set(message.parent, siblings);
  }

  #forget(conversation) {
    this.conversations.delete(conversation);
    for (const message of this.all(conversation)) this.messages.delete(message.id);
    this.#children.delete(conversation);
  }

  /** Every message of a conversation, all branches, parents first. */
  all(conversation) {
    const tree = this.#children.get(conversation) ?? new Map();
    const found = [...(tree.get(null) ?? [])];
    for (let i = 0; i < found.length; i++) found.push(...(tree.get(found[i].id) ?? []));
    return found;
  }

  siblings(message) {
    return this.#children.get(message.conversation)?.get(message.parent) ?? [];
  }

  /** The messages that are shown, from the first to the last. */
  path(conversation) {
    const tree = this.#children.get(conversation) ?? new Map();
    const chosen = this.conversations.get(conversation)?.chosen ?? {};
    const path = [];
    for (let options = tree.get(null); options?.length; options = tree.get(path.at(-1).id)) {
      const parent = path.at(-1)?.id ?? "root";
      path.push(options.find((each) => each.id === chosen[parent]) ?? options.at(-1));
    }
    return path;
  }

  /** Conversations that are not deleted, latest first; `search` looks into titles and texts. */
  list(search = "") {
    const wanted = search.trim().toLowerCase();
    const has = (text) => text.toLowerCase().includes(wanted);
    return [...this.conversations.values()]
      .filter((each) => !each.deleted)
      .filter(
        (each) => !wanted || has(each.title) || this.all(each.id).some((message) => has(textOf(message))),
      )
      .sort((a, b) => b.updated - a.updated);
  }

  async create(fields = {}) {
    const now = Date.now();
    const conversation = {
      id: newId(),
      title: "New chat",
      system: "",
      chosen: {},
      created: now,
      updated: now,
      ...fields,
    };
    navigator.storage?.persist?.().catch(() => {}); // ask the browser not to evict it when the disk is full
    await this.#put(conversation);
    return conversation;
  }

  async #put(conversation) {
    this.conversations.set(conversation.id, conversation);
    await this.#write(["conversations"], [conversation.id], (into) => into.put(conversation));
    this.#tell(conversation.id);
  }

  /** Change some fields; what another tab changed meanwhile is kept. */
  async patch(id, fields) {
    if (!this.conversations.has(id)) return; // another tab has purged it
    const merge = (known) => ({ ...known, ...fields, chosen: { ...known.chosen, ...fields.chosen } });
    this.conversations.set(id, merge(this.conversations.get(id)));
    await this.#write(["conversations"], [id], (conversations) => {
      conversations.get(id).onsuccess = ({ target }) =>
        target.result && conversations.put(merge(target.result));
    });
    this.#tell(id);
  }

  async addMessage(conversation, parent, fields) {
    const message = { id: newId(), conversation, parent, created: Date.now(), state: "done", ...fields };
    await Promise.all([
      this.putMessage(message),
      this.patch(conversation, { updated: message.created, chosen: { [parent ?? "root"]: message.id } }),
    ]);
    return message;
  }

  /** Save a message. One whose conversation was purged, here or in another tab, is not kept. */
  async putMessage(message) {
    if (!this.conversations.has(message.conversation)) return;
    const stamped = { ...message, saved: Date.now(), tab: TAB };
    this.#keep(stamped);
    await this.#write(["conversations", "messages"], [message.id], (conversations, messages) => {
      conversations.get(message.conversation).onsuccess = ({ target }) =>
        target.result && messages.put(stamped);
    });
    this.#tell(message.conversation, message.id);
  }

  /** Show a newer state of a message, which is saved later. */
  show(message) {
    if (!this.conversations.has(message.conversation)) return;
    this.#keep({ ...message, tab: TAB });
    this.#changed(message.conversation);
  }

  /** Remove for good. (Deleting with undo is `patch(id, {deleted: time})`.) */
  async purge(id) {
    const gone = this.all(id);
    this.#forget(id);
    await this.#write(["conversations", "messages"], [], (conversations, messages) => {
      conversations.delete(id);
      gone.forEach((message) => messages.delete(message.id));
    });
    this.#tell(id);
  }

  /** Add imported records; those that are here already stay as they are. Returns the number of new conversations. */
  async restore(conversation, messages) {
    if (this.conversations.has(conversation.id)) return 0;
    this.conversations.set(conversation.id, conversation);
    messages.forEach((message) => this.#keep(message));
    const ids = [conversation.id, ...messages.map((message) => message.id)];
    await this.#write(["conversations", "messages"], ids, (into, rows) => {
      into.put(conversation);
      messages.forEach((message) => rows.put(message));
    });
    this.#changed(conversation.id);
    for (const message of messages)
      this.#channel.postMessage({ conversation: conversation.id, message: message.id });
    return 1;
  }
}
