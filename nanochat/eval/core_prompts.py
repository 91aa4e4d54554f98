"""The prompts of CORE's items, as tokens.

Every item becomes one or more prompts with one scored span each:

    multiple_choice     query + each choice; the span is all after the choices' common prefix
    schema              each context + the continuation; the span is their common suffix
    language_modeling   context + continuation; the span is the continuation
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

from nanochat.eval.bundle import CoreTask
from nanochat.eval.prompt_states import PromptRow, common_prefix
from nanochat.tokenizer.tokenizer import Tokenizer

_FEWSHOT_SEED = 1234  # plus the item's index: seeds the draw of its examples
_EXAMPLE_DELIMITER = "\n\n"


def examples(task: CoreTask, index: int) -> list[int]:
    """The indices of an item's few-shot examples."""
    chooser = random.Random(_FEWSHOT_SEED + index)
    others = chooser.sample(range(len(task.items) - 1), task.shots)
    return [other + (other >= index) for other in others]


def _choices(item: dict[str, Any], delimiter: str) -> list[str]:
    return [item["query"] + delimiter + choice for choice in item["choices"]]


def _schema(item: dict[str, Any], delimiter: str) -> list[str]:
    return [context + delimiter + item["continuation"] for context in item["context_options"]]


def _language(item: dict[str, Any], delimiter: str) -> list[str]:
    context = item["context"].strip()
    # Without the delimiter's trailing space, which a tokenizer merges into the continuation's first word.
    return [(context + delimiter).rstrip(), context + delimiter + item["continuation"]]


_VARIANTS: dict[str, Callable[[dict[str, Any], str], list[str]]] = {
    "multiple_choice": _choices,
    "schema": _schema,
    "language_modeling": _language,
}
"""An item's texts; for language modelling two, the context without and with its continuation."""


class TaskPrompts:
    """One task's items as tokens. An example's text is encoded once, however many items it stands before."""

    def __init__(self, task: CoreTask, tokenizer: Tokenizer, max_seq_len: int):
        self._task, self._tokenizer, self._max_seq_len = task, tokenizer, max_seq_len
        self._variants = _VARIANTS[task.kind]
        self._encoded: dict[int, list[int]] = {}

    def texts(self, index: int) -> list[str]:
        """The whole texts of an item."""
        before = "".join(self._example(shot) for shot in examples(self._task, index))
        return [before + text for text in self._variants(self._task.items[index], self._task.delimiter)]

    def rows(self, index: int) -> list[PromptRow]:
        """The prompts of one item, each truncated from the left to the context."""
        texts = self._encode(index)
        if self._task.kind == "schema":
            shared = common_prefix([text[::-1] for text in texts])
            spans = [(len(text) - shared, text) for text in texts]
        else:
            shared = common_prefix(texts)
            spans = [(shared, text) for text in texts]
        if self._task.kind == "language_modeling":
            spans = spans[1:]
        # At least one token is scored, and at least one precedes it.
        return [_cut(text, max(1, min(start, len(text) - 1)), self._max_seq_len) for start, text in spans]

    def _example(self, shot: int) -> str:
        item = self._task.items[shot]
        return self._variants(item, self._task.delimiter)[item.get("gold", -1)] + _EXAMPLE_DELIMITER

    def _encode(self, index: int) -> list[list[int]]:
        """The ids of `texts`, BOS first.

        No token spans a line end and a character that is no blank (tokenizer/patterns.py), so texts joined there may
        be encoded apart. Where the next text begins with a blank, they are encoded together.
        """
        shots = examples(self._task, index)
        variants = self._variants(self._task.items[index], self._task.delimiter)
        if not all(map(_is_apart, variants)) or not all(_is_apart(self._example(shot)) for shot in shots):
            return [[self._tokenizer.bos, *self._tokenizer.encode(text)] for text in self.texts(index)]
        before = [self._tokenizer.bos]
        for shot in shots:
            if shot not in self._encoded:
                self._encoded[shot] = self._tokenizer.encode(self._example(shot))
            before += self._encoded[shot]
        return [before + self._tokenizer.encode(text) for text in variants]


def _is_apart(text: str) -> bool:
    """Whether no token spans the line end before this text and its first character."""
    return bool(text) and not text[0].isspace()


def _cut(ids: Sequence[int], start: int, max_seq_len: int) -> PromptRow:
    dropped = max(0, len(ids) - max_seq_len)
    return PromptRow(list(ids[dropped:]), max(1, start - dropped), len(ids) - dropped)
