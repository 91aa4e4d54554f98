"""`nanochat eval lm-eval`: tasks of lm-evaluation-harness, answered by our batched scorer and our engine."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.atomic import write_text_atomic
from nanochat.bounds import require_not_negative, require_positive
from nanochat.checkpoint.loading import open_checkpoint
from nanochat.config import json_line
from nanochat.console import say, table
from nanochat.errors import EnvironmentFault
from nanochat.eval.batching import BATCH_TOKENS
from nanochat.eval.harness_model import HarnessModel
from nanochat.eval.subject import ENGINE_ROWS, Subject, subject_of
from nanochat.flags import ModelTag
from nanochat.paths import CHAT_RUN, kept_results
from nanochat.runtime import Runtime


@dataclass(frozen=True)
class HarnessConfig:
    """Score a model on tasks of lm-evaluation-harness."""

    tasks: str
    """Names of its tasks, groups or patterns, separated by commas."""
    model_tag: ModelTag = CHAT_RUN
    """The run to evaluate: its model tag, or the path of its checkpoints; RUN@STEP is --step too."""
    step: int | None = None
    """Which checkpoint; default: the newest."""
    include_path: str | None = None
    """A folder with task files of your own (.yaml)."""
    num_fewshot: int | None = None
    """Examples before each question; default: as the task says."""
    limit: int | None = None
    """Items per task; default: all."""
    chat: bool | None = None
    """Ask in the chat format; default: unless the model is a base model."""
    batch_tokens: int | None = None
    """Tokens per forward pass; default: depends on the device."""
    max_rows: int | None = None
    """Answers generated at once; default: depends on the device."""
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "limit", "batch_tokens", "max_rows")
        require_not_negative(self, "num_fewshot")


@dataclass(frozen=True)
class HarnessScore:
    """One metric of one task or group; `items` is None for a group."""

    task: str
    metric: str
    value: float
    standard_error: float | None
    items: int | None


@dataclass(frozen=True)
class HarnessResult:
    """What the harness reports. `path` is the file of all of it."""

    model_tag: str
    step: int
    chat: bool
    version: str
    """Of lm-eval."""
    scores: tuple[HarnessScore, ...]
    wall_s: float
    path: str


def run(config: HarnessConfig, runtime: Runtime) -> HarnessResult:
    """Run the stage. Raises ValueError for an unknown run or task, EnvironmentFault without lm-eval or its data."""
    began = time.monotonic()
    if runtime.processes.world_size > 1:
        raise ValueError("eval lm-eval runs in one process: start it without torchrun")
    checkpoint = open_checkpoint(config.model_tag, runtime, config.step)
    manager, names = _find_tasks(config)
    chat = config.chat if config.chat is not None else not checkpoint.meta.is_base
    kind = runtime.device.type
    subject = subject_of(checkpoint, runtime, config.max_rows or ENGINE_ROWS[kind])
    version, report = evaluate(
        subject,
        names,
        manager,
        chat=chat,
        batch_tokens=config.batch_tokens or BATCH_TOKENS[kind],
        num_fewshot=config.num_fewshot,
        limit=config.limit,
    )
    settings = f"{sorted(names)} {config.num_fewshot} {config.limit} {chat}"
    name = f"lm-eval-{zlib.crc32(settings.encode()):08x}.json"
    path = kept_results(checkpoint.directory, checkpoint.step) / name
    result = HarnessResult(
        model_tag=checkpoint.directory.resolve().name,
        step=checkpoint.step,
        chat=chat,
        version=version,
        scores=tuple(_scores(report)),
        wall_s=time.monotonic() - began,
        path=str(path),
    )
    kept = {
        key: report[key] for key in ("results", "groups", "versions", "n-shot", "n-samples") if key in report
    }
    write_text_atomic(path, json_line({"result": result, "lm_eval": kept}) + "\n")
    _show(result)
    return result


def _find_tasks(config: HarnessConfig) -> tuple[Any, list[str]]:
    """The harness's task manager, and the names that `--tasks` matches."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise EnvironmentFault(
            f"lm-eval cannot be imported ({error}): run `uv pip install -e '.[eval]'` in the clone"
        ) from error
    if config.include_path is not None and not Path(config.include_path).is_dir():
        raise ValueError(f"--include-path {config.include_path} is not a folder")
    names = [name.strip() for name in config.tasks.split(",") if name.strip()]
    if not names:
        raise ValueError("--tasks names no task")
    if config.include_path is not None:
        manager = TaskManager(include_path=config.include_path, include_defaults=False)
        if not _unknown(manager, names):  # the index of all tasks takes seconds
            return manager, manager.match_tasks(names)
    manager = TaskManager(include_path=config.include_path)
    if unknown := _unknown(manager, names):
        raise ValueError(
            f"lm-eval has no task {', '.join(unknown)}: `lm-eval ls tasks` lists all, --include-path adds your own"
        )
    return manager, manager.match_tasks(names)


def _unknown(manager: Any, names: Sequence[str]) -> list[str]:
    return [name for name in names if not manager.match_tasks([name])]


def evaluate(
    subject: Subject,
    names: list[str],
    manager: Any,
    *,
    chat: bool,
    batch_tokens: int,
    num_fewshot: int | None = None,
    limit: int | None = None,
    samples: bool = False,
) -> tuple[str, dict[str, Any]]:
    """(lm-eval's version, its report); with `samples` also every item's answer."""
    import lm_eval
    from lm_eval.api.model import LM

    class NanochatLM(HarnessModel, LM):
        """Our methods, in a class that the harness accepts."""

    model = NanochatLM(subject, batch_tokens, chat=chat)
    try:
        report = lm_eval.simple_evaluate(
            model=model,
            tasks=names,
            task_manager=manager,
            num_fewshot=num_fewshot,
            limit=limit,
            apply_chat_template=chat,
            log_samples=samples,
            bootstrap_iters=1000,
        )
    except (ValueError, OSError, EnvironmentFault):
        raise
    except Exception as error:  # of other people's tasks and of their data's loaders
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise EnvironmentFault(f"lm-eval stopped: {reason}") from error
    assert report is not None  # on process 0
    return lm_eval.__version__, report


def _scores(report: dict[str, Any]) -> list[HarnessScore]:
    """`results` of the report: per task, "metric,filter" → number, with "metric_stderr,filter" beside it."""
    found = []
    for task, figures in report["results"].items():
        items = report.get("n-samples", {}).get(task, {}).get("effective")
        for key, value in figures.items():
            metric, _, variant = key.partition(",")
            if metric.endswith("_stderr") or not variant or not isinstance(value, int | float):
                continue
            error = figures.get(f"{metric}_stderr,{variant}")
            name = metric if variant == "none" else f"{metric} ({variant})"
            found.append(
                HarnessScore(task, name, float(value), error if isinstance(error, float) else None, items)
            )
    return found


def _show(result: HarnessResult) -> None:
    asked = "in the chat format" if result.chat else "as plain text"
    table(
        f"{result.model_tag} at step {result.step}, asked {asked}, by lm-eval {result.version}",
        ("task", "items", "metric", "value", "standard error"),
        [
            (
                score.task,
                "" if score.items is None else f"{score.items:,}",
                score.metric,
                f"{score.value:.4f}",
                "" if score.standard_error is None else f"{score.standard_error:.4f}",
            )
            for score in result.scores
        ],
    )
    say(f"the whole report is in {result.path}")
