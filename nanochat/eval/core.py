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
from nanochat.eval.intervals import Interval, accuracy_interval, mean_standard_error
from nanochat.eval.kept import ItemRow, KeptResults, TaskRecord
from nanochat.eval.subject import Subject
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
    interval: Interval


@dataclass(frozen=True)
class CoreResult:
    """`core` is the mean of the centred accuracies of `tasks`; partial if any of the 22 is in `missing`."""

    core: float
    standard_error: float
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


@dataclass(frozen=True)
class RowScore:
    """The mean nats of a row's scored tokens, and the model's own choice at each of their positions."""

    nats: float
    greedy: tuple[int, ...]


@torch.inference_mode()
def score_rows(
    model: GPT, batch: Sequence[PromptRow], device: torch.device, batch_tokens: int
) -> list[RowScore]:
    """Score rows in batches of at most `batch_tokens` tokens."""
    scores = [RowScore(0.0, ())] * len(batch)
    for chosen in length_batches([len(row.ids) for row in batch], batch_tokens):
        hidden_BTC = model(pad_right([batch[i].ids for i in chosen], 0, device))
        # The head runs only on the scored positions, which are few.
        places = [(b, t) for b, i in enumerate(chosen) for t in range(batch[i].start, batch[i].end)]
        row_S, column_S = torch.tensor(places, device=device).unbind(1)
        targets_S = torch.tensor([batch[chosen[b]].ids[t] for b, t in places], device=device)
        nats_S, greedy_S = _score_positions(model, hidden_BTC[row_S, column_S - 1], targets_S)
        at = 0
        for i in chosen:
            n = batch[i].end - batch[i].start
            scores[i] = RowScore(nats_S[at : at + n].mean().item(), tuple(greedy_S[at : at + n].tolist()))
            at += n
    return scores


def _score_positions(model: GPT, hidden_SC: Tensor, targets_S: Tensor) -> tuple[Tensor, Tensor]:
    nats, greedy = [], []
    for part_SC, part_S in zip(
        hidden_SC.split(_LOGITS_AT_ONCE), targets_S.split(_LOGITS_AT_ONCE), strict=True
    ):
        logits_SV = model.logits(part_SC)
        nats.append(F.cross_entropy(logits_SV, part_S, reduction="none").cpu().double())
        greedy.append(logits_SV.argmax(dim=-1).cpu())
    return torch.cat(nats), torch.cat(greedy)


def item_row(
    task: CoreTask, index: int, group: Sequence[PromptRow], scores: Sequence[RowScore], tokenizer: Tokenizer
) -> ItemRow:
    """An item's answer, from the scores of its rows."""
    nats = tuple(score.nats for score in scores)
    if task.kind == "language_modeling":
        [row], [score] = group, scores
        wanted = row.ids[row.start : row.end]
        right = list(score.greedy) == wanted
        return ItemRow(index, tokenizer.decode(score.greedy), tokenizer.decode(wanted), right, nats)
    best, gold = nats.index(min(nats)), task.items[index]["gold"]
    return ItemRow(index, str(best), str(gold), best == gold, nats)


def evaluate_core(
    subject: Subject,
    bundle: Path,
    runtime: Runtime,
    kept: KeptResults,
    *,
    max_per_task: int | None = None,
    batch_tokens: int = 16_384,
) -> CoreResult:
    """Score a base model on the bundle's tasks; every process gets the same result.

    Args:
        kept: where the answers are kept; those of an earlier call are taken from there.
        max_per_task: take only the first items of each shuffled task; their prompts are as in a full run.
        batch_tokens: the most tokens per forward pass.

    Raises ValueError if `bundle` is malformed or holds no data.
    """
    tasks = load_bundle(bundle)
    if not tasks:
        raise ValueError(f"the CORE bundle in {bundle} holds none of its tasks' data (eval_data/**.jsonl)")
    counts = [min(len(task.items), max_per_task or len(task.items)) for task in tasks]
    results: list[CoreTaskResult] = []
    with progress("CORE", sum(counts), "item", enabled=runtime.is_main) as bar:
        for task, n in zip(tasks, counts, strict=True):
            done = sum(result.n for result in results)

            def score(task: CoreTask = task, n: int = n, done: int = done) -> TaskRecord:
                def advance(items: int) -> None:
                    bar.update(done + items, task=task.label)

                return score_task(subject, task, n, runtime, batch_tokens, advance)

            settings = {"items": n, "kind": task.kind, "shots": task.shots, "delimiter": task.delimiter}
            record = kept.get(f"core-{task.label}", task.sha256, settings, TaskRecord, score)
            results.append(_task_result(task, record))
    missing = tuple(label for label in CORE_TASKS if label not in {task.label for task in tasks})
    return CoreResult(
        core=sum(result.centred for result in results) / len(results),
        standard_error=mean_standard_error(
            [(round(result.accuracy * result.n), result.n, result.baseline) for result in results]
        ),
        partial=bool(missing),
        tasks=tuple(results),
        missing=missing,
    )


def _task_result(task: CoreTask, record: TaskRecord) -> CoreTaskResult:
    interval = accuracy_interval(record.right, record.n)
    score = centred(record.accuracy, task.baseline)
    return CoreTaskResult(task.label, record.accuracy, score, task.baseline, record.n, interval)


def score_task(
    subject: Subject,
    task: CoreTask,
    n: int,
    runtime: Runtime,
    batch_tokens: int,
    advance: Callable[[int], None] = lambda items: None,
) -> TaskRecord:
    """The answers to the first `n` items, split across processes; `advance` receives the number of items done."""
    processes, model, tokenizer = runtime.processes, subject.model, subject.tokenizer
    answers: list[ItemRow] = []
    with processes.together(f"CORE, {task.label}"):
        for start in range(0, n, _ITEMS_AT_ONCE):
            mine = range(start + processes.rank, min(start + _ITEMS_AT_ONCE, n), processes.world_size)
            groups = [rows(task, index, tokenizer, model.config.max_seq_len) for index in mine]
            scores = iter(
                score_rows(model, [row for group in groups for row in group], runtime.device, batch_tokens)
            )
            answers += [
                item_row(task, index, group, [next(scores) for _ in group], tokenizer)
                for index, group in zip(mine, groups, strict=True)
            ]
            advance(min(start + _ITEMS_AT_ONCE, n))
    every = [row for part in processes.gather(answers) for row in part]
    return TaskRecord(task.baseline, tuple(sorted(every, key=lambda row: row.index)))
