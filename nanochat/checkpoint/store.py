"""Checkpoints on disk: `step_010000_{model,optim,meta}.pt`, no model knowledge.

The meta file is the commit. It is written last and names size and sha256 of the others; a step without a
valid meta does not exist. All files of a step are first written and synced under temporary names, so that a
full disk or a killed process leaves the earlier steps as they were. A directory has one writer at a time.

Equal contents give equal bytes: two runs can be compared by the sha256 in their metas.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from nanochat.atomic import remove_temporaries, sha256_of, stage, sync_directory, write_fault
from nanochat.checkpoint import serialize
from nanochat.console import warn
from nanochat.errors import EnvironmentFault

FORMAT = 1
_RESERVED = ("format", "step", "files")
_FILE = re.compile(r"step_(\d+)_(model|optim|meta)\.pt")
_UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile)


def file_of(directory: Path, step: int, part: str) -> Path:
    """The file of one `part` ("model", "optim" or "meta") of a step."""
    return directory / f"step_{step:06d}_{part}.pt"


def save(
    directory: Path,
    step: int,
    model: Mapping[str, Any],
    optimizer: Mapping[str, Any] | None,
    meta: Mapping[str, Any],
    *,
    keep_last: int | None = None,
) -> Path:
    """Commit a step and return its meta file; `keep_last` then removes all but that many steps up to it.

    `meta` gains "format", "step" and "files": {part: {"size", "sha256"}}. A step that is there is replaced.
    Raises EnvironmentFault where the disk refuses, TypeError for anything but tensors and plain containers.
    """
    directory = Path(directory)
    if keep_last is not None and keep_last < 1:
        raise ValueError(f"keep_last must be at least 1, not {keep_last}")
    assert step >= 0, step
    assert not set(_RESERVED) & set(meta), f"meta may not hold {_RESERVED}"
    _clean(directory)
    parts = {"model": model} if optimizer is None else {"model": model, "optim": optimizer}
    staged: dict[str, Path] = {}
    try:
        files = {}
        for part, content in parts.items():
            staged[part], files[part] = _stage(file_of(directory, step, part), content)
        whole_meta = {"format": FORMAT, "step": step, "files": files, **meta}
        staged["meta"], _ = _stage(file_of(directory, step, "meta"), whole_meta)
        _commit(directory, step, staged)
    finally:
        for leftover in staged.values():
            leftover.unlink(missing_ok=True)
    if keep_last is not None:
        for old in [known for known in steps(directory) if known <= step][:-keep_last]:
            remove(directory, old)
    return file_of(directory, step, "meta")


def _commit(directory: Path, step: int, staged: dict[str, Path]) -> None:
    """Rename the staged files of a step into place, the meta last."""
    try:
        remove(
            directory, step
        )  # from here to the last rename the step is not there: no data is written between
        for part in ("model", "optim", "meta"):
            if part in staged:
                sync_directory(directory)  # each is on the disk before what relies on it
                os.replace(staged[part], file_of(directory, step, part))
        sync_directory(directory)
    except OSError as error:
        raise write_fault(file_of(directory, step, "meta"), error) from error


def remove(directory: Path, step: int) -> None:
    """Remove a step: its meta first, so that it is never half there."""
    for part in ("meta", "optim", "model"):
        file_of(directory, step, part).unlink(missing_ok=True)


def steps(directory: Path) -> list[int]:
    """The committed steps in ascending order: the meta reads and the other files have the sizes it names."""
    return [step for step in committed(directory) if _problem(directory, step, contents=False) is None]


def latest(directory: Path) -> int | None:
    """The newest step whose files have the sha256 that its meta names, or None; torn ones cost a warning."""
    for step in reversed(committed(directory)):
        problem = _problem(directory, step, contents=True)
        if problem is None:
            return step
        warn(f"skipping the torn checkpoint of step {step} in {directory}: {problem}")
    return None


def finished_step(directory: Path) -> int | None:
    """The last step of a training run that came to its end, or None: the run's newest step is the last one planned."""
    step = max(steps(directory), default=None)
    if step is None:
        return None
    planned = load_meta(directory, step)["course"]["schedule"]["total_steps"]
    return step if step >= planned else None


def load_meta(directory: Path, step: int) -> dict[str, Any]:
    """The meta of a step. Raises ValueError if there is no such step, EnvironmentFault if it is torn."""
    directory = Path(directory)
    if not file_of(directory, step, "meta").is_file():
        known = steps(directory)
        there = f"it has {', '.join(map(str, known))}" if known else "it has no checkpoint"
        raise ValueError(f"no checkpoint of step {step} in {directory}: {there}")
    try:
        return _read_meta(directory, step)
    except _UNREADABLE as error:
        raise _torn(directory, step, f"the meta does not read ({_first_line(error)})") from error


def load_model_state(directory: Path, step: int, map_location: Any = "cpu") -> dict[str, Any]:
    """The model's tensors, once their file proved to be the one that the meta names (raises as `load_meta`)."""
    return _load_part(Path(directory), step, "model", map_location)


def load_optimizer_state(directory: Path, step: int, map_location: Any = "cpu") -> dict[str, Any]:
    """The optimiser's state. Raises ValueError too where the step was saved without one."""
    return _load_part(Path(directory), step, "optim", map_location)


def ensure_writable(directory: Path, need_bytes: int) -> None:
    """Raise EnvironmentFault unless `directory` can be made, takes a file, and has `need_bytes` free."""
    directory = Path(directory)
    stage(directory / "step_probe", lambda file: file.write(b"probe")).unlink()
    free = shutil.disk_usage(directory).free
    if free < need_bytes:
        raise EnvironmentFault(
            f"{directory} has {free / 1e9:.2f} GB free and the checkpoints need {need_bytes / 1e9:.2f} GB; "
            "free some space, keep fewer (--keep-last) or choose another NANOCHAT_BASE_DIR"
        )


def _load_part(directory: Path, step: int, part: str, map_location: Any) -> dict[str, Any]:
    meta = load_meta(directory, step)
    if part not in meta["files"]:
        raise ValueError(f"the checkpoint of step {step} in {directory} was saved without its {part} file")
    problem = _part_problem(directory, step, part, meta["files"][part], contents=True)
    if problem is not None:
        raise _torn(directory, step, problem)
    return torch.load(file_of(directory, step, part), map_location=map_location, weights_only=True)


def _torn(directory: Path, step: int, problem: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"the checkpoint of step {step} in {directory} is torn: {problem}; use another step or delete it"
    )


def committed(directory: Path) -> list[int]:
    """The steps that have a meta file, torn ones included, in ascending order."""
    found = (_FILE.fullmatch(path.name) for path in Path(directory).glob("step_*_meta.pt"))
    return sorted(int(match[1]) for match in found if match)


def _read_meta(directory: Path, step: int) -> dict[str, Any]:
    path = file_of(directory, step, "meta")
    with zipfile.ZipFile(path) as archive:  # torch does not look at the archive's checksums
        if (bad := archive.testzip()) is not None:
            raise ValueError(f"wrong checksum in {bad}")
    meta = torch.load(path, map_location="cpu", weights_only=True)
    if meta["format"] != FORMAT:
        raise ValueError(f"format {meta['format']}, this version reads {FORMAT}")
    if meta["step"] != step:
        raise ValueError(f"it belongs to step {meta['step']}")
    return meta


def _problem(directory: Path, step: int, *, contents: bool) -> str | None:
    """What is wrong with a step that has a meta file, or None."""
    directory = Path(directory)
    try:
        files = _read_meta(directory, step)["files"]
    except _UNREADABLE as error:
        return f"the meta does not read ({_first_line(error)})"
    problems = (_part_problem(directory, step, part, files[part], contents=contents) for part in files)
    return next((problem for problem in problems if problem is not None), None)


def _part_problem(
    directory: Path, step: int, part: str, facts: dict[str, Any], *, contents: bool
) -> str | None:
    path = file_of(directory, step, part)
    if not path.is_file():
        return f"{path.name} is missing"
    if (size := path.stat().st_size) != facts["size"]:
        return f"{path.name} has {size} bytes instead of {facts['size']}"
    if contents and sha256_of(path) != facts["sha256"]:
        return f"{path.name} has another sha256 than its meta names"
    return None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _clean(directory: Path) -> None:
    """Remove what killed processes left: temporary files, and files of steps that were never committed."""
    remove_temporaries(directory, prefix="step_")
    there = set(committed(directory))
    for path in directory.glob("step_*.pt"):
        match = _FILE.fullmatch(path.name)
        if match and int(match[1]) not in there:
            path.unlink(missing_ok=True)


def _stage(path: Path, content: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Write `content` under a temporary name beside `path`: (that file, its size and sha256)."""
    facts: dict[str, Any] = {}

    def fill(file: BinaryIO) -> None:
        facts["size"], facts["sha256"] = serialize.write(content, file)

    return stage(path, fill), facts
