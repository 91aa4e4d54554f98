// The conversation that is shown: a log of messages, kept in step with the store without rebuilding what has not
// changed, and a scroll position that follows the answer only while the reader is at its end.

import { button, copyButton, el, growing, perFrame } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { answerOf } from "./message.js";

const STATES = {
  stopped: "Stopped",
  interrupted: "Interrupted before its end",
  length: "Reached the longest answer",
};

/**
 * Shows one conversation in `log`. `actions`: edit(message, text) (false: not now), regenerate(message), resume(message),
 * choose(sibling, direction). `empty` is what the log holds before the first message.
 */
export class Thread {
  #views = new Map(); // message id → MessageView
  #follows = true;
  #top = 0;
  #conversation = null;

  constructor({ log, latest, store, actions, empty }) {
    Object.assign(this, { log, latest, store, actions, empty });
    this.update = perFrame(() => this.#render());
    log.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    new ResizeObserver(() => this.#follow()).observe(log);
    latest.addEventListener("click", () => {
      this.toLatest();
      log.focus({ preventScroll: true });
    });
    store.addEventListener(
      "change",
      ({ detail }) => detail.conversation === this.#conversation && this.update(),
    );
  }

  show(conversation) {
    this.#conversation = conversation;
    this.#follows = true;
    this.#top = 0;
    this.#render();
  }

  toLatest() {
    this.#follows = true;
    this.#follow();
  }

  /** Scrolling up ends following at once, whatever the distance; reaching the end resumes it. */
  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.log;
    const away = scrollHeight - clientHeight - scrollTop;
    if (away < 4) this.#follows = true;
    else if (scrollTop < this.#top) this.#follows = false;
    this.#top = scrollTop;
    this.latest.hidden = this.#follows || away < 4 || !this.empty.hidden;
  }

  /** Keep the end in view, or the beginning of what stands there before the first message. */
  #follow() {
    if (this.#follows) this.log.scrollTop = this.empty.hidden ? this.log.scrollHeight : 0;
    this.#scrolled();
  }

  #render() {
    const path = this.#conversation ? this.store.path(this.#conversation) : [];
    this.empty.hidden = path.length > 0;
    this.log.setAttribute("aria-busy", String(path.at(-1)?.state === "streaming"));
    const shown = new Set(path.map((message) => message.id));
    for (const [id, view] of this.#views) {
      if (shown.has(id)) continue;
      view.root.remove();
      this.#views.delete(id);
    }
    let previous = this.empty;
    for (const [i, message] of path.entries()) {
      const view = this.#views.get(message.id) ?? new MessageView(message.role, this.actions);
      this.#views.set(message.id, view);
      view.update(message, this.store.siblings(message), i === path.length - 1);
      if (previous.nextElementSibling !== view.root) previous.after(view.root);
      previous = view.root;
    }
    this.#follow();
  }

  /** Put the focus on a control of a message once it is shown, or on the message. */
  focus(id, action = null) {
    this.#render();
    const root = this.#views.get(id)?.root;
    (root?.querySelector(`[data-action="${action}"]:not(:disabled)`) ?? root)?.focus({ preventScroll: true });
  }
}

const NAMES = { user: "You", assistant: "nanochat" };

class MessageView {
  #content = null;
  #footer = "";

  constructor(role, actions) {
    this.actions = actions;
    this.body = el("div", { class: "body" });
    this.foot = el("div", { class: "foot" });
    const name = el("h2", { class: "sr-only" }, NAMES[role]);
    this.root = el(
      "article",
      { class: `message ${role}`, tabIndex: -1, "aria-label": NAMES[role] },
      name,
      this.body,
      this.foot,
    );
  }

  update(message, siblings, last) {
    this.message = message;
    if (message.content !== this.#content) {
      this.#content = message.content;
      if (message.role === "user") this.body.textContent = message.content;
      else renderParts(this.body, message.content);
    }
    this.root.classList.toggle("streaming", message.state === "streaming");
    this.root.classList.toggle("waiting", message.state === "streaming" && !message.content.length);
    this.root.classList.toggle("last", last);
    const place = siblings.findIndex((each) => each.id === message.id);
    if (message.state === "streaming") {
      this.#footer = "";
      this.foot.replaceChildren(el("span", { class: "figures" }, figures(message)));
      return;
    }
    // The footer is rebuilt only when what it says changes, so that its buttons keep the focus.
    const { state, finished, error } = message;
    const says = JSON.stringify([state, finished, error, place, siblings.length, figures(message)]);
    if (this.#footer === says) return;
    this.#footer = says;
    const focused = this.foot.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    this.foot.replaceChildren(...this.#controls(siblings, place).filter(Boolean));
    if (focused) (this.foot.querySelector(`[data-action="${focused}"]:not(:disabled)`) ?? this.root).focus();
  }

  #controls(siblings, place) {
    const message = this.message;
    const branches = siblings.length > 1 ? this.#branches(siblings, place) : null;
    const copy = copyButton(() => answerOf(this.message), { class: "quiet small", data: { action: "copy" } });
    if (message.role === "user") return [branches, copy, this.#act("Edit", "edit", () => this.edit())];
    const state = message.state === "done" && message.finished === "length" ? "length" : message.state;
    const resumable = state !== "done" && message.ids.length > 0;
    const resume = () => this.actions.resume(this.message);
    return [
      message.error ? el("div", { class: "problem", role: "alert" }, message.error) : null,
      branches,
      copy,
      this.#act("Regenerate", "again", () => this.actions.regenerate(this.message)),
      resumable ? this.#act("Continue", "more", resume, true) : null,
      state !== "done" && !resumable ? this.#act("Retry", "again", resume, true) : null,
      STATES[state] ? el("span", { class: "state" }, STATES[state]) : null,
      el("span", { class: "figures" }, figures(message)),
    ];
  }

  #act(name, glyph, onclick, label = false) {
    return button(name, glyph, onclick, {
      label,
      class: "quiet small",
      data: { action: name.toLowerCase() },
    });
  }

  #branches(siblings, place) {
    const arrow = (name, glyph, to) =>
      button(`${name} version`, glyph, () => this.actions.choose(siblings[to], name.toLowerCase()), {
        class: "quiet small",
        disabled: !siblings[to],
        data: { action: name.toLowerCase() },
      });
    const count = el(
      "span",
      { "aria-label": `version ${place + 1} of ${siblings.length}`, role: "img" },
      `${place + 1}/${siblings.length}`,
    );
    return el(
      "span",
      { class: "branches" },
      arrow("Previous", "left", place - 1),
      count,
      arrow("Next", "right", place + 1),
    );
  }

  /** A text field in place of the message; sending it makes a new version beside this one. */
  edit() {
    if (this.root.querySelector("form")) return;
    const field = el("textarea", { value: this.message.content, "aria-label": "Edit your message" });
    const close = () => {
      form.replaceWith(this.body);
      this.foot.hidden = false;
      this.foot.querySelector('[data-action="edit"]')?.focus();
    };
    const send = () => {
      const text = field.value.trim();
      if (!text || this.actions.edit(this.message, text)) close();
    };
    const form = el(
      "form",
      { class: "editor", onsubmit: (event) => (event.preventDefault(), send()) },
      field,
      el(
        "div",
        { class: "row" },
        button("Cancel", null, close),
        el("button", { type: "submit", class: "primary" }, "Send as a new version"),
      ),
    );
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      if (entersText(event)) return;
      event.preventDefault();
      send();
    });
    this.foot.hidden = true;
    this.body.replaceWith(form);
    growing(field);
    field.focus();
  }
}

/** Whether a key press does not send: Enter alone does, except in an input method and on touch screens. */
export function entersText(event) {
  const composing = event.isComposing || event.keyCode === 229; // Safari ends composing before the key press
  return event.key !== "Enter" || event.shiftKey || composing || matchMedia("(pointer: coarse)").matches;
}

function figures({ ids, rate, state }) {
  if (!ids?.length) return state === "streaming" ? "waiting for the first token" : "";
  const speed = rate ? ` · ${rate.toFixed(rate < 10 ? 1 : 0)} per second` : "";
  return `${ids.length} token${ids.length > 1 ? "s" : ""}${speed}`;
}

/** An answer's parts: text as markdown, a tool call with its output as one card. */
function renderParts(body, parts) {
  const groups = [];
  for (const part of parts) {
    if (part.type === "text") groups.push({ kind: "text", text: part.text });
    else if (part.type === "python") groups.push({ kind: "tool", code: part.text, output: null });
    else {
      const output = part.cut ? `${part.text} …` : part.text;
      if (groups.at(-1)?.kind === "tool" && groups.at(-1).output === null) groups.at(-1).output = output;
      else groups.push({ kind: "tool", code: null, output });
    }
  }
  groups.forEach((group, i) => {
    let node = body.children[i];
    if (node?.dataset.kind !== group.kind) {
      const made = el("div", {
        class: group.kind === "text" ? "markdown" : "tool",
        data: { kind: group.kind },
      });
      if (node) node.replaceWith(made);
      else body.append(made);
      node = made;
    }
    SHOW[group.kind](node, group);
  });
  while (body.children.length > groups.length) body.lastElementChild.remove();
}

const SHOW = {
  text: (node, { text }) => renderMarkdown(node, text),
  tool: (node, { code, output }) => {
    const says = JSON.stringify([code, output]);
    if (node.dataset.says === says) return;
    node.dataset.says = says;
    node.replaceChildren(
      el("span", { class: "tool-name" }, "Python"),
      el("code", { class: "tool-code" }, code ?? ""),
      output === null ? "" : el("span", { class: "tool-arrow", role: "img", "aria-label": "returned" }, "→"),
      output === null ? "" : el("samp", {}, output),
    );
  },
};
