// A classic script, loaded before the first paint: a page that starts light and turns dark is unpleasant at night.
document.documentElement.dataset.theme = "auto";
try {
  document.documentElement.dataset.theme = localStorage.getItem("nanochat.theme") ?? "auto";
} catch {
  // Storage is blocked.
}
