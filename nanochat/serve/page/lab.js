// The lab: six tools that show how the model works. Each builds its own section; `lab` is what they share.

import { explain, getJson, modelOptions, watchServer } from "./api.js";
import { el, themeButton } from "./dom.js";
import { buildOdds } from "./lab_odds.js";
import { buildReshape } from "./lab_reshape.js";
import { buildCompare, buildStream, buildSurprise } from "./lab_texts.js";
import { buildTraining } from "./lab_training.js";

const $ = (id) => document.getElementById(id);
const watch = watchServer($("gone"), boot);

const lab = {
  models: [],
  get model() {
    return $("model").value;
  },
  /** The request's fields for a prompt: chat models get a message, base models the text. */
  prompt(model, text) {
    const kind = lab.models.find(({ id }) => id === model.split("@")[0])?.nanochat.kind;
    return { model, ...(kind === "base" ? { text } : { messages: [{ role: "user", content: text }] }) };
  },
  /** A form that runs `work(signal)`; its button stops the run, and errors stand below it. */
  form(label, fields, work) {
    const fault = el("p", { class: "problem", role: "alert", hidden: true });
    const submit = el("button", { type: "submit", class: "primary" }, label);
    let running = null;
    const run = async () => {
      running?.abort(); // another tool, or a rival, has started it again
      const controller = new AbortController();
      running = controller;
      submit.textContent = "Stop";
      fault.hidden = true;
      try {
        await work(controller.signal);
      } catch (error) {
        if (error.name !== "AbortError") {
          watch.saw(error);
          fault.textContent = explain(error);
          fault.hidden = false;
        }
      } finally {
        if (running === controller) {
          running = null;
          submit.textContent = label;
        }
      }
    };
    const form = el("form", { class: "controls" }, ...fields, submit, fault);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (running) running.abort();
      else run();
    });
    form.addEventListener("keydown", (event) => {
      const enters = event.key === "Enter" && event.target.tagName === "TEXTAREA" && !event.shiftKey;
      if (!enters || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      if (!running) run();
    });
    return { form, run };
  },
  /** A labelled control. */
  field: (name, control, wide = false) =>
    el("label", { class: wide ? "wide" : "" }, el("span", {}, name), control),
  number: (value, props) => el("input", { type: "number", value, min: 0, ...props }),
  text: (value, rows = 1) => el("textarea", { value, rows }),
};

const reshape = buildReshape($("reshape"), lab);
buildOdds($("odds"), lab, reshape);
const compare = buildCompare($("compare"), lab);
buildStream($("stream"), lab);
const training = buildTraining($("training"), lab);
buildSurprise($("surprise"), lab);
$("tools").append(themeButton());

async function boot() {
  try {
    const [info, listed] = await Promise.all([getJson("api/info"), getJson("v1/models")]);
    lab.models = listed.data;
    modelOptions($("model"), lab.models, { chosen: lab.model || info.default_model });
    compare.offer(lab.models, info.default_model);
    await training.offer();
  } catch (error) {
    watch.saw(error);
    if (error.code !== "unreachable")
      $("main").prepend(el("p", { class: "problem", role: "alert" }, explain(error)));
  }
}
boot();
