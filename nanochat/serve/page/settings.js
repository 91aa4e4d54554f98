// How answers are sampled. Defaults are the server's; only what a reader changed is stored.

import { apiKey } from "./api.js";
import { button, el } from "./dom.js";
import { local } from "./storage.js";

const KEY = "nanochat.settings";

const SETTINGS = [
  {
    name: "temperature",
    label: "Temperature",
    min: 0,
    max: 2,
    step: 0.05,
    help: "0 always takes the likeliest token",
  },
  { name: "top_k", label: "Top-k", min: 0, max: 200, step: 1, help: "only the k likeliest; 0 is no limit" },
  {
    name: "top_p",
    label: "Top-p",
    min: 0.05,
    max: 1,
    step: 0.01,
    help: "the likeliest that make up this share",
  },
  {
    name: "min_p",
    label: "Min-p",
    min: 0,
    max: 1,
    step: 0.01,
    help: "at least this share of the likeliest one’s",
  },
  { name: "repetition_penalty", label: "Repetition penalty", min: 1, max: 2, step: 0.01, help: "1 is none" },
  { name: "max_tokens", label: "Longest answer", min: 1, max: 1024, step: 1, help: "in tokens" },
];

/** Dispatches `key` when the reader has entered another API key. */
export class Settings extends EventTarget {
  /** Of the server, once it has answered. */
  info = { defaults: {}, limits: {} };
  #changed = JSON.parse(local.get(KEY) ?? "{}");

  constructor() {
    super();
    addEventListener("storage", ({ key, newValue }) => {
      if (key !== KEY) return;
      this.#changed = JSON.parse(newValue ?? "{}");
    });
  }

  get(name) {
    return name in this.#changed ? this.#changed[name] : this.info.defaults[name];
  }

  set(name, value) {
    if (value === (this.info.defaults[name] ?? null)) delete this.#changed[name];
    else this.#changed[name] = value;
    local.set(KEY, JSON.stringify(this.#changed));
  }

  reset() {
    this.#changed = {};
    local.remove(KEY);
  }

  /** The sampling fields of a request. */
  request() {
    const fields = Object.fromEntries(SETTINGS.map(({ name }) => [name, this.get(name)]));
    return { ...fields, seed: this.get("seed") ?? null };
  }

  /** Fill a form with a slider and a number for each setting. `system` edits the conversation's system prompt. */
  render(form, system) {
    const rows = SETTINGS.map((setting) => this.#row(setting));
    const seed = el("input", {
      type: "number",
      id: "set-seed",
      min: 0,
      step: 1,
      placeholder: "random",
      value: this.get("seed") ?? "",
      onchange: () =>
        this.set("seed", seed.value === "" ? null : Math.max(0, Math.round(Number(seed.value)))),
    });
    const key = el("input", {
      type: "password",
      id: "set-key",
      autocomplete: "off",
      value: apiKey.get(),
      onchange: () => {
        apiKey.set(key.value.trim());
        this.dispatchEvent(new Event("key"));
      },
    });
    const prompt = el("textarea", {
      id: "set-system",
      rows: 3,
      value: system.read(),
      placeholder: "none",
      oninput: () => system.write(prompt.value),
    });
    form.replaceChildren(
      field("set-system", "System prompt", "put before the first message of this chat", prompt),
      ...rows,
      field("set-seed", "Seed", "the same seed gives the same answer", seed),
      field("set-key", "API key", "only if the server was started with one; kept in this browser", key),
      button("Back to the server’s defaults", null, () => {
        this.reset();
        this.render(form, system);
        form.querySelector("input[type=range]").focus();
      }),
    );
  }

  #row({ name, label, min, max, step, help }) {
    const limit = name === "max_tokens" ? Math.max(1, this.info.limits.max_tokens ?? max) : max;
    const shown = this.get(name) ?? (name === "max_tokens" ? limit : min); // the server says null for "no limit"
    const shared = { min, max: limit, step, value: shown };
    const set = () => this.set(name, Number(slider.value));
    const slider = el("input", { type: "range", ...shared, "aria-label": `${label}, slider` });
    const number = el("input", { type: "number", id: `set-${name}`, ...shared });
    slider.value = number.value = shown; // after min and max are set
    slider.addEventListener("input", () => {
      number.value = slider.value;
      set();
    });
    number.addEventListener("input", () => {
      if (number.value === "") return;
      slider.value = number.value; // which rounds to the step, and stays within the limits
      set();
    });
    number.addEventListener("change", () => (number.value = slider.value));
    return field(number.id, label, help, el("div", { class: "slider" }, slider, number));
  }
}

function field(id, label, help, control) {
  return el("div", { class: "field" }, el("label", { htmlFor: id }, label, el("small", {}, help)), control);
}
