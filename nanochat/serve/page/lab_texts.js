// (b) two checkpoints side by side, (c) the true token stream, (f) the surprise of a text.

import { modelOptions, postJson, stream } from "./api.js";
import { announce, el, percent } from "./dom.js";
import { addToParts, wireMessages } from "./generate.js";
import { bars, quoted, Strip } from "./strip.js";

export function buildCompare(section, lab) {
  const prompt = lab.text("What is the capital of France?");
  const [temperature, seed, length] = [
    lab.number(0.8, { step: 0.1, max: 2 }),
    lab.number(1, { step: 1 }),
    lab.number(60, { step: 1, min: 1 }),
  ];
  const sides = [0, 1].map((i) => ({
    select: el("select", { "aria-label": `Model ${i + 1}` }),
    text: el("div", { class: "said" }),
    tokens: [],
  }));

  /** The first token that is not the same text as the other side's. */
  function mark() {
    const [a, b] = sides.map(({ tokens }) => tokens.map((token) => token.special ?? token.text));
    const same = a.findIndex((text, i) => i < b.length && text !== b[i]);
    for (const side of sides) {
      side.text.replaceChildren(
        ...side.tokens
          .filter(({ special }) => !special)
          .map((token) => {
            const at = side.tokens.indexOf(token);
            return el(
              "span",
              { class: `${token.part !== "text" ? token.part : ""} ${at === same ? "differs" : ""}` },
              token.text,
            );
          }),
      );
    }
  }

  async function answer(side, signal) {
    side.tokens = [];
    const settings = {
      temperature: Number(temperature.value),
      seed: Number(seed.value),
      max_tokens: Math.max(1, Number(length.value)),
      top_logprobs: 1, // or several tokens' text would come with the last of them
    };
    for await (const item of stream(
      "api/generate",
      { ...lab.prompt(side.select.value, prompt.value), ...settings },
      signal,
    )) {
      if (item.prompt) continue;
      side.tokens.push(item);
      mark();
    }
  }

  const { form } = lab.form(
    "Compare",
    [
      lab.field("Prompt", prompt, true),
      lab.field("Temperature", temperature),
      lab.field("Seed", seed),
      lab.field("Tokens", length),
    ],
    async (signal) => {
      await Promise.all(sides.map((side) => answer(side, signal)));
      announce("Both answers are complete");
    },
  );
  section.append(
    form,
    el("div", { class: "sides" }, ...sides.map(({ select, text }) => el("div", {}, select, text))),
  );
  return {
    offer(models, chat) {
      const ids = sides.map(({ select }) =>
        modelOptions(select, models, { chosen: select.value || chat }),
      )[0];
      const base =
        models.find(({ nanochat }) => nanochat.kind === "base")?.id ?? ids.find((id) => id !== chat);
      if (sides[0].select.value === sides[1].select.value && base) sides[0].select.value = base;
    },
  };
}

const PLACES = { user: "the user’s message", python: "a tool call", output: "the tool’s output" };

export function buildStream(section, lab) {
  const prompt = lab.text("What is 47 times 36?");
  const facts = el(
    "p",
    { class: "hint", role: "status" },
    "Hover, tap or use the arrow keys to look at a token.",
  );
  const strip = new Strip("The token stream", describe);
  const legend = el(
    "p",
    { class: "legend" },
    ...[
      ["special", "special token"],
      ["user", "user"],
      ["python", "tool call"],
      ["forced", "forced output"],
      ["supervised", "trained on"],
    ].map(([kind, name]) => el("span", { class: `token ${kind}` }, name)),
  );

  function describe(token, at) {
    const who = token.special ? "a special token" : `part of ${PLACES[token.role] ?? "the answer"}`;
    const how = token.forced ? "; forced, not chosen by the model" : "";
    const taught = token.supervised ? "training teaches it" : "not trained on";
    facts.textContent = `Token ${at + 1}: ${quoted(token)}, id ${token.id}, ${who}${how}; ${taught}.`;
  }

  function add(token) {
    const marks = [
      token.special ? "special" : token.role,
      token.forced && "forced",
      token.supervised && "supervised",
    ];
    strip.add(token, { marks: marks.filter(Boolean).join(" "), says: marks.filter(Boolean).join(", ") });
  }

  const { form } = lab.form("Run", [lab.field("Message", prompt, true)], async (signal) => {
    const user = { role: "user", content: prompt.value };
    const model = lab.model;
    let parts = [];
    strip.clear();
    for await (const item of stream(
      "api/generate",
      { model, messages: [user], temperature: 0, top_logprobs: 0 },
      signal,
    )) {
      if (item.prompt) item.prompt.forEach(add);
      else {
        add({ ...item, role: item.part === "text" ? "assistant" : item.part });
        parts = addToParts(parts, item);
      }
    }
    // What training would see. If the answer tokenises differently when it is read again, that is shown instead.
    const { tokens } = await postJson(
      "api/tokens",
      { model, messages: wireMessages("", [user, { role: "assistant", content: parts }]) },
      signal,
    );
    const written = strip.tokens;
    const whole = written.every((token, i) => token.id === tokens[i]?.id);
    strip.clear();
    tokens.forEach((token, i) => add({ ...token, forced: whole && written[i]?.forced }));
    const taught = tokens.filter((token) => token.supervised).length;
    facts.textContent = `${tokens.length} tokens, ${taught} of them trained on.`;
    if (!whole)
      facts.textContent +=
        " Read again, the answer is cut into other tokens than the model wrote: shown as training sees it.";
  });
  section.append(form, legend, strip.root, facts);
}

export function buildSurprise(section, lab) {
  const text = lab.text("The capital of France is Paris. The capital of France is a purple bicycle.", 3);
  const total = el("p", { class: "figure", role: "status" });
  const panel = el(
    "div",
    { class: "panel", role: "region", "aria-label": "What was expected" },
    el("p", { class: "hint" }, "Look at a token to see what the model expected."),
  );
  const strip = new Strip("The text's tokens", (token) =>
    panel.replaceChildren(
      el("h3", {}, quoted(token), el("span", { class: "share" }, `${token.bits.toFixed(1)} bits`)),
      bars(
        token.top.map((rival) => ({
          token: rival,
          p: Math.exp(rival.logprob),
          chosen: rival.id === token.id,
        })),
      ),
      el("p", { class: "hint" }, `Its own probability: ${percent(Math.exp(token.logprob))}.`),
    ),
  );
  const { form } = lab.form("Score", [lab.field("Text", text, true)], async (signal) => {
    const { tokens, bits_per_byte: rate } = await postJson(
      "api/score",
      { model: lab.model, text: text.value },
      signal,
    );
    strip.clear();
    tokens.forEach((token) =>
      strip.add(token, { heat: Math.min(1, token.bits / 12), says: `${token.bits.toFixed(1)} bits` }),
    );
    const bits = tokens.reduce((sum, token) => sum + token.bits, 0);
    total.replaceChildren(
      el("b", {}, `${rate.toFixed(3)} bits per byte`),
      ` · ${tokens.length} tokens · ${bits.toFixed(0)} bits; the text itself has 8 bits per byte`,
    );
  });
  section.append(form, total, strip.root, panel);
}
