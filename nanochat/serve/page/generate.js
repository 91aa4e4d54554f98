// Writing an answer: from the stream of tokens into the message's record.

import { explain, stream } from "./api.js";

const SAVE_MS = 300;

const TOOL = { python: "python", output: "python_output", text: "text" };

/**
 * A conversation as the server reads it: a tool call stands where it was made, counted in characters. A question that
 * got no answer (too long, refused) is left out, or it would fail every question after it as well.
 */
export function wireMessages(system, path) {
  const start = system.trim() ? [{ role: "system", content: system }] : [];
  const empty = (message) => message?.role === "assistant" && !message.content.length;
  const turns = path.filter((message, i) => !empty(message) && !empty(path[i + 1]));
  return [...start, ...turns.map(wireMessage)];
}

function wireMessage({ role, content }) {
  if (typeof content === "string") return { role, content };
  let text = "";
  const tools = [];
  for (const part of content) {
    if (part.type === "text") text += part.text;
    else if (part.type === "python")
      tools.push({ type: "python", arguments: part.text, offset: [...text].length });
    else if (tools.length && !part.cut) tools.at(-1).output = part.text;
  }
  return { role, content: text, ...(tools.length ? { executed_tools: tools } : {}) };
}

/** Add a token's text to the parts of an answer. An output within which the answer was cut off is marked `cut`. */
export function addToParts(parts, { part, text, finished, special }) {
  const type = TOOL[part];
  const cut = type === "python_output" && finished === "length" && special !== "<|output_end|>";
  const same = parts.at(-1)?.type === type;
  if (!text && !cut && !(same && parts.at(-1).cut)) return parts;
  const added = { type, text: (same ? parts.at(-1).text : "") + text, ...(cut ? { cut } : {}) };
  return [...(same ? parts.slice(0, -1) : parts), added];
}

/** The answers that this tab is writing. Dispatches `error` with detail {error}. */
export class Answers extends EventTarget {
  #store;
  #running = new Map(); // message id → {conversation, controller}

  constructor(store) {
    super();
    this.#store = store;
    store.addEventListener("change", ({ detail: { conversation } }) => {
      if (!store.conversations.has(conversation)) this.stop(this.running(conversation)); // it was purged
    });
  }

  /** The message that this tab is writing in a conversation, if any. */
  running(conversation) {
    return [...this.#running].find(([, each]) => each.conversation === conversation)?.[0] ?? null;
  }

  stop(id) {
    this.#running.get(id)?.controller.abort();
  }

  /** Write a new answer below `parent`, or continue or retry the answer `into`. */
  async write({ conversation, parent, model, sampling, into = null }) {
    const store = this.#store;
    const fresh = { role: "assistant", content: [], ids: [], model, state: "streaming", finished: null };
    const message = into ? store.messages.get(into) : await store.addMessage(conversation, parent, fresh);
    const controller = new AbortController();
    this.#running.set(message.id, { conversation, controller });
    const outcome = await this.#follow(message, sampling, controller.signal);
    this.#running.delete(message.id);
    await store.putMessage({ ...store.messages.get(message.id), ...outcome });
  }

  async #follow(message, sampling, signal) {
    const store = this.#store;
    let now = { ...message, state: "streaming", error: null, finished: null };
    const path = store.path(message.conversation);
    const before = path.slice(
      0,
      path.findIndex((each) => each.id === message.id),
    );
    const { system } = store.conversations.get(message.conversation);
    const body = {
      ...sampling,
      model: message.model,
      messages: wireMessages(system, before),
      top_logprobs: 0,
      ...(message.ids.length ? { reply_ids: message.ids } : {}),
    };
    const start = performance.now();
    let timer = null;
    const save = () => {
      timer = null;
      store.putMessage(now);
    };
    await store.putMessage(now);
    try {
      for await (const item of stream("api/generate", body, signal)) {
        if (item.prompt) {
          now = { ...now, promptTokens: item.prompt.length - message.ids.length, seed: item.seed };
          continue;
        }
        const seconds = (performance.now() - start) / 1000;
        now = {
          ...now,
          ids: [...now.ids, item.id],
          content: addToParts(now.content, item),
          finished: item.finished ?? now.finished,
          rate: (now.ids.length + 1 - message.ids.length) / seconds, // with the wait and the prompt: what a reader sees
        };
        store.show(now);
        timer ??= setTimeout(save, SAVE_MS);
      }
      return { ...now, state: "done" };
    } catch (error) {
      if (error.name === "AbortError") return { ...now, state: "stopped" };
      this.dispatchEvent(new CustomEvent("error", { detail: { error } }));
      const state = error.code === "cut" && now.ids.length ? "interrupted" : "error";
      return { ...now, state, error: explain(error) };
    } finally {
      clearTimeout(timer);
    }
  }
}
