"""`nanochat eval chat`: a chat model's scores on tasks, and ChatCORE, the mean of the six public ones."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from nanochat.bounds import require_positive
from nanochat.checkpoint.loading import OpenCheckpoint, open_checkpoint
from nanochat.config import to_json
from nanochat.console import say, warn
from nanochat.errors import EnvironmentFault
from nanochat.eval.batching import BATCH_TOKENS
from nanochat.eval.intervals import centred, mean_standard_error
from nanochat.eval.result_cache import ResultCache, cache_beside
from nanochat.eval.score_csv import CsvLine, accuracy_line, write_scores
from nanochat.eval.score_table import ScoreLine, percentages, show_scores
from nanochat.eval.subject import ENGINE_ROWS, subject_of
from nanochat.eval.task_accuracy import Sampling, evaluate_task
from nanochat.eval.task_result import PartScore, TaskResult
from nanochat.flags import ModelTag, Tracker, WandbRun, default_track
from nanochat.infer.frozen import WeightsName
from nanochat.infer.sampler import SamplingParams
from nanochat.metrics import open_metrics
from nanochat.metrics_rows import ConfigRow, DoneRow, TasksRow
from nanochat.paths import CHAT_RUN, expanded
from nanochat.runtime import Runtime
from nanochat.sandbox.python import require_isolation
from nanochat.tasks.registry import SUITES, TASKS, task_names
from nanochat.tasks.task import Item, Task

STAGE = "eval-chat"
_SHOWN = 80  # characters printed of a question or an answer


@dataclass(frozen=True)
class EvalChatConfig:
    """Score a chat model on tasks."""

    model_tag: ModelTag = CHAT_RUN
    """The run to evaluate: its model tag, or the path of its checkpoints; RUN@STEP is --step too."""
    step: int | None = None
    """Which checkpoint; default: the newest."""
    suite: str = "builtin"
    """Suites (builtin, chatcore, reinforcement) and tasks, separated by commas."""
    data_dir: str | None = None
    """Folder of the tasks' data as on the hub (OWNER/NAME/CONFIG/SPLIT/*.parquet); missing data is downloaded there."""
    max_items: int | None = None
    """Items per task; default: all."""
    num_samples: int = 1
    """Free answers sampled per item, for pass@k; more than one need a temperature."""
    temperature: float = 0.0
    """Of free answers; 0: greedy."""
    max_rows: int | None = None
    """Answers generated at once; default: depends on the device."""
    batch_tokens: int | None = None
    """Tokens per forward pass in multiple-choice tasks; default: depends on the device."""
    wandb_run: WandbRun = None
    """As in `nanochat pretrain`, and so is --track."""
    track: tuple[Tracker, ...] = field(default_factory=default_track)
    fresh: bool = False
    """Answer all tasks again, also those whose results are kept beside the checkpoint."""
    unsafe_sandbox: bool = False
    """Run programs written by the model (humaneval) even if this system cannot fully isolate them."""
    weights: WeightsName = "fp32"
    """How a CPU stores the matrices for free answers: bf16 and int8 are faster and less exact."""
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "max_items", "num_samples", "max_rows", "batch_tokens")
        SamplingParams(self.temperature)  # which checks it
        self.sampling()

    def sampling(self) -> Sampling:
        """How free answers are sampled. Raises ValueError for samples that would all be equal."""
        return Sampling(self.num_samples, self.temperature)


@dataclass(frozen=True)
class Skipped:
    """A task that could not be evaluated, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class EvalChatResult:
    """`mean` is the mean centred accuracy of all these tasks; `chatcore` that of the ChatCORE tasks, None unless all
    of them were evaluated. Both have a standard error over items. `answers` is the folder of all items' answers."""

    model_tag: str
    step: int
    tasks: tuple[TaskResult, ...]
    skipped: tuple[Skipped, ...]
    mean: float
    mean_standard_error: float
    chatcore: float | None
    chatcore_standard_error: float | None
    answers: str


def run(config: EvalChatConfig, runtime: Runtime) -> EvalChatResult:
    """Run the stage. Raises ValueError for an unknown run or task, EnvironmentFault if no task is available."""
    began = time.monotonic()
    names = task_names(config.suite)
    if config.data_dir is not None:
        runtime = _with_data(runtime, expanded(config.data_dir).absolute())
    checkpoint = open_checkpoint(config.model_tag, runtime, config.step)
    name = checkpoint.directory.resolve().name
    if checkpoint.meta.is_base:
        say(f"{name} is a base model, not trained to answer: expect scores near those of guessing")
    metrics_path = runtime.paths.metrics(name)
    kept = cache_beside(checkpoint, runtime, fresh=config.fresh)
    results, skipped = _answer(config, names, checkpoint, kept, runtime)
    if not results:
        raise EnvironmentFault(f"none of the tasks is available: {skipped[0].reason}")
    result = EvalChatResult(
        model_tag=name,
        step=checkpoint.step,
        tasks=tuple(results),
        skipped=tuple(skipped),
        mean=fmean(task.centred for task in results),
        mean_standard_error=_standard_error(results),
        chatcore=chatcore(results),
        chatcore_standard_error=_standard_error(core) if (core := of_chatcore(results)) else None,
        answers=str(kept.folder),
    )
    with open_metrics(
        metrics_path,
        STAGE,
        wandb_run=config.wandb_run,
        track=config.track,
        config=ConfigRow(to_json(config)),
        enabled=runtime.is_main,
        resume=True,
    ) as metrics:
        metrics.log(
            TasksRow(
                step=result.step,
                scores={task.name: task.accuracy for task in results},
                counts={task.name: task.n for task in results},
                baselines={task.name: task.baseline for task in results},
                intervals={task.name: (task.interval.low, task.interval.high) for task in results},
                chatcore=result.chatcore,
                chatcore_standard_error=result.chatcore_standard_error,
            )
        )
        metrics.log(DoneRow(step=result.step, wall_s=time.monotonic() - began))
    if runtime.is_main:
        write_scores(kept.folder / f"{STAGE}.csv", _csv_lines(result))
    _show(result)
    return result


def _with_data(runtime: Runtime, folder: Path) -> Runtime:
    if not folder.is_dir():
        raise ValueError(f"--data-dir {folder} is not a folder")
    return replace(runtime, paths=replace(runtime.paths, own_task_data=folder))


def _answer(
    config: EvalChatConfig,
    names: Sequence[str],
    checkpoint: OpenCheckpoint,
    kept: ResultCache,
    runtime: Runtime,
) -> tuple[list[TaskResult], list[Skipped]]:
    kind = runtime.device.type
    rows = config.max_rows or ENGINE_ROWS[kind]
    subject = subject_of(checkpoint, runtime, rows, config.weights)
    results: list[TaskResult] = []
    skipped: list[Skipped] = []
    for name in names:
        task = TASKS[name]
        if config.unsafe_sandbox and task.unsafe_check:
            task = replace(task, check=task.unsafe_check)
        items = _open(task, runtime, unsafe=config.unsafe_sandbox)
        if isinstance(items, Skipped):
            warn(f"{name} is skipped: {items.reason}")
            skipped.append(items)
        else:
            result = evaluate_task(
                subject,
                task,
                items,
                runtime,
                kept,
                max_items=config.max_items,
                batch_tokens=config.batch_tokens or BATCH_TOKENS[kind],
                sampling=config.sampling(),
            )
            say(f"{name}: {result.accuracy:.1%} of {result.n:,} ({percentages(result.interval)} %)")
            results.append(result)
    return results, skipped


def _open(task: Task, runtime: Runtime, *, unsafe: bool) -> Sequence[Item] | Skipped:
    """A task's items, or why it is skipped. The first process downloads the data before the others read it.

    A task that runs programs is skipped if they cannot be isolated, unless `unsafe`.
    """
    items: Sequence[Item] = ()
    reason: str | None = None
    if runtime.is_main:
        try:
            if task.unsafe_check and not unsafe:
                require_isolation()
            items = task.items(runtime.paths, "test", 0)
            if not items:
                reason = "its data have no items"
        except (ValueError, EnvironmentFault, OSError) as error:
            reason = str(error)
    agreed = runtime.processes.decide(lambda: reason)
    if agreed is not None:
        return Skipped(task.name, agreed)
    return items if runtime.is_main else task.items(runtime.paths, "test", 0)


def chatcore(results: Sequence[TaskResult]) -> float | None:
    """The mean centred accuracy of the ChatCORE tasks, or None if one is missing."""
    tasks = of_chatcore(results)
    return fmean(task.centred for task in tasks) if tasks else None


def of_chatcore(results: Sequence[TaskResult]) -> list[TaskResult] | None:
    """The results of the ChatCORE tasks, or None if one is missing."""
    by_name = {task.name: task for task in results}
    names = SUITES["chatcore"]
    return [by_name[name] for name in names] if by_name.keys() >= set(names) else None


def _standard_error(results: Sequence[TaskResult]) -> float:
    return mean_standard_error([(task.right, task.n, task.baseline) for task in results])


def _show(result: EvalChatResult) -> None:
    for task in result.tasks:
        for failure in task.failures[:1]:
            asked, expected, said = (
                repr(_short(text)) for text in (failure.prompt, failure.expected, failure.answer)
            )
            reason = repr(_short(failure.reason))[1:-1]  # without the control characters of a traceback
            say(f"  {task.name}: {asked}: expected {expected}, got {said} ({reason})")
        if task.pass_at:
            shares = ", ".join(f"pass@{k} {share:.1%}" for k, share in task.pass_at.items())
            say(f"  {task.name}: {shares}")
        if task.too_long:
            say(f"  {task.name}: {task.too_long:,} prompts are longer than the model's context")
    title = f"{result.model_tag} at step {result.step}: mean centred accuracy {result.mean:.4f}"
    title += f" ± {result.mean_standard_error:.4f}"
    if result.chatcore is not None:
        title += f", ChatCORE {result.chatcore:.4f} ± {result.chatcore_standard_error:.4f}"
    lines = [
        ScoreLine(task.name, task.accuracy, task.interval, task.n, task.baseline, task.centred)
        for task in result.tasks
    ]
    show_scores(f"{title} (standard error)", lines, [skip.name for skip in result.skipped])
    for task in result.tasks:
        if task.parts:
            show_scores(f"{task.name} by part", [_part_line(task, part) for part in task.parts])
    say(f"every answer is in {result.answers}")


def _part_line(task: TaskResult, part: PartScore) -> ScoreLine:
    share = centred(part.accuracy, task.baseline)
    return ScoreLine(part.name, part.accuracy, part.interval, part.n, task.baseline, share)


def _csv_lines(result: EvalChatResult) -> Iterator[CsvLine]:
    for task in result.tasks:
        yield accuracy_line(task.name, task.accuracy, task.interval, task.n, task.baseline)
        for part in task.parts:
            yield accuracy_line(task.name, part.accuracy, part.interval, part.n, task.baseline, part.name)
        for k, share in task.pass_at.items():
            yield CsvLine(task.name, "", f"pass@{k}", share, items=task.n)
    measure = "mean centred accuracy"
    yield CsvLine("all tasks", "", measure, result.mean, standard_error=result.mean_standard_error)
    if result.chatcore is not None:
        yield CsvLine("ChatCORE", "", measure, result.chatcore, standard_error=result.chatcore_standard_error)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
