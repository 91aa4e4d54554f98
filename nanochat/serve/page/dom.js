// Building elements. Text only ever becomes text nodes: nothing in this page parses markup from a string.

import { local } from "./storage.js";

const SVG = "http://www.w3.org/2000/svg";

/** An element: `on…` props are listeners, known properties are set, the others are attributes; null is left out. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name in node && !name.includes("-") && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** An SVG element; every prop is an attribute. */
export function svg(tag, props = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const ICONS = {
  menu: "M4 7h16M4 12h16M4 17h16",
  plus: "M12 5v14M5 12h14",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M8 8h8v8H8zM8 10h8M8 12h8M8 14h8",
  copy: "M9 9h10v11H9zM5 15V4h10",
  check: "M5 13l4 4L19 7",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  again: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4",
  more: "M6 5l12 7-12 7z",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  sliders: "M4 8h8M18 8h2M4 16h2M12 16h8M15 5.5v5M9 13.5v5",
  close: "M6 6l12 12M18 6L6 18",
  sun: "M12 8a4 4 0 1 0 0 8a4 4 0 1 0 0-8M12 3v2M12 19v2M3 12h2M19 12h2M6 6l1 1M17 17l1 1M6 18l1-1M17 7l1-1",
  moon: "M20 14.5A8 8 0 1 1 9.5 4a6.5 6.5 0 0 0 10.5 10.5z",
  auto: "M12 4a8 8 0 1 0 0 16a8 8 0 1 0 0-16M12 4v16",
};

/** A decorative icon; the button around it carries the name. */
export function icon(name) {
  return svg(
    "svg",
    { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" },
    svg("path", { d: ICONS[name] }),
  );
}

/** A button with an icon and a name for everybody; `label` shows the name. */
export function button(name, glyph, onclick, { label = false, ...props } = {}) {
  const content = [glyph ? icon(glyph) : null, label || !glyph ? el("span", {}, name) : null];
  const named = label || !glyph ? {} : { "aria-label": name, title: name };
  return el("button", { type: "button", onclick, ...named, ...props }, ...content);
}

/** Run `update` at most once a frame, also where frames are paused (a hidden tab). */
export function perFrame(update) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    const run = () => {
      due = false;
      update();
    };
    if (document.hidden) setTimeout(run, 200);
    else requestAnimationFrame(run);
  };
}

/** Copy text; outside secure contexts (plain http in a local network) by a hidden text field. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const focused = document.activeElement;
  const field = el("textarea", { value: text, class: "sr-only", "aria-hidden": "true" });
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  focused?.focus();
}

/** A copy button that says for a moment that it has copied. `read` returns the text. */
export function copyButton(read, props = {}) {
  const node = button(
    "Copy",
    "copy",
    async () => {
      await copyText(read());
      node.replaceChildren(icon("check"));
      announce("Copied");
      setTimeout(() => node.replaceChildren(icon("copy")), 1500);
    },
    props,
  );
  return node;
}

/** Tell screen readers something that others can see. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

/** A line at the bottom of the window for some seconds, with at most one action; returns a function that removes it. */
export function toast(text, { action = null, onaction = null, onclose = null, seconds = 8 } = {}) {
  const node = el("div", { class: "toast" }, el("span", {}, text));
  let open = true;
  const close = (acted = false) => {
    if (!open) return;
    open = false;
    clearTimeout(timer);
    node.remove();
    if (!acted) onclose?.();
  };
  if (action) {
    node.append(
      button(action, null, () => {
        onaction();
        close(true);
      }),
    );
  }
  node.append(button("Dismiss", "close", () => close(), { class: "quiet" }));
  document.getElementById("toasts").append(node);
  const timer = setTimeout(close, seconds * 1000);
  // A reader who has reached it with mouse or keyboard keeps it.
  node.addEventListener("focusin", () => clearTimeout(timer));
  return close;
}

/** The three-way theme button: as the system, light, dark. */
export function themeButton() {
  const next = { auto: "light", light: "dark", dark: "auto" };
  const names = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };
  const glyphs = { auto: "auto", light: "sun", dark: "moon" };
  const root = document.documentElement;
  const node = el("button", { type: "button", class: "quiet", id: "theme" });
  const show = () => {
    const theme = root.dataset.theme in next ? root.dataset.theme : "auto";
    node.replaceChildren(icon(glyphs[theme]));
    node.setAttribute("aria-label", names[theme]);
    node.title = names[theme];
  };
  node.addEventListener("click", () => {
    root.dataset.theme = next[root.dataset.theme] ?? "light";
    local.set("nanochat.theme", root.dataset.theme);
    show();
  });
  show();
  return node;
}

/** A whole number with its thousands apart. */
export const grouped = (number) => Math.round(number).toLocaleString("en");

/** A share of 1 as a reader wants it: 0 and 100 only where they are true to a tenth. */
export function percent(p) {
  if (p === 0 || p >= 0.9995) return p ? "100 %" : "0 %";
  return p < 0.001 ? "< 0.1 %" : `${(p * 100).toFixed(1)} %`;
}

/** A text field as high as its text, up to the limit of its style. */
export function growing(field) {
  const grow = () => {
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
  };
  field.addEventListener("input", grow);
  grow();
  return grow;
}
