// The list of conversations: search, rename, delete with undo.

import { announce, button, el, perFrame, toast } from "./dom.js";

const DAY = 86_400_000;

function period(time) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (time >= today) return "Today";
  if (time >= today - DAY) return "Yesterday";
  return time >= today - 7 * DAY ? "This week" : "Earlier";
}

/** `open(id)` shows a conversation, `closed(id)` is told when one was deleted. */
export class History {
  #current = null;
  #renaming = null;
  #shown = null; // what the rows say

  constructor({ list, search, store, answers, open, closed }) {
    Object.assign(this, { list, search, store, answers, open, closed });
    const update = perFrame(() => this.render());
    search.addEventListener("input", () => {
      this.render();
      const found = this.list.querySelectorAll("li").length;
      announce(search.value ? `${found} found` : "");
    });
    store.addEventListener("change", update);
  }

  select(id) {
    this.#current = id;
    this.render();
  }

  render() {
    if (this.#renaming) return;
    const found = this.store.list(this.search.value);
    const says = JSON.stringify([this.search.value, ...found.map((each) => this.#says(each))]);
    if (this.#shown === says) return; // a click needs the button that was pressed, while an answer grows
    this.#shown = says;
    const focused = this.list.contains(document.activeElement) ? document.activeElement : null;
    const [id, action] = [focused?.closest("li")?.dataset.id, focused?.dataset.action];
    const groups = byPeriod(found);
    const sections = [...groups].map(([name, conversations]) =>
      el("section", {}, el("h2", {}, name), el("ul", {}, ...conversations.map((each) => this.#row(each)))),
    );
    const nothing = this.search.value
      ? "Nothing found."
      : "Your conversations will be listed here. They stay in this browser.";
    this.list.replaceChildren(...(sections.length ? sections : [el("p", { class: "hint" }, nothing)]));
    if (focused)
      [...this.list.querySelectorAll("li")]
        .find((row) => row.dataset.id === id)
        ?.querySelector(`[data-action="${action}"]`)
        ?.focus();
  }

  #says({ id, title, updated }) {
    const running = this.store.path(id).at(-1)?.state === "streaming";
    return { id, title, current: id === this.#current, running, period: period(updated) };
  }

  #row(conversation) {
    const { id, title, current, running } = this.#says(conversation);
    return el(
      "li",
      { data: { id }, class: current ? "current" : "" },
      el(
        "button",
        {
          type: "button",
          class: "open",
          title,
          data: { action: "open" },
          "aria-current": current ? "page" : null,
          onclick: () => this.open(id),
        },
        el("span", {}, title),
        running ? el("span", { class: "dot", role: "img", "aria-label": "answering" }) : null,
      ),
      button(
        `Rename “${title}”`,
        "edit",
        (event) => this.#rename(conversation, event.currentTarget.closest("li")),
        {
          class: "quiet small",
          data: { action: "rename" },
        },
      ),
      button(`Delete “${title}”`, "trash", () => this.#remove(conversation), {
        class: "quiet small",
        data: { action: "delete" },
      }),
    );
  }

  #rename({ id, title }, row) {
    const field = el("input", { type: "text", value: title, "aria-label": "New title", maxLength: 120 });
    this.#renaming = id;
    this.#shown = null;
    let open = true;
    const close = (save) => {
      if (!open) return;
      open = false;
      this.#renaming = null;
      if (save && field.value.trim()) this.store.patch(id, { title: field.value.trim(), named: true });
      this.render();
      [...this.list.querySelectorAll("li")]
        .find((each) => each.dataset.id === id)
        ?.querySelector('[data-action="rename"]')
        .focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
      event.preventDefault();
      event.stopPropagation();
      close(event.key === "Enter");
    });
    field.addEventListener("blur", () => close(true));
    row.replaceChildren(field);
    field.focus();
    field.select();
  }

  #remove({ id, title }) {
    const rows = [...this.list.querySelectorAll("li")];
    const at = rows.findIndex((row) => row.dataset.id === id);
    const neighbour = (rows[at + 1] ?? rows[at - 1])?.dataset.id;
    const running = this.answers.running(id);
    if (running) this.answers.stop(running);
    this.store.patch(id, { deleted: Date.now() });
    this.closed(id);
    this.render();
    const next = [...this.list.querySelectorAll("li")].find((row) => row.dataset.id === neighbour);
    (next?.querySelector('[data-action="open"]') ?? this.search).focus();
    announce(`Deleted ${title}`);
    toast(`Deleted “${title}”`, {
      action: "Undo",
      onaction: () => {
        this.store.patch(id, { deleted: null });
        this.open(id);
      },
      onclose: () => this.store.conversations.get(id)?.deleted && this.store.purge(id),
    });
  }
}

function byPeriod(conversations) {
  const groups = new Map();
  for (const each of conversations) {
    const name = period(each.updated);
    groups.set(name, [...(groups.get(name) ?? []), each]);
  }
  return groups;
}
