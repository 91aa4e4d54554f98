"""Resuming: which checkpoint, and whether the run that is asked for is the run that was saved."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar

from nanochat.atomic import file_lock
from nanochat.checkpoint import store
from nanochat.checkpoint.meta import CheckpointMeta
from nanochat.config import to_json
from nanochat.console import say
from nanochat.errors import EnvironmentFault
from nanochat.model.backend import Backend
from nanochat.runtime import DTYPES, Runtime
from nanochat.train.options import TrainingOptions


class NamedRun(Protocol):
    """The configuration of a training run."""

    @property
    def model_tag(self) -> str:
        """The run's name."""


C = TypeVar("C", bound=NamedRun)
R = TypeVar("R")

_UNRECORDED = {"cpu": "fp32"}
"""By kind of device: the compute dtype of runs begun before it was recorded, where it differs from today's choice."""


def alone(train: Callable[[C, Runtime], R]) -> Callable[[C, Runtime], R]:
    """`train`, which waits while another process trains the same run, such as one whose recipe was killed."""

    @wraps(train)
    def locked(config: C, runtime: Runtime) -> R:
        with ExitStack() as stack:
            with runtime.processes.together("locking the run"):
                if runtime.is_main:
                    message = f"another process is training {config.model_tag}: waiting until it ends"
                    stack.enter_context(file_lock(runtime.paths.lock(config.model_tag), message=message))
            return train(config, runtime)

    return locked


def _resume_step(directory: Path, options: TrainingOptions) -> int | None:
    """The step to resume from, or None to start. Raises ValueError rather than overwrite a run."""
    there = store.steps_with_meta(directory)
    if options.resume == "auto":
        newest = store.latest(directory)
        if there and newest is None:
            raise EnvironmentFault(
                f"no checkpoint in {directory} is complete: restore the files, or delete the folder"
            )
        return newest
    if there:
        raise ValueError(
            f"{directory} already holds a run at step {there[-1]}: continue it with --resume auto, "
            "choose another --model-tag, or delete the folder"
        )
    return None


def saved_run(
    directory: Path, options: TrainingOptions, runtime: Runtime
) -> tuple[CheckpointMeta | None, Runtime]:
    """The checkpoint to resume from, the same on every process, or None to start; and the runtime for this run.

    Without --dtype, a run resumes in the compute dtype that it began with. Raises as `_resume_step`.
    """
    step = runtime.processes.decide(lambda: _resume_step(directory, options))
    saved = None if step is None else store.load_meta(directory, step)
    runtime.processes.same("the checkpoint", saved and to_json(saved.files))
    if saved is None or options.dtype != "auto":
        return saved, runtime
    flag = saved.config.get("dtype")
    unrecorded = flag if flag in DTYPES else _UNRECORDED.get(runtime.device.type, runtime.dtype)
    begun = saved.plan.dtype or unrecorded
    return saved, runtime if begun == runtime.dtype else runtime.with_dtype(begun, "as the run began")


def begun_native(saved: CheckpointMeta | None) -> bool | None:
    """Whether a run that is resumed began in C++; None for a new run."""
    return None if saved is None else saved.plan.native


def on_backend(meta: CheckpointMeta, backend: Backend) -> CheckpointMeta:
    """The run's meta with what its backend chose and a resumed run must keep."""
    return replace(meta, plan=replace(meta.plan, native=backend.native))


def begin_or_resume(planned: CheckpointMeta, saved: CheckpointMeta | None, model_tag: str) -> CheckpointMeta:
    """The planned run with the progress of `saved`, if there is one.

    If only the formula for the rates has changed since, the run keeps those that it began with.
    Raises ValueError unless both have the same course.
    """
    if saved is None:
        return planned
    if saved.plan.rates != planned.plan.rates and _asked_rates(saved) == _asked_rates(planned):
        say("resuming with the learning rates that the run began with; a new run would take others")
        planned = replace(planned, plan=replace(planned.plan, rates=saved.plan.rates))
    if saved.plan.dtype is None:
        planned = replace(planned, plan=replace(planned.plan, dtype=None))
    before, now = saved.course(), planned.course()
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise _other_course(f"the run's {key}", before.get(key), now.get(key))
    say(f"resuming {model_tag} at step {saved.step} of {planned.plan.total_steps}")
    return replace(planned, progress=saved.progress)


def require_same_flags(saved: CheckpointMeta | None, config: Any, *names: str) -> None:
    """Raise ValueError if one of these flags, which the plan does not hold, is another than when the run began."""
    if saved is None:
        return
    now = to_json(config)
    for name in names:
        if saved.config.get(name) != now[name]:
            raise _other_course(f"--{name.replace('_', '-')}", saved.config.get(name), now[name])


def _other_course(what: str, before: object, now: object) -> ValueError:
    return ValueError(
        f"cannot resume: {what} was {before!r} and is now {now!r}; use the same flags, or another --model-tag"
    )


def _asked_rates(meta: CheckpointMeta) -> list[object]:
    """What the flags say of the rates; the rest of what they follow from is compared as part of the course."""
    return [meta.config.get(flag) for flag in ("lr_scale", "lr_fraction", "learn")]
