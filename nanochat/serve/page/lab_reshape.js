// (d) Temperature, top-k and top-p reshape the distribution of one position.

import { postJson, stream } from "./api.js";
import { el, grouped, percent } from "./dom.js";
import { bars, quoted } from "./strip.js";

const SHOWN = 12;

/** Probabilities after temperature, top-k and top-p, as the engine computes them; `logits` are sorted, best first. */
export function reshaped(logits, { temperature, topK, topP }) {
  if (temperature < 1e-5) return logits.map((_, i) => (i === 0 ? 1 : 0));
  const kept = Math.min(topK || logits.length, logits.length);
  const weights = logits.map((logit, i) => (i < kept ? Math.exp((logit - logits[0]) / temperature) : 0));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let before = 0;
  const cut = weights.map((weight) => {
    const inside = topP >= 1 || before < topP * total;
    before += weight;
    return inside ? weight : 0;
  });
  const rest = cut.reduce((sum, weight) => sum + weight, 0);
  return cut.map((weight) => weight / rest);
}

/** The exponential of the entropy: how many equally likely tokens would be as uncertain. */
const choices = (shares) => Math.exp(-shares.reduce((sum, p) => sum + (p > 0 ? p * Math.log(p) : 0), 0));

export function buildReshape(section, lab) {
  const prompt = lab.text("Tell me a story.");
  const slider = (value, min, max, step) => el("input", { type: "range", min, max, step, value });
  const sliders = {
    temperature: slider(1, 0, 2, 0.05),
    topK: slider(0, 0, 60, 1),
    topP: slider(1, 0.05, 1, 0.01),
  };
  const names = { temperature: "Temperature", topK: "Top-k (0: no limit)", topP: "Top-p" };
  const outputs = {};
  const title = el("h3", {});
  const summary = el("p", { class: "hint", role: "status" });
  const result = el("div", {});
  let data = null;

  const controls = Object.entries(sliders).map(([name, control]) => {
    outputs[name] = el("b", {});
    control.addEventListener("input", draw);
    return el("label", { class: "reshaping" }, el("span", {}, names[name], outputs[name]), control);
  });

  function draw() {
    const values = Object.fromEntries(
      Object.entries(sliders).map(([name, control]) => [name, Number(control.value)]),
    );
    for (const [name, value] of Object.entries(values)) outputs[name].textContent = String(value);
    if (!data) return;
    const shares = reshaped(data.logits, values);
    result.replaceChildren(
      bars(
        data.tokens
          .slice(0, SHOWN)
          .map((token, i) => ({ token, p: shares[i], was: Math.exp(token.logprob) })),
      ),
    );
    const left = shares.filter((p) => p > 0).length;
    const top = shares.slice(0, SHOWN).reduce((sum, p) => sum + p, 0);
    summary.textContent =
      `${grouped(left)} tokens can be drawn, as uncertain as ${choices(shares).toFixed(1)} equally likely ones; ` +
      `those above have ${percent(top)}. The line in each bar is the model’s own probability.`;
  }

  async function load(model, ids, signal) {
    const top = lab.models.find(({ id }) => id === model.split("@")[0]).nanochat.vocab_size; // all, to be exact
    data = await postJson("api/next", { model, ids, top }, signal);
    draw();
  }

  let given = null; // a position chosen in another tool
  const { form, run } = lab.form("Look", [lab.field("Prompt", prompt, true)], async (signal) => {
    const taken = given;
    given = null;
    if (taken) {
      title.textContent = `Instead of ${quoted(taken.token)}`;
      return load(taken.model, taken.ids, signal);
    }
    title.textContent = "The first token of the answer";
    const model = lab.model;
    for await (const item of stream(
      "api/generate",
      { ...lab.prompt(model, prompt.value), max_tokens: 1, top_logprobs: 0 },
      signal,
    )) {
      if (item.prompt)
        await load(
          model,
          item.prompt.map(({ id }) => id),
          signal,
        );
    }
  });
  section.append(
    form,
    el(
      "div",
      { class: "split" },
      el("div", {}, title, result, summary),
      el("div", { class: "panel" }, ...controls),
    ),
  );
  draw();
  return {
    /** Look at the position after `ids`, where `token` was drawn. */
    take(model, ids, token) {
      given = { model, ids, token };
      run();
      section.scrollIntoView({ block: "start" });
      sliders.temperature.focus({ preventScroll: true });
    },
  };
}
