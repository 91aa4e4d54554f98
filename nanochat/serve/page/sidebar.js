// The list of conversations beside the log; on a narrow screen it lies over the page and holds the focus.

import { button } from "./dom.js";

const $ = (id) => document.getElementById(id);

export const sidebarShown = () => document.body.classList.contains("sidebar-open");

export function showSidebar(shown) {
  const before = sidebarShown();
  document.body.classList.toggle("sidebar-open", shown);
  $("shade").hidden = !shown;
  $("main").inert = shown;
  if (shown) $("search").focus();
  else if (before) $("sidebar-open").firstElementChild.focus();
}

const close = () => showSidebar(false);
matchMedia("(min-width: 60rem)").addEventListener("change", close);
$("shade").addEventListener("click", close);
$("sidebar-open").append(button("Conversations", "menu", () => showSidebar(true), { class: "quiet" }));
$("sidebar-close").append(button("Close", "close", close, { class: "quiet" }));
