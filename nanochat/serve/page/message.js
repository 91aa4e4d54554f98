// The text of a message, whose content is a string or a list of parts.

/** A message's text, with code and outputs. */
export function textOf(message) {
  return typeof message.content === "string"
    ? message.content
    : message.content.map((part) => part.text).join("");
}

/** A message's text as a reader would copy it: the answer without tool calls. */
export function answerOf(message) {
  if (typeof message.content === "string") return message.content;
  return message.content
    .filter((part) => part.type === "text")
    .map((part) => part.text)
    .join("")
    .trim();
}
