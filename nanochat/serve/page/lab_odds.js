// (a) Each token's probability and rivals; one click continues from a rival.

import { stream } from "./api.js";
import { announce, button, el, percent } from "./dom.js";
import { bars, quoted, Strip } from "./strip.js";

const RIVALS = 10;

export function buildOdds(section, lab, reshape) {
  const prompt = lab.text("Name an animal.");
  const temperature = lab.number(1, { step: 0.1, max: 2 });
  const seed = lab.number(1, { step: 1 });
  const length = lab.number(60, { step: 1, min: 1 });
  const versions = el("div", { class: "versions row", role: "group", "aria-label": "Versions" });
  const panel = el("div", { class: "panel", role: "region", "aria-label": "The token's rivals" });
  const hint = el(
    "p",
    { class: "hint" },
    "Hover, tap or use the arrow keys to look at a token; a click keeps it.",
  );
  let answers = []; // {name, tokens}
  let shown = null;
  let request = null; // the prompt of the answers
  let promptIds = [];

  const strip = new Strip("The answer's tokens", describe);

  function put(token) {
    const p = token.logprob === null ? 1 : Math.exp(token.logprob);
    const marks = [
      token.special ? "special" : "",
      token.forced ? "forced" : "",
      token.swapped ? "swapped" : "",
    ];
    strip.add(token, {
      heat: 1 - p,
      marks: marks.join(" "),
      says: token.forced ? "forced by the tool" : percent(p),
    });
  }

  function show(answer) {
    shown = answer;
    strip.clear();
    answer.tokens.forEach(put);
    panel.replaceChildren(hint);
    versions.replaceChildren(
      ...(answers.length < 2
        ? []
        : answers.map((each) =>
            button(each.name, null, () => show(each), {
              class: "small",
              "aria-pressed": String(each === shown),
            }),
          )),
    );
  }

  function describe(token, at) {
    if (token.forced) {
      panel.replaceChildren(
        el("h3", {}, quoted(token)),
        el("p", {}, "Forced by the tool’s output: the model had no choice here."),
      );
      return;
    }
    const rows = token.top.map((rival) => ({
      token: rival,
      p: Math.exp(rival.logprob),
      chosen: rival.id === token.id,
      title: `Continue with ${quoted(rival)}`,
      onclick: rival.id === token.id ? null : () => branch(at, rival),
    }));
    if (!rows.some((row) => row.chosen)) rows.push({ token, p: Math.exp(token.logprob), chosen: true });
    const rest = 1 - rows.reduce((sum, row) => sum + row.p, 0);
    panel.replaceChildren(
      el("h3", {}, quoted(token), el("span", { class: "share" }, percent(Math.exp(token.logprob)))),
      bars(rows),
      el(
        "div",
        { class: "row" },
        el(
          "span",
          { class: "hint" },
          `Token ${at + 1}, id ${token.id}. `,
          rest > 0.0005 ? `All others together: ${percent(rest)}.` : "",
        ),
        el("span", { class: "grow" }),
        button(
          "Reshape this choice",
          "sliders",
          () =>
            reshape.take(
              request.model,
              [...promptIds, ...shown.tokens.slice(0, at).map(({ id }) => id)],
              token,
            ),
          { label: true, class: "small" },
        ),
      ),
    );
  }

  async function write(answer, signal) {
    const reply = answer.tokens.map(({ id }) => id);
    const body = {
      ...request,
      reply_ids: reply,
      temperature: Number(temperature.value),
      seed: Number(seed.value),
      max_tokens: Math.max(1, Number(length.value)),
      top_k: 0,
      top_p: 1,
      top_logprobs: RIVALS,
    };
    for await (const item of stream("api/generate", body, signal)) {
      if (item.prompt)
        promptIds = item.prompt.slice(0, item.prompt.length - reply.length).map(({ id }) => id);
      else {
        answer.tokens.push(item);
        if (shown === answer) put(item);
      }
    }
    announce("The answer is complete");
  }

  let next = null; // a branch that the form's next run writes
  const { form, run } = lab.form(
    "Run",
    [
      lab.field("Prompt", prompt, true),
      lab.field("Temperature", temperature),
      lab.field("Seed", seed),
      lab.field("Tokens", length),
    ],
    async (signal) => {
      const branching = next;
      next = null;
      if (!branching) {
        request = lab.prompt(lab.model, prompt.value);
        answers = [];
      }
      const answer = branching ?? { name: "First answer", tokens: [] };
      answers.push(answer);
      show(answer);
      await write(answer, signal);
    },
  );

  function branch(at, rival) {
    const same = shown.tokens.slice(0, at);
    next = {
      name: `${quoted(rival)} at ${at + 1}`,
      tokens: [...same, { ...shown.tokens[at], ...rival, swapped: true }],
    };
    run();
    strip.nodes[at]?.focus({ preventScroll: true });
  }

  panel.append(hint);
  section.append(form, versions, strip.root, panel);
}
