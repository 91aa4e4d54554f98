"""CORE, a base model's score: the mean centred accuracy on 22 in-context tasks of DCLM (arXiv:2406.11794).

The model's choice (or context) is the one whose scored span has the lowest mean loss; a continuation is right if every
token is the argmax. core_prompts.py has the prompts. A task is finished and kept before the next begins, so items are
sorted by length within a task, not over all.
Shapes: S scored tokens, C model width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F

from nanochat.console import progress
from nanochat.eval.batching import ahead
from nanochat.eval.bundle import CORE_TASKS, CoreTask, load_bundle
from nanochat.eval.core_prompts import TaskPrompts
from nanochat.eval.intervals import Interval, accuracy_interval, centred, mean_standard_error, normal_interval
from nanochat.eval.prompt_states import LOGITS_AT_ONCE, PromptRow, PromptStates
from nanochat.eval.result_cache import ItemRow, ResultCache, TaskRecord
from nanochat.eval.subject import Subject
from nanochat.runtime import Runtime
from nanochat.tokenizer.tokenizer import Tokenizer

GPT2_CORE = 0.256525
"""The score of GPT-2 (1.6 B parameters), to be beaten."""

_ITEMS_AT_ONCE = 128
"""Items whose prompts are in memory together, sorted by length. A thread makes the next ones."""


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

    @property
    def interval(self) -> Interval:
        """Of `core`."""
        return normal_interval(self.core, self.standard_error)


@dataclass(frozen=True)
class RowScore:
    """The mean nats of a row's scored tokens, and the model's own choice at each of their positions."""

    nats: float
    greedy: tuple[int, ...]


def score_groups(states: PromptStates, groups: Sequence[Sequence[PromptRow]]) -> list[list[RowScore]]:
    """Score the prompts of items, given as one group each."""
    hidden = states.before_scored(groups)
    prompts = [prompt for group in groups for prompt in group]
    targets_S = torch.tensor([token for prompt in prompts for token in prompt.ids[prompt.start : prompt.end]])
    nats, greedy = [], []
    hidden_SC = torch.cat([part_SC for group in hidden for part_SC in group])
    for logits_SV, part_S in zip(
        states.logits(hidden_SC), targets_S.to(hidden_SC.device).split(LOGITS_AT_ONCE), strict=True
    ):
        nats.append(F.cross_entropy(logits_SV, part_S, reduction="none").cpu().double())
        greedy.append(logits_SV.argmax(dim=-1).cpu())
    sizes = [prompt.end - prompt.start for prompt in prompts]
    scores = (
        RowScore(nats_S.mean().item(), tuple(greedy_S.tolist()))
        for nats_S, greedy_S in zip(torch.cat(nats).split(sizes), torch.cat(greedy).split(sizes), strict=True)
    )
    return [list(islice(scores, len(group))) for group in groups]


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
    kept: ResultCache,
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
    states = cache(lambda: PromptStates(subject.model, batch_tokens))
    with progress("CORE", sum(counts), "item", enabled=runtime.is_main) as bar:
        for task, n in zip(tasks, counts, strict=True):
            done = sum(result.n for result in results)

            def score(task: CoreTask = task, n: int = n, done: int = done) -> TaskRecord:
                def advance(items: int) -> None:
                    bar.update(done + items, task=task.label)

                return score_task(states(), subject, task, n, runtime, advance)

            settings = {"items": n, "kind": task.kind, "shots": task.shots, "delimiter": task.delimiter}
            record = kept.get_or_compute(f"core-{task.label}", task.sha256, settings, TaskRecord, score)
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
    states: PromptStates,
    subject: Subject,
    task: CoreTask,
    n: int,
    runtime: Runtime,
    advance: Callable[[int], None] = lambda items: None,
) -> TaskRecord:
    """The answers to the first `n` items, split across processes; `advance` receives the number of items done."""
    processes, tokenizer = runtime.processes, subject.tokenizer
    prompts = TaskPrompts(task, tokenizer, subject.config.max_seq_len)
    mine = range(processes.rank, n, processes.world_size)
    chunks = [mine[start : start + _ITEMS_AT_ONCE] for start in range(0, len(mine), _ITEMS_AT_ONCE)]
    answers: list[ItemRow] = []
    with processes.together(f"CORE, {task.label}"):
        made = ahead([prompts.rows(index) for index in chunk] for chunk in chunks)
        for chunk, groups in zip(chunks, made, strict=True):
            answers += [
                item_row(task, index, group, scores, tokenizer)
                for index, group, scores in zip(chunk, groups, score_groups(states, groups), strict=True)
            ]
            advance(min(n, len(answers) * processes.world_size))
    every = [row for part in processes.gather(answers) for row in part]
    return TaskRecord(task.baseline, tuple(sorted(every, key=lambda row: row.index)))
