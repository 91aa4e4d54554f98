// The chat page: wires the store, the thread, the history and the settings together.

import { explain, getJson, modelOptions, watchServer } from "./api.js";
import { announce, button, growing, icon, themeButton, toast } from "./dom.js";
import { Answers } from "./generate.js";
import { History } from "./history.js";
import { Settings } from "./settings.js";
import { showSidebar, sidebarShown } from "./sidebar.js";
import { local, session } from "./storage.js";
import { Store } from "./store.js";
import { entersText, Thread } from "./thread.js";
import { download, importFile, titleOf } from "./transfer.js";

const $ = (id) => document.getElementById(id);
const MODEL = "nanochat.model";
const EXAMPLES = [
  "What is the capital of France?",
  "What is 47 times 36?",
  "How do you spell strawberry?",
  "Who are you?",
];

const store = await Store.open();
const answers = new Answers(store);
const input = $("input");
const grow = growing(input);
const settings = new Settings();
let reached = false; // the server has said what it has
let models = [];
let current = null; // the conversation that is shown; null before its first message
let draftSystem = ""; // the system prompt of a conversation that has no message yet

const watch = watchServer($("gone"), boot);
const notice = (text) => {
  $("notice").textContent = text ?? "";
  $("notice").hidden = !text;
};
const warn = () => {
  $("unkept").hidden = !store.fault;
  $("unkept").textContent = `The history is not kept: ${store.fault?.message}. Export it before you leave.`;
};
store.addEventListener("fault", warn);
warn();
answers.addEventListener("error", ({ detail }) => watch.saw(detail.error));

// --- conversations -----------------------------------------------------------------------------------------

const ask = (parent, conversation, into = null) =>
  answers.write({ conversation, parent, into, model: $("model").value, sampling: settings.request() });

async function send(text) {
  if (!ready()) return;
  if (!current) {
    const { id } = await store.create({ title: titleOf(text), system: draftSystem });
    open(id, { keepInput: true });
  }
  await reply(store.path(current).at(-1)?.id ?? null, text);
}

/** A user's message below `parent`, and its answer. */
async function reply(parent, text) {
  const conversation = current;
  const message = await store.addMessage(conversation, parent, { role: "user", content: text });
  thread.toLatest();
  const { named } = store.conversations.get(conversation);
  if (parent === null && !named) store.patch(conversation, { title: titleOf(text) });
  ask(message.id, conversation);
  return message;
}

/** Whether a question can be asked now; says why not. */
function ready() {
  const busy = answers.running(current);
  if (!reached) boot();
  else if (busy) toast("Stop the answer that is being written first.");
  return reached && $("model").value && !busy;
}

const actions = {
  edit(message, text) {
    if (!ready()) return false;
    reply(message.parent, text).then((made) => thread.focus(made.id));
    return true;
  },
  regenerate(message) {
    if (!ready()) return;
    ask(message.parent, message.conversation);
    thread.toLatest();
    $("send").focus(); // it stops the new answer
  },
  resume(message) {
    if (!ready()) return;
    answers.write({
      conversation: message.conversation,
      model: message.model,
      sampling: settings.request(),
      into: message.id,
    });
    $("send").focus();
  },
  choose(sibling, direction) {
    if (!sibling) return;
    store.patch(sibling.conversation, { chosen: { [sibling.parent ?? "root"]: sibling.id } });
    thread.focus(sibling.id, direction);
    thread.update();
    const all = store.siblings(sibling);
    announce(`Version ${all.indexOf(sibling) + 1} of ${all.length}`);
  },
};

const thread = new Thread({ log: $("log"), latest: $("latest"), store, actions, empty: $("empty") });
const history = new History({
  list: $("history"),
  search: $("search"),
  store,
  answers,
  open: (id) => {
    open(id);
    showSidebar(false);
  },
  closed: (id) => id === current && open(null),
});

const draftKey = () => `nanochat.draft.${current ?? "new"}`;

function open(id, { keepInput = false } = {}) {
  current = store.conversations.has(id) && !store.conversations.get(id).deleted ? id : null;
  const hash = current ? `#c=${current}` : "";
  if (location.hash !== hash)
    window.history.pushState(null, "", `${location.pathname}${location.search}${hash}`);
  thread.show(current);
  history.select(current);
  if (!keepInput) {
    input.value = session.get(draftKey()) ?? "";
    grow();
  }
  update();
}

const fromAddress = () => open(new URLSearchParams(location.hash.slice(1)).get("c"));
addEventListener("popstate", fromAddress);

/** Everything around the log that depends on the conversation. */
function update() {
  const conversation = store.conversations.get(current);
  document.title = conversation ? `${conversation.title} · nanochat` : "nanochat";
  const busy = Boolean(answers.running(current));
  if (send.busy !== busy) {
    send.busy = busy;
    $("send").replaceChildren(icon(busy ? "stop" : "send"));
    $("send").setAttribute("aria-label", busy ? "Stop" : "Send");
    $("send").title = busy ? "Stop (Esc)" : "Send";
  }
  const last = store.path(current).findLast((message) => message.ids?.length);
  const context = models.find((model) => model.id === $("model").value.split("@")[0])?.nanochat.context;
  $("gauge").hidden = !last?.promptTokens || !context;
  $("gauge-text").textContent = "";
  if ($("gauge").hidden) return;
  const used = last.promptTokens + last.ids.length;
  const share = Math.min(1, used / context);
  $("gauge").firstElementChild.style.width = `${share * 100}%`;
  $("gauge").classList.toggle("full", share > 0.85);
  $("gauge").setAttribute("aria-valuemax", context);
  $("gauge").setAttribute("aria-valuenow", Math.min(used, context));
  $("gauge-text").textContent = `${used} of ${context} tokens`;
}
store.addEventListener("change", ({ detail }) => {
  if (detail.conversation !== current) return;
  const conversation = store.conversations.get(current);
  if (!conversation || conversation.deleted)
    open(null); // another tab has deleted it
  else update();
});

// --- the composer ------------------------------------------------------------------------------------------

const stop = () => {
  const running = answers.running(current);
  if (running) answers.stop(running);
  return Boolean(running);
};
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (stop()) return input.focus();
  const text = input.value.trim();
  if (!text || !ready()) return;
  session.remove(draftKey());
  input.value = "";
  grow();
  send(text);
  input.focus();
});
input.addEventListener("input", () => session.set(draftKey(), input.value));
input.addEventListener("keydown", (event) => {
  if (event.key === "ArrowUp" && !input.value) {
    const buttons = $("log").querySelectorAll('.user [data-action="edit"]');
    if (buttons.length) event.preventDefault();
    [...buttons].at(-1)?.click();
  }
  if (entersText(event)) return;
  event.preventDefault();
  if (!answers.running(current)) $("composer").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || $("settings").open) return;
  if (sidebarShown()) showSidebar(false);
  else if (event.target === input || !event.target.matches("input, textarea, select")) stop();
});

// --- settings, files, examples -----------------------------------------------------------------------------

const systemPrompt = {
  read: () => store.conversations.get(current)?.system ?? draftSystem,
  write: (text) => (current ? store.patch(current, { system: text }) : (draftSystem = text)),
};

function openSettings() {
  settings.render($("settings-form"), systemPrompt);
  $("settings").showModal();
}
$("settings").addEventListener("click", (event) => event.target === $("settings") && $("settings").close());

$("file").addEventListener("change", async () => {
  const [file] = $("file").files;
  if (file) toast(await importFile(store, file));
  $("file").value = "";
});

$("new-chat").append(
  button(
    "New chat",
    "plus",
    () => {
      draftSystem = settings.get("system") ?? "";
      open(null);
      showSidebar(false);
      input.focus();
    },
    { label: true },
  ),
);
$("tools").append(button("Settings", "sliders", openSettings, { class: "quiet" }), themeButton());
$("settings-close").append(button("Close", "close", () => $("settings").close(), { class: "quiet" }));
$("transfer").append(
  button("Export", null, () => download(store), { class: "quiet" }),
  button("Import", null, () => $("file").click(), { class: "quiet" }),
);
$("examples").append(
  ...EXAMPLES.map((text) =>
    button(text, null, () => {
      send(text);
      input.focus();
    }),
  ),
);

settings.addEventListener("key", boot);

// --- the server --------------------------------------------------------------------------------------------

async function boot() {
  try {
    const [info, listed] = await Promise.all([getJson("api/info"), getJson("v1/models")]);
    models = listed.data;
    if (!reached) draftSystem = info.defaults.system ?? "";
    settings.info = info;
    reached = true;
    const wanted = [$("model").value, local.get(MODEL), info.default_model]; // a tab keeps the model that it shows
    const ids = modelOptions($("model"), models, { kinds: ["chat"] });
    $("model").value = [...wanted, ids[0]].find((id) => ids.includes(id)) ?? "";
    notice(
      ids.length
        ? null
        : "There is no chat model here yet. Run “nanochat sft”, or look at the base model in the lab.",
    );
    describe(info);
    update();
  } catch (error) {
    watch.saw(error);
    if (error.code !== "unreachable") notice(explain(error));
  }
}

function describe(info) {
  const model = models.find(({ id }) => id === $("model").value.split("@")[0]);
  const size = model?.nanochat.parameters;
  const words = size >= 1e9 ? `${(size / 1e9).toFixed(1)} billion` : `${(size / 1e6).toFixed(1)} million`;
  $("about").textContent = model
    ? `A model of ${words} parameters, trained with nanochat, answering on ${info.device}. It makes mistakes.`
    : "";
}
$("model").addEventListener("change", () => {
  local.set(MODEL, $("model").value);
  describe(settings.info);
  update();
});
document.addEventListener("visibilitychange", () => !document.hidden && !answers.running(current) && boot());

fromAddress();
boot();
