"""CORE, a base model's score: the mean centred accuracy on 22 in-context tasks of DCLM (arXiv:2406.11794).

Every item becomes one or more rows of tokens, with one scored span each:

    multiple_choice     query + each choice; the span is all after the choices' common prefix
    schema              each context + the continuation; the span is their common suffix
    language_modeling   context + continuation; the span is the continuation, right if every token is the argmax

The model's choice (or context) is that whose span has the lowest mean loss.
Shapes: B rows, T tokens, C model width, S scored tokens, V vocabulary.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.console import progress
from nanochat.eval.batching import length_batches, pad_right
from nanochat.eval.bundle import CORE_TASKS, CoreTask, load_bundle
from nanochat.model.gpt import GPT
from nanochat.runtime import Runtime
from nanochat.tokenizer.tokenizer import Tokenizer

GPT2_CORE = 0.256525
"""The score of GPT-2 (1.6 B parameters), to be beaten."""

_FEWSHOT_SEED = 1234  # plus the item's index: seeds the draw of its examples
_EXAMPLE_DELIMITER = "\n\n"
_ITEMS_AT_ONCE = 512  # items whose rows are in memory together, sorted by length
_LOGITS_AT_ONCE = 1024  # scored tokens whose full logits are in memory together


@dataclass(frozen=True)
class PromptRow:
    """Tokens of one prompt, of which ids[start:end] are scored, each given the ones before it."""

    ids: list[int]
    start: int
    end: int


@dataclass(frozen=True)
class CoreTaskResult:
    """The accuracy on `n` items; `centred` rescales it to 0 for guessing (`baseline`) and 1 for all right."""

    label: str
    accuracy: float
    centred: float
    baseline: float
    n: int


@dataclass(frozen=True)
class CoreResult:
    """`core` is the mean of the centred accuracies of `tasks`; partial if any of the 22 is in `missing`."""

    core: float
    partial: bool
    tasks: tuple[CoreTaskResult, ...]
    missing: tuple[str, ...]


def centred(accuracy: float, baseline: float) -> float:
    """The accuracy rescaled to 0 for guessing and 1 for all right."""
    return (accuracy - baseline) / (1 - baseline)


def prompts(task: CoreTask, index: int) -> list[str]:
    """The texts of one item after its few-shot examples; for language modelling two, the context without and with
    its continuation."""
    chooser = random.Random(_FEWSHOT_SEED + index)
    others = chooser.sample(range(len(task.items) - 1), task.shots)
    shots = [task.items[other + (other >= index)] for other in others]
    variants = _VARIANTS[task.kind]
    before = "".join(
        variants(shot, task.delimiter)[shot.get("gold", -1)] + _EXAMPLE_DELIMITER for shot in shots
    )
    return [before + text for text in variants(task.items[index], task.delimiter)]


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


def rows(task: CoreTask, index: int, tokenizer: Tokenizer, max_seq_len: int) -> list[PromptRow]:
    """The rows of one item, each truncated from the left to `max_seq_len` tokens."""
    texts = [[tokenizer.bos, *tokenizer.encode(text)] for text in prompts(task, index)]
    if task.kind == "schema":
        shared = _common(text[::-1] for text in texts)
        spans = [(len(text) - shared, text) for text in texts]
    else:
        shared = _common(texts)
        spans = [(shared, text) for text in texts]
    if task.kind == "language_modeling":
        spans = spans[1:]
    # At least one token is scored, and at least one precedes it.
    return [_cut(text, max(1, min(start, len(text) - 1)), max_seq_len) for start, text in spans]


def _common(texts: Iterable[list[int]]) -> int:
    """The length of their common prefix."""
    count = 0
    for column in zip(*texts, strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return count


def _cut(ids: list[int], start: int, max_seq_len: int) -> PromptRow:
    dropped = max(0, len(ids) - max_seq_len)
    return PromptRow(ids[dropped:], max(1, start - dropped), len(ids) - dropped)


@torch.inference_mode()
def score_rows(
    model: GPT, batch: Sequence[PromptRow], device: torch.device, batch_tokens: int
) -> list[tuple[float, bool]]:
    """For each row: the mean nats of its scored tokens, and whether every one of them is the argmax."""
    scores: list[tuple[float, bool]] = [(0.0, False)] * len(batch)
    for chosen in length_batches([len(row.ids) for row in batch], batch_tokens):
        hidden_BTC = model(pad_right([batch[i].ids for i in chosen], 0, device))
        # The head runs only on the scored positions, which are few.
        places = [(b, t) for b, i in enumerate(chosen) for t in range(batch[i].start, batch[i].end)]
        row_S, column_S = torch.tensor(places, device=device).unbind(1)
        targets_S = torch.tensor([batch[chosen[b]].ids[t] for b, t in places], device=device)
        nats_S, hit_S = _score_positions(model, hidden_BTC[row_S, column_S - 1], targets_S)
        at = 0
        for i in chosen:
            n = batch[i].end - batch[i].start
            scores[i] = (nats_S[at : at + n].mean().item(), bool(hit_S[at : at + n].all()))
            at += n
    return scores


def _score_positions(model: GPT, hidden_SC: Tensor, targets_S: Tensor) -> tuple[Tensor, Tensor]:
    nats, hits = [], []
    for part_SC, part_S in zip(
        hidden_SC.split(_LOGITS_AT_ONCE), targets_S.split(_LOGITS_AT_ONCE), strict=True
    ):
        logits_SV = model.logits(part_SC)
        nats.append(F.cross_entropy(logits_SV, part_S, reduction="none").cpu().double())
        hits.append((logits_SV.argmax(dim=-1) == part_S).cpu())
    return torch.cat(nats), torch.cat(hits)


def is_right(task: CoreTask, index: int, scores: Sequence[tuple[float, bool]]) -> bool:
    """Whether an item is answered correctly, from the scores of its rows."""
    if task.kind == "language_modeling":
        return scores[0][1]
    best = min(range(len(scores)), key=lambda i: scores[i][0])
    return best == task.items[index]["gold"]


def evaluate_core(
    model: GPT,
    tokenizer: Tokenizer,
    bundle: Path,
    runtime: Runtime,
    *,
    max_per_task: int | None = None,
    batch_tokens: int = 16_384,
) -> CoreResult:
    """Score a base model on the bundle's tasks; every process gets the same result.

    Args:
        model: uncompiled, since batches differ in shape.
        max_per_task: take only the first items of each shuffled task; their prompts are as in a full run.
        batch_tokens: the most tokens per forward pass.

    Raises ValueError if `bundle` is malformed or holds no data.
    """
    processes = runtime.processes
    tasks = load_bundle(bundle)
    if not tasks:
        raise ValueError(f"the CORE bundle in {bundle} holds none of its tasks' data (eval_data/**.jsonl)")
    counts = [min(len(task.items), max_per_task or len(task.items)) for task in tasks]
    results: list[CoreTaskResult] = []
    with progress("CORE", sum(counts), "item", enabled=runtime.is_main) as bar:
        for task, n in zip(tasks, counts, strict=True):
            right, done = 0, sum(result.n for result in results)
            with processes.together(f"CORE, {task.label}"):
                for start in range(0, n, _ITEMS_AT_ONCE):
                    mine = range(start + processes.rank, min(start + _ITEMS_AT_ONCE, n), processes.world_size)
                    right += count_right(model, tokenizer, task, mine, runtime.device, batch_tokens)
                    bar.update(done + min(start + _ITEMS_AT_ONCE, n), task=task.label)
            total = sum(processes.gather(right))
            score = centred(total / n, task.baseline)
            results.append(CoreTaskResult(task.label, total / n, score, task.baseline, n))
    missing = tuple(label for label in CORE_TASKS if label not in {task.label for task in tasks})
    mean = sum(result.centred for result in results) / len(results)
    return CoreResult(mean, bool(missing), tuple(results), missing)


def count_right(
    model: GPT,
    tokenizer: Tokenizer,
    task: CoreTask,
    indices: Sequence[int],
    device: torch.device,
    batch_tokens: int,
) -> int:
    """How many of these items of a task the model answers correctly."""
    groups = [rows(task, index, tokenizer, model.config.max_seq_len) for index in indices]
    scores = iter(score_rows(model, [row for group in groups for row in group], device, batch_tokens))
    return sum(
        is_right(task, index, [next(scores) for _ in group])
        for index, group in zip(indices, groups, strict=True)
    )
