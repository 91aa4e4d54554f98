"""Checkpoints on disk: `step_010000_{model,optim,meta}.pt`. No other module knows these names.

The meta file is the commit. It is written last and holds the size and sha256 of the others; a step without a valid
meta does not exist. All files of a step are first written and synced under temporary names, so that a full disk or a
killed process leaves earlier steps unchanged. A directory has one writer at a time.

Files are untrusted: only tensors and plain containers are read, and any fault becomes a one-line error.
Equal contents give equal bytes, so two runs can be compared by the sha256 in their metas.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import textwrap
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch

from nanochat.atomic import remove_temporaries, sha256_of, stage, sync_directory, write_fault
from nanochat.checkpoint import serialize
from nanochat.checkpoint.meta import CheckpointMeta, FileFacts, Part, from_plain, to_plain
from nanochat.console import warn
from nanochat.errors import EnvironmentFault
from nanochat.process_link import describe

_FILE = re.compile(r"step_(\d+)_(model|optim|meta)\.pt")
_MOST_META_BYTES = 2**24
_LONGEST_REASON = 300


def file_of(directory: Path, step: int, part: Part | Literal["meta"]) -> Path:
    """The file of one part of a step."""
    return directory / f"step_{step:06d}_{part}.pt"


def save(
    directory: Path,
    meta: CheckpointMeta,
    model: Mapping[str, Any],
    optimizer: Mapping[str, Any] | None = None,
    *,
    keep_last: int | None = None,
) -> Path:
    """Commit the step of `meta` and return its meta file; an existing step is replaced.

    Sizes and hashes of the files are added to the meta. With `keep_last`, older steps are then removed until
    that many up to this one remain.
    Raises EnvironmentFault if writing fails, TypeError for anything but tensors and plain containers.
    """
    directory, step = Path(directory), meta.step
    if keep_last is not None and keep_last < 1:
        raise ValueError(f"keep_last must be at least 1, not {keep_last}")
    _clean(directory)
    contents: dict[Part, Mapping[str, Any]] = {"model": model}
    if optimizer is not None:
        contents["optim"] = optimizer
    staged: dict[Part | Literal["meta"], Path] = {}
    try:
        files: dict[Part, FileFacts] = {}
        for part, content in contents.items():
            staged[part], files[part] = _stage(file_of(directory, step, part), content)
        whole_meta = to_plain(replace(meta, files=files))
        staged["meta"], _ = _stage(file_of(directory, step, "meta"), whole_meta)
        _commit(directory, step, staged)
    finally:
        for leftover in staged.values():
            leftover.unlink(missing_ok=True)
    if keep_last is not None:
        for old in [known for known in whole_steps(directory) if known <= step][:-keep_last]:
            remove(directory, old)
    return file_of(directory, step, "meta")


def _commit(directory: Path, step: int, staged: Mapping[Part | Literal["meta"], Path]) -> None:
    """Rename the staged files of a step into place, in order, the meta last."""
    try:
        # Until the last rename the step does not exist; no data is written in between.
        remove(directory, step)
        for part, path in staged.items():
            sync_directory(directory)  # each rename is durable before the next, which relies on it
            os.replace(path, file_of(directory, step, part))
        sync_directory(directory)
    except OSError as error:
        raise write_fault(file_of(directory, step, "meta"), error) from error


def remove(directory: Path, step: int) -> None:
    """Remove a step, its meta first, so that it is never partly committed."""
    parts: tuple[Part | Literal["meta"], ...] = ("meta", "optim", "model")
    for part in parts:
        file_of(directory, step, part).unlink(missing_ok=True)


def whole_steps(directory: Path) -> list[int]:
    """The steps in ascending order whose meta is valid and whose other files have the sizes that it gives."""
    return [step for step in steps_with_meta(directory) if _problem(directory, step, contents=False) is None]


def latest(directory: Path) -> int | None:
    """The newest step whose files match the sha256 in its meta, or None; warns of torn ones."""
    for step in reversed(steps_with_meta(directory)):
        problem = _problem(directory, step, contents=True)
        if problem is None:
            return step
        warn(f"skipping the torn checkpoint of step {step} in {directory}: {problem}")
    return None


def require_latest(directory: Path) -> int:
    """The newest valid step. Raises EnvironmentFault if there is none."""
    if (step := latest(directory)) is None:
        raise EnvironmentFault(f"no checkpoint in {directory} is complete: restore the files, or train again")
    return step


def finished_step(directory: Path, *, verify: bool = True) -> int | None:
    """The newest valid step if the run is finished at it, else None. The only test for a finished run.

    verify: compare the files with the sha256 in the meta; otherwise only their sizes, which is quick.
    """
    step = latest(directory) if verify else max(whole_steps(directory), default=None)
    return step if step is not None and load_meta(directory, step).finished else None


def load_meta(directory: Path, step: int) -> CheckpointMeta:
    """The meta of a step. Raises ValueError if there is no such step, EnvironmentFault if it is torn."""
    if not file_of(directory, step, "meta").is_file():
        known = whole_steps(directory)
        there = f"it has {', '.join(map(str, known))}" if known else "it has no checkpoint"
        raise ValueError(f"no checkpoint of step {step} in {directory}: {there}")
    try:
        return _read_meta(directory, step)
    except _Damaged as damage:
        raise _torn(directory, step, str(damage)) from None


def intact(directory: Path, step: int, meta: CheckpointMeta) -> bool:
    """Whether a step's files have the sizes that its meta gives."""
    return _files_problem(directory, step, meta.files, contents=False) is None


def load_model_state(directory: Path, step: int) -> dict[str, Any]:
    """The model's tensors, read after checking their file against the meta. Raises as `load_meta`."""
    return _load_part(Path(directory), step, "model")


def load_optimizer_state(directory: Path, step: int) -> dict[str, Any]:
    """The optimiser's state. Raises as `load_meta`, and ValueError if the step was saved without one."""
    return _load_part(Path(directory), step, "optim")


def ensure_writable(directory: Path, need_bytes: int) -> None:
    """Raise EnvironmentFault unless `directory` can be created, written to, and hold `need_bytes` of checkpoints.

    Those that it holds already count, since new ones replace them.
    """
    stage(directory / "step_probe", lambda file: file.write(b"probe")).unlink()
    free = shutil.disk_usage(directory).free
    if free + sum(path.stat().st_size for path in directory.glob("step_*.pt")) < need_bytes:
        raise EnvironmentFault(
            f"{directory} has {free / 1e9:.2f} GB free and the checkpoints need {need_bytes / 1e9:.2f} GB; "
            "free some space, keep fewer (--keep-last) or choose another NANOCHAT_BASE_DIR"
        )


def _load_part(directory: Path, step: int, part: Part) -> dict[str, Any]:
    facts = load_meta(directory, step).files.get(part)
    if facts is None:
        raise ValueError(f"the checkpoint of step {step} in {directory} was saved without its {part} file")
    problem = _part_problem(directory, step, part, facts, contents=True)
    if problem is not None:
        raise _torn(directory, step, problem)
    path = file_of(directory, step, part)
    try:
        content = _read(path.name, path)
    except _Damaged as damage:
        raise _torn(directory, step, str(damage)) from None
    if not isinstance(content, dict):
        raise _torn(directory, step, f"{path.name} does not hold a table of tensors")
    return content


class _Damaged(Exception):  # noqa: N818 - an outcome of reading, never shown as an exception
    """What is wrong with a file, in one line."""


def _read(name: str, file: Path | BinaryIO) -> Any:
    """The tensors and plain containers in a file of any origin.

    Raises _Damaged for everything that can go wrong: a damaged pickle can raise any exception.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles: only success matters
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _Damaged(f"{name} cannot be read ({_one_line(error)})") from None


def _torn(directory: Path, step: int, problem: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"the checkpoint of step {step} in {directory} is torn: {problem}; use another step or delete it"
    )


def steps_with_meta(directory: Path) -> list[int]:
    """The steps that have a meta file, torn ones included, in ascending order."""
    found = (_FILE.fullmatch(path.name) for path in Path(directory).glob("step_*_meta.pt"))
    return sorted(int(match[1]) for match in found if match)


def _checked_archive(path: Path) -> BinaryIO:
    """An in-memory copy of a small archive, built from its entries with verified checksums.

    torch checks neither checksums nor headers, and reads beyond the entries where a header is damaged.
    """
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as clean:
        if sum(entry.file_size for entry in archive.infolist()) > _MOST_META_BYTES:
            raise ValueError("it is too large")
        for entry in archive.infolist():
            clean.writestr(entry.filename, archive.read(entry))
    copy.seek(0)
    return copy


def _read_meta(directory: Path, step: int) -> CheckpointMeta:
    path = file_of(directory, step, "meta")
    try:
        meta = from_plain(_read(path.name, _checked_archive(path)))
    except _Damaged:
        raise
    except Exception as error:  # as in _read: a damaged file can raise any exception
        raise _Damaged(f"{path.name} cannot be read ({_one_line(error)})") from None
    if meta.step != step:
        raise _Damaged(f"{path.name} belongs to step {meta.step}")
    return meta


def _problem(directory: Path, step: int, *, contents: bool) -> str | None:
    """What is wrong with a step that has a meta file, or None."""
    try:
        files = _read_meta(directory, step).files
    except _Damaged as damage:
        return str(damage)
    return _files_problem(directory, step, files, contents=contents)


def _files_problem(directory: Path, step: int, files: dict[Part, FileFacts], *, contents: bool) -> str | None:
    problems = (_part_problem(directory, step, part, files[part], contents=contents) for part in files)
    return next((problem for problem in problems if problem is not None), None)


def _part_problem(directory: Path, step: int, part: Part, facts: FileFacts, *, contents: bool) -> str | None:
    path = file_of(directory, step, part)
    try:
        if not path.is_file():
            return f"{path.name} is missing"
        if (size := path.stat().st_size) != facts.size:
            return f"{path.name} has {size} bytes instead of {facts.size}"
        if contents and sha256_of(path) != facts.sha256:
            return f"{path.name} does not match the sha256 in its meta"
    except OSError as error:
        return f"{path.name} cannot be read ({_one_line(error)})"
    return None


def _one_line(error: BaseException) -> str:
    return textwrap.shorten(describe(error), _LONGEST_REASON, placeholder=" …")


def _clean(directory: Path) -> None:
    """Remove what killed processes left behind: temporary files and files of steps without a meta."""
    remove_temporaries(directory, prefix="step_")
    there = set(steps_with_meta(directory))
    for path in directory.glob("step_*.pt"):
        match = _FILE.fullmatch(path.name)
        if match and int(match[1]) not in there:
            path.unlink(missing_ok=True)


def _stage(path: Path, content: Mapping[str, Any]) -> tuple[Path, FileFacts]:
    """Write `content` under a temporary name beside `path`; returns (that file, its size and sha256)."""
    written: list[FileFacts] = []

    def fill(file: BinaryIO) -> None:
        written.append(FileFacts(*serialize.write(content, file)))

    return stage(path, fill), written[0]
