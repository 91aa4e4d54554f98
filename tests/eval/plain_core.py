"""CORE by its definition (arXiv:2406.11794), one item and one option at a time, without the package's evaluation.

The definition: a task's items shuffled by Random(1337); an item's examples drawn by Random(1234 + index) from the other
items; multiple choice and schema: the option with the lowest mean loss over the continuation; language modelling: every
token of the continuation is the argmax. A prompt longer than the context loses its beginning.
"""

import json
import random
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml


class PlainCore:
    """The tasks of a bundle's directory; `encode` is a tokenizer's, without BOS."""

    def __init__(self, directory: Path, bos: int, encode: Callable[[str], list[int]]):
        self.directory, self.bos, self.encode = directory, bos, encode
        listed = yaml.safe_load((directory / "core.yaml").read_text())["icl_tasks"]
        self.entries = {entry["label"]: entry for entry in listed}

    def items(self, label: str) -> list[dict]:
        path = self.directory / "eval_data" / self.entries[label]["dataset_uri"]
        items = [json.loads(line) for line in path.open(encoding="utf-8")]
        random.Random(1337).shuffle(items)
        return items

    def render(self, label: str, item: dict, option: int) -> str:
        entry = self.entries[label]
        between = entry.get("continuation_delimiter", " ")
        kind = entry["icl_task_type"]
        if kind == "multiple_choice":
            return item["query"] + between + item["choices"][option]
        if kind == "schema":
            return item["context_options"][option] + between + item["continuation"]
        return item["context"].strip() + between + item["continuation"]

    def prompts(self, label: str, items: list[dict], index: int) -> list[tuple[list[int], int]]:
        """(tokens, where the scored ones start) of each option."""
        entry, item = self.entries[label], items[index]
        kind = entry["icl_task_type"]
        others = [other for at, other in enumerate(items) if at != index]
        shots = random.Random(1234 + index).sample(others, entry["num_fewshot"][0])
        before = "".join(self.render(label, shot, shot.get("gold", 0)) + "\n\n" for shot in shots)
        if kind == "language_modeling":
            stem = before + item["context"].strip() + entry.get("continuation_delimiter", " ")
            start = 1 + len(self.encode(stem.rstrip()))
            return [([self.bos, *self.encode(before + self.render(label, item, 0))], start)]
        options = range(len(item["choices" if kind == "multiple_choice" else "context_options"]))
        texts = [[self.bos, *self.encode(before + self.render(label, item, option))] for option in options]
        step = 1 if kind == "multiple_choice" else -1
        columns = zip(*(text[::step] for text in texts), strict=False)
        shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
        starts = [shared if step == 1 else len(text) - shared for text in texts]
        return [(text, max(1, min(start, len(text) - 1))) for text, start in zip(texts, starts, strict=True)]


def read(
    model, prompt: tuple[list[int], int], context: int, whole: bool = False
) -> tuple[float, list[int], list[int]]:
    """(mean nats, the model's choices, the wanted tokens) of a prompt's scored positions; `whole`: with all logits."""
    ids, start = prompt
    scored = min(len(ids) - start, context - 1)
    ids = ids[-context:]
    with torch.no_grad():
        hidden = model(torch.tensor([ids[:-1]]))[0]
        logits = model.logits(hidden if whole else hidden[-scored:])[-scored:]
    wanted = torch.tensor(ids[-scored:])
    nats = F.cross_entropy(logits, wanted, reduction="none").double().mean().item()
    return nats, logits.argmax(-1).tolist(), wanted.tolist()


def prediction(kind: str, readings: list[tuple[float, list[int], list[int]]]) -> int | list[int]:
    """The chosen option, or in language modelling the model's tokens."""
    if kind == "language_modeling":
        return readings[0][1]
    means = [nats for nats, _, _ in readings]
    return means.index(min(means))
