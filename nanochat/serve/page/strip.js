// A row of tokens that can be explored by mouse, touch and keyboard, and the panel that describes one of them.

import { el, percent } from "./dom.js";

const picture = (character) =>
  character === "\n" ? "↵" : String.fromCharCode(0x2400 + character.charCodeAt(0));

/** A token's text with its control characters visible; a part of a character that a later token completes is ⋯. */
export const visible = ({ text, special }) => special ?? (text.replace(/[\0-\x1f]/g, picture) || "⋯");

export const quoted = (token) => `“${visible(token).replace(/^ | $/g, "␣")}”`;

/** Tokens as buttons with one tab stop; arrow keys move. `onlook(token, index)` hears of hover, focus and click. */
export class Strip {
  tokens = [];
  nodes = [];
  #at = 0;
  #pinned = -1;

  constructor(label, onlook) {
    this.onlook = onlook;
    this.root = el("div", { class: "strip", role: "group", "aria-label": label });
    const index = ({ target }) => this.nodes.indexOf(target.closest("button"));
    const look = (event) => {
      const at = index(event);
      if (at >= 0 && (event.type === "focusin" || this.#pinned < 0)) this.look(at);
    };
    this.root.addEventListener("pointerover", look);
    this.root.addEventListener("focusin", look);
    this.root.addEventListener("click", (event) => {
      const at = index(event);
      if (at < 0) return;
      this.#pinned = this.#pinned === at ? -1 : at;
      this.look(at);
    });
    this.root.addEventListener("keydown", (event) => {
      const last = this.tokens.length - 1;
      const to = { ArrowLeft: this.#at - 1, ArrowRight: this.#at + 1, Home: 0, End: last }[event.key];
      if (!this.nodes[to]) return;
      event.preventDefault();
      this.nodes[to].focus();
    });
  }

  clear() {
    this.tokens = [];
    this.nodes = [];
    this.#at = 0;
    this.#pinned = -1;
    this.root.replaceChildren();
  }

  /** `heat` from 0 to 1 colours the token, `marks` are classes, `says` is what a screen reader adds to its text. */
  add(token, { heat = 0, marks = "", says = "" }) {
    this.tokens.push(token);
    const node = el(
      "button",
      {
        type: "button",
        class: `token ${marks}`,
        tabIndex: this.tokens.length === 1 ? 0 : -1,
        "aria-label": `${quoted(token)} ${says}`,
      },
      visible(token),
    );
    node.style.setProperty("--heat", `${Math.round(heat * 85)}%`);
    this.nodes.push(node);
    this.root.append(node);
    if (/\n/.test(token.text)) this.root.append(el("br"));
  }

  look(at) {
    this.nodes[this.#at].tabIndex = -1;
    this.nodes[this.#at].classList.remove("looked");
    this.#at = at;
    this.nodes[at].tabIndex = 0;
    this.nodes[at].classList.add("looked");
    this.onlook(this.tokens[at], at);
  }
}

/** Bars of a distribution: rows of {token, p, was, chosen, onclick, title}; `was` is marked within the bar. */
export function bars(rows) {
  const most = Math.max(...rows.map((row) => Math.max(row.p, row.was ?? 0)), 1e-9);
  return el(
    "ol",
    { class: "bars" },
    ...rows.map(({ token, p, was = null, chosen = false, onclick = null, title }) => {
      const width = (share) => `${(100 * share) / most}%`;
      const bar = el("i");
      bar.style.width = width(p);
      const before = was === null ? null : el("b");
      if (before) before.style.left = width(was);
      const content = [
        el("span", { class: "text" }, visible(token).replace(/^ | $/g, "␣")),
        el("span", { class: "bar-box" }, bar, before ?? ""),
        el("span", { class: "share" }, percent(p)),
      ];
      const inner = onclick
        ? el(
            "button",
            { type: "button", onclick, title, "aria-label": `${title}, ${percent(p)}` },
            ...content,
          )
        : el("div", {}, ...content);
      return el("li", { class: `${chosen ? "chosen" : ""}${p === 0 ? " cut" : ""}` }, inner);
    }),
  );
}
