// Markdown to DOM nodes. What a model writes is untrusted: no markup, no address other than http(s) and mailto,
// no images (they would tell another host), bounded nesting, and time linear in the text.

import { copyButton, el } from "./dom.js";

const DEEPEST = 8;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]{0,30})/;
const HEADING = /^ {0,3}(#{1,6})\s+/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;
const DASHES = /^\|? *:?-+:? *(\| *:?-+:? *)*\|?$/; // of a trimmed line: no two blanks beside each other

const built = new WeakMap(); // element → the source of each of its blocks

/** Show `text` in `parent`. Blocks that have not changed keep their nodes, and with them a reader's selection. */
export function renderMarkdown(parent, text) {
  const before = built.get(parent) ?? [];
  const blocks = parseBlocks(text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n"), 0);
  blocks.forEach((block, i) => {
    if (before[i] === block.source) return;
    const node = block.build();
    if (i < parent.childNodes.length) parent.replaceChild(node, parent.childNodes[i]);
    else parent.append(node);
  });
  while (parent.childNodes.length > blocks.length) parent.lastChild.remove();
  built.set(
    parent,
    blocks.map((block) => block.source),
  );
}

/** Blocks as {source, build}; equal sources build equal nodes. */
function parseBlocks(lines, depth) {
  const blocks = [];
  for (let at = 0; at < lines.length;) {
    if (!lines[at].trim()) {
      at++;
      continue;
    }
    const reader = depth < DEEPEST ? READERS.find(([matches]) => matches(lines, at)) : null;
    const [end, build] = reader ? reader[1](lines, at, depth) : paragraph(lines, at, depth);
    blocks.push({ source: `${reader?.[1].name}\n${lines.slice(at, end).join("\n")}`, build });
    at = end;
  }
  return blocks;
}

const READERS = [
  [(lines, at) => FENCE.test(lines[at]), fence],
  [(lines, at) => HEADING.test(lines[at]), heading],
  [(lines, at) => RULE.test(lines[at]), rule],
  [(lines, at) => QUOTE.test(lines[at]), quote],
  [(lines, at) => ITEM.test(lines[at]), list],
  [(lines, at) => lines[at].includes("|") && DASHES.test((lines[at + 1] ?? "").trim()), table],
];

function fence(lines, at) {
  const [, mark, language] = FENCE.exec(lines[at]);
  let end = at + 1;
  while (
    end < lines.length &&
    !(lines[end].trim().startsWith(mark) && !lines[end].trim().slice(mark.length).trim())
  ) {
    end++;
  }
  const code = lines.slice(at + 1, end).join("\n");
  return [end + 1, () => codeBlock(code, language || "code")];
}

/** A block of code with its language and a copy button. */
export function codeBlock(code, language) {
  return el(
    "div",
    { class: "code" },
    el(
      "div",
      { class: "code-head" },
      el("span", {}, language),
      copyButton(() => code, { class: "quiet small" }),
    ),
    el("pre", { tabIndex: 0, role: "region", "aria-label": `${language} block` }, el("code", {}, code)),
  );
}

function heading(lines, at) {
  const mark = HEADING.exec(lines[at]);
  const text = lines[at]
    .slice(mark[0].length)
    .replace(/ #+ *$/, "")
    .trim();
  // One level for all: a model skips levels as it likes, which would break the outline that screen readers offer.
  return [at + 1, () => el("h3", { class: `size-${mark[1].length}` }, inline(text))];
}

function rule(lines, at) {
  return [at + 1, () => el("hr")];
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end++;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [end, () => el("blockquote", {}, ...parseBlocks(inner, depth + 1).map((block) => block.build()))];
}

function list(lines, at, depth) {
  const [, indent, marker] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(marker);
  const items = [];
  let end = at;
  for (; end < lines.length; end++) {
    const found = ITEM.exec(lines[end]);
    if (found && found[1].length <= indent.length + 1 && found[1].length >= indent.length) {
      if (/\d/.test(found[2]) !== ordered) break;
      items.push([lines[end].slice(found[0].length)]);
    } else if (!lines[end].trim()) {
      const next = lines[end + 1] ?? "";
      if (!next.startsWith(`${indent}  `) && !ITEM.test(next)) break;
      items.at(-1).push("");
    } else if (lines[end].startsWith(`${indent}  `)) {
      items.at(-1).push(lines[end].slice(indent.length + 2));
    } else break;
  }
  const build = () => {
    const start = ordered ? parseInt(marker, 10) : null;
    return el(ordered ? "ol" : "ul", { start }, ...items.map((item) => listItem(item, depth)));
  };
  return [end, build];
}

function listItem(lines, depth) {
  const nodes = parseBlocks(lines, depth + 1).map((block) => block.build());
  return el(
    "li",
    {},
    ...nodes.flatMap((node, i) => (i === 0 && node.tagName === "P" ? [...node.childNodes] : [node])),
  );
}

function table(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|") && lines[end].trim()) end++;
  const cells = (line) =>
    line
      .trim()
      .replace(/^\|/, "")
      .replace(/\|$/, "")
      .split("|")
      .map((cell) => cell.trim());
  const row = (tag, line) => el("tr", {}, ...cells(line).map((cell) => el(tag, {}, inline(cell))));
  const build = () =>
    el(
      "div",
      { class: "table", tabIndex: 0, role: "region", "aria-label": "Table" },
      el(
        "table",
        {},
        el("thead", {}, row("th", lines[at])),
        el("tbody", {}, ...lines.slice(at + 2, end).map((line) => row("td", line))),
      ),
    );
  return [end, build];
}

function paragraph(lines, at, depth) {
  let end = at + 1;
  const starts = (line) =>
    depth < DEEPEST && [FENCE, HEADING, RULE, QUOTE, ITEM].some((pattern) => pattern.test(line));
  while (end < lines.length && lines[end].trim() && !starts(lines[end])) end++;
  return [end, () => el("p", {}, inline(lines.slice(at, end).join("\n").trim()))];
}

// --- within a line ------------------------------------------------------------------------------------------------

const SPECIAL = /[\\`*_~[!\n]|https?:\/\//g;
const WORD = /[\p{L}\p{N}]/u;
const MARKS = {
  "***": ["strong", "em"],
  "**": ["strong"],
  __: ["strong"],
  "*": ["em"],
  _: ["em"],
  "~~": ["del"],
};

/** Inline markdown as a fragment. `absent` remembers closing marks that do not occur again: no search is repeated. */
function inline(text, depth = 0) {
  const parent = document.createDocumentFragment();
  const absent = new Set();
  let plain = 0;
  let at = 0;
  const put = (end, node, next) => {
    if (end > plain) parent.append(text.slice(plain, end));
    if (node) parent.append(node);
    plain = at = next;
  };
  while (depth < DEEPEST) {
    SPECIAL.lastIndex = at;
    const found = SPECIAL.exec(text);
    if (!found) break;
    at = found.index;
    const made = INLINE[found[0][0]](text, at, depth, absent);
    if (made) put(at, made.node, made.end);
    else at += found[0].length > 1 ? found[0].length : runLength(text, at);
  }
  put(text.length, null, text.length);
  return parent;
}

function runLength(text, at) {
  let end = at + 1;
  while (end < text.length && text[end] === text[at] && "*_~`".includes(text[at])) end++;
  return end - at;
}

const INLINE = {
  "\\": (text, at) =>
    /[\\`*_{}[\]()#+\-.!|<>~]/.test(text[at + 1] ?? "") ? { node: text[at + 1], end: at + 2 } : null,
  "\n": (text, at) => ({ node: el("br"), end: at + 1 }),
  "`": codeSpan,
  "*": emphasis,
  _: emphasis,
  "~": emphasis,
  "[": link,
  "!": (text, at) => (text[at + 1] === "[" ? link(text, at + 1) : null),
  h: address,
};

function codeSpan(text, at) {
  const mark = "`".repeat(runLength(text, at));
  let end = text.indexOf(mark, at + mark.length);
  while (end >= 0 && text[end + mark.length] === "`") {
    end += runLength(text, end);
    end = text.indexOf(mark, end);
  }
  if (end < 0) return null; // at most once a length of run
  return { node: el("code", {}, text.slice(at + mark.length, end).trim()), end: end + mark.length };
}

function emphasis(text, at, depth, absent) {
  const mark = text[at].repeat(Math.min(runLength(text, at), 3));
  const tags = MARKS[mark];
  const inside = text[at + mark.length];
  if (!tags || absent.has(mark) || !inside || /\s/.test(inside)) return null;
  if (mark[0] === "_" && at > 0 && WORD.test(text[at - 1])) return null; // snake_case
  for (let end = text.indexOf(mark, at + mark.length); end >= 0; end = text.indexOf(mark, end)) {
    const run = runLength(text, end);
    const closes = run === mark.length && !/\s/.test(text[end - 1]);
    if (closes && !(mark[0] === "_" && WORD.test(text[end + 1] ?? ""))) {
      const content = inline(text.slice(at + mark.length, end), depth + 1);
      const node = tags.reduceRight((child, tag) => el(tag, {}, child), content);
      return { node, end: end + mark.length };
    }
    end += run;
  }
  absent.add(mark);
  return null;
}

function link(text, at) {
  const middle = text.slice(at, at + 1000).indexOf("](");
  if (middle < 0) return null;
  const target = text.slice(at + middle + 2, at + middle + 2000);
  const end = target.indexOf(")");
  const label = text.slice(at + 1, at + middle);
  if (end < 0 || label.includes("[")) return null;
  const node = anchor(target.slice(0, end), inline(label, DEEPEST));
  return node && { node, end: at + middle + end + 3 };
}

function address(text, at) {
  const [url] = /^[^\s<>"]{1,2000}/.exec(text.slice(at, at + 2000));
  const clean = url.replace(/[.,;:!?)'*_~`\]]{1,9}$/, "");
  const node = anchor(clean, clean);
  return node && { node, end: at + clean.length };
}

const SCHEMES = new Set(["http:", "https:", "mailto:"]);

function anchor(target, content) {
  let url;
  try {
    url = new URL(target.trim());
  } catch {
    return null; // relative addresses would lead into this page
  }
  if (!SCHEMES.has(url.protocol)) return null;
  return el("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" }, content);
}
