// Requests to the server that this page came from. Addresses are relative, so that a prefix of a proxy is kept.

import { grouped } from "./dom.js";
import { local } from "./storage.js";

const KEY = "nanochat.api-key";

export const apiKey = {
  get: () => local.get(KEY) ?? "",
  set: (key) => (key ? local.set(KEY, key) : local.remove(KEY)),
};

/** A failed request: `code` is the server's, or `unreachable` or `cut`. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

async function request(path, { body, signal } = {}) {
  const headers = apiKey.get() ? { Authorization: `Bearer ${apiKey.get()}` } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer", { code: "unreachable" });
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // A proxy's own page: the status says enough.
  }
  return new ApiError(error.message ?? `${response.status} ${response.statusText}`, {
    status: response.status,
    code: error.code ?? null,
    retryAfter: Number(response.headers.get("Retry-After")) || null,
  });
}

export const getJson = async (path, options) => (await request(path, options)).json();
export const postJson = async (path, body, signal) => (await request(path, { body, signal })).json();

/** The JSON values of a server-sent stream, up to [DONE]. Aborting the signal ends the request on the server too. */
export async function* stream(path, body, signal) {
  const response = await request(path, { body, signal });
  const reader = response.body.getReader(); // without pipes: one that fails drops what it still holds
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        if (signal?.aborted) throw new DOMException("stopped", "AbortError");
        throw new ApiError("The connection was lost in the middle of the answer", {
          code: "cut",
          cause: error,
        });
      });
      if (done) throw new ApiError("The connection ended in the middle of the answer", { code: "cut" });
      const lines = (rest + decoder.decode(value, { stream: true })).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const item = JSON.parse(data);
        if (item.error) throw new ApiError(item.error.message, { code: item.error.code ?? "failed" });
        yield item;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

const EXPLAINED = {
  unreachable: () => "The server does not answer. Is “nanochat serve” still running?",
  cut: () => "The connection was lost in the middle of the answer.",
  context_length_exceeded: () =>
    "The conversation is longer than this model can read. Start a new chat, or edit an earlier message.",
  model_not_found: () => "This server does not have that model any more. Choose another one above.",
  invalid_api_key: () => "This server wants its API key. Enter it in the settings.",
};
const BY_STATUS = {
  429: (error) =>
    `The server is busy. Try again ${error.retryAfter ? `in ${error.retryAfter} s` : "in a moment"}.`,
  401: EXPLAINED.invalid_api_key,
  503: () => "The server is loading a model or shutting down. Try again in a moment.",
};

/** What a reader can do about an error. */
export function explain(error) {
  const say = EXPLAINED[error.code] ?? BY_STATUS[error.status];
  return say ? say(error) : error.message;
}

/** Calls `onback` once the server answers again; meanwhile shows `banner`. */
export function watchServer(banner, onback) {
  let timer = null;
  const check = async () => {
    try {
      await getJson("api/info");
    } catch {
      timer = setTimeout(check, 1500);
      return;
    }
    timer = null;
    banner.hidden = true;
    onback();
  };
  return {
    /** Called with every error; those that mean "gone" start the watch. */
    saw(error) {
      if (timer !== null || !["unreachable", "cut"].includes(error.code)) return;
      banner.hidden = false;
      timer = setTimeout(check, 500);
    },
  };
}

/** Models as options of a select, newest step first; returns the ids offered. */
export function modelOptions(select, models, { kinds = ["chat", "base"], chosen = null } = {}) {
  const groups = [];
  const ids = [];
  for (const model of models.filter((each) => kinds.includes(each.nanochat.kind))) {
    const { kind, step, steps } = model.nanochat;
    const pinned = (each) => `${model.id}@${each}` === chosen;
    const older = [...steps].filter((each) => each !== step || pinned(each)).sort((a, b) => b - a);
    const group = document.createElement("optgroup");
    group.label = `${model.id} (${kind})`;
    group.append(new Option(`${model.id} · step ${grouped(step)}`, model.id));
    ids.push(model.id);
    for (const each of older) {
      group.append(new Option(`${model.id} · step ${grouped(each)}`, `${model.id}@${each}`));
      ids.push(`${model.id}@${each}`);
    }
    groups.push(group);
  }
  select.replaceChildren(...groups);
  if (ids.includes(chosen)) select.value = chosen;
  return ids;
}
