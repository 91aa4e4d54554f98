// (e) A running or finished training, from its metrics.

import { getJson } from "./api.js";
import { chart } from "./chart.js";
import { el, grouped } from "./dom.js";

const EVERY_MS = 2000;

export function buildTraining(section, lab) {
  const select = el("select", {});
  const facts = el("p", { class: "figure", role: "status" });
  const charts = el("div", { class: "charts" });
  const samples = el("div", { class: "samples" });
  let runs = [];
  let rows = [];
  let next = 0;
  let started = null; // when the training began whose rows these are
  let seen = true;
  let timer = null;

  /** The last row of each step: a resumed run repeats some. */
  const series = (kind, name) => {
    const found = new Map(
      rows
        .filter((row) => row.kind === kind && Number.isFinite(row[name]))
        .map((row) => [row.step, row[name]]),
    );
    return [...found].sort(([a], [b]) => a - b);
  };

  function draw() {
    const kinds = [
      ["Training loss", "train", "loss"],
      ["Bits per byte on unseen text", "eval", "val_bpb"],
      ["Loss on unseen conversations", "eval", "val_loss"],
    ];
    const figures = kinds
      .map(([name, kind, field]) => [name, series(kind, field), kind === "eval"])
      .filter(([, points]) => points.length > 1);
    charts.replaceChildren(...figures.map(([name, points, dots]) => chart(name, points, { dots })));
    const last = rows.findLast((row) => row.kind === "train");
    const run = runs.find((each) => each.run === select.value);
    facts.textContent = last
      ? `Step ${grouped(last.step)} of ${grouped(last.total_steps)} · ${grouped(last.tokens)} tokens · ` +
        `${grouped(last.tok_per_s)} tokens per second${run && !run.finished ? " · running or paused" : ""}`
      : "No steps yet.";
    const told = rows.filter((row) => row.kind === "sample");
    const step = told.at(-1)?.step;
    samples.replaceChildren(
      ...(step === undefined ? [] : [el("h3", {}, `What it says at step ${grouped(step)}`)]),
      ...told
        .filter((row) => row.step === step)
        .slice(-6)
        .map((row) => el("p", {}, el("b", {}, row.prompt), " ", row.text)),
    );
  }

  async function read() {
    clearTimeout(timer);
    const run = select.value;
    if (document.hidden) {
      timer = setTimeout(read, EVERY_MS);
      return;
    }
    const finished = () => runs.find((each) => each.run === run)?.finished;
    try {
      for (let got = null; run && (!got || got.rows.length);) {
        got = await getJson(`api/runs/${encodeURIComponent(run)}/metrics?after=${next}`);
        if (run !== select.value) return;
        const other = next > 0 && (got.started !== started || got.next < next); // a new training took its place
        rows = other ? [] : [...rows, ...got.rows];
        next = other ? 0 : got.next;
        started = got.started;
        if (got.rows.length) draw();
      }
      if (!finished()) await list();
    } catch {
      // The banner tells; the next reading tries again.
    }
    if (!finished() && seen) timer = setTimeout(read, EVERY_MS);
  }

  function choose() {
    rows = [];
    next = 0;
    draw();
    read();
  }

  async function list() {
    runs = (await getJson("api/runs"))
      .filter(({ steps }) => steps !== null)
      .sort((a, b) => b.updated - a.updated);
    const names = runs.map(({ run }) => run);
    if (names.join() === [...select.options].map(({ value }) => value).join()) return;
    const chosen = select.value;
    select.replaceChildren(...names.map((name) => new Option(name)));
    if (names.includes(chosen)) select.value = chosen;
  }

  select.addEventListener("change", choose);
  new IntersectionObserver(([{ isIntersecting }]) => {
    if (isIntersecting && !seen) timer = setTimeout(read, 0);
    seen = isIntersecting;
  }).observe(section);
  section.append(el("form", { class: "controls" }, lab.field("Run", select)), facts, charts, samples);
  return {
    async offer() {
      await list();
      choose();
    },
  };
}
