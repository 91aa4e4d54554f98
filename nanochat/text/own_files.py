"""Finds the user's text files by path or pattern."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from nanochat.errors import EnvironmentFault
from nanochat.paths import expanded
from nanochat.text.readers import FORMATS, TEXT_FORMATS, format_of


def names_files(spec: str) -> bool:
    """Whether `spec` is a pattern or an existing path."""
    return spec != "" and (glob.has_magic(spec) or expanded(spec).exists())


def absolute(spec: str) -> str:
    """The absolute path or pattern of `spec`; unchanged if it is neither a pattern nor an existing path."""
    path = expanded(spec)
    if spec and path.exists():  # the path of an empty text is the working directory
        if ".." not in path.parts:
            return str(path.absolute())
        # A link's own name stays: what it points to may have no suffix.
        return str(path.resolve() if path.name == ".." else path.parent.resolve() / path.name)
    if not glob.has_magic(spec):
        return spec
    return os.path.normpath(path if path.is_absolute() else Path(glob.escape(os.getcwd())) / path)


def short_name(spec: str) -> str:
    """A folder name for the files of `spec`: the last part of the path that is not a pattern, without suffixes."""
    parts = [part for part in Path(spec).absolute().parts if not glob.has_magic(part)]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", parts[-1].split(".")[0]).strip("-._") or "data"


def unique_name(spec: str) -> str:
    """`short_name` with a digest of the absolute path, so that equal names in different folders differ."""
    digest = hashlib.sha256(os.fsencode(os.path.abspath(absolute(spec)))).hexdigest()
    return f"{short_name(spec)}-{digest[:8]}"


def find_files(spec: str) -> list[Path]:
    """The files at a path or pattern, in order.

    Raises ValueError if there are none, EnvironmentFault for an unreadable folder.
    """
    if not names_files(spec):
        raise ValueError(f"no file or folder {spec!r}")
    path = expanded(spec)
    if path.is_file():
        if format_of(path) is None:
            raise ValueError(
                f"{path}: unknown format; use {', '.join(FORMATS)} (the text ones also as .gz or .zst)"
            )
        return [path]
    if path.is_dir():
        found = _preferred(sorted(_visible_files(path)))
        if not found:
            raise ValueError(f"the folder {path} holds no {', '.join(FORMATS)} file: nothing to read")
    else:
        matches = map(Path, sorted(glob.glob(str(path), recursive=True)))
        found = [match for match in matches if format_of(match) and match.is_file()]
        if not found:
            raise ValueError(f"no {', '.join(FORMATS)} file matches the pattern {spec}")
    return found


def _visible_files(folder: Path) -> Iterator[Path]:
    """The files below a folder, also behind links to folders, each real folder once.

    Raises EnvironmentFault for an unreadable folder.
    """
    seen = set()
    starts = [folder]
    for start in starts:  # links to folders are appended meanwhile
        for root, folders, names in os.walk(start, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            real = os.path.realpath(root)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            starts += [path for name in folders if os.path.islink(path := Path(root, name))]
            files = (Path(root, name) for name in names if not name.startswith("."))
            yield from filter(Path.is_file, files)


def _raise(error: OSError) -> None:
    raise EnvironmentFault(f"cannot read {error.filename}: {error.strerror}") from error


def _preferred(files: list[Path]) -> list[Path]:
    """The parquet files, else the jsonl files, else all: a README next to shards is not training text."""
    for formats in ((".parquet",), (".jsonl",), TEXT_FORMATS):
        if chosen := [file for file in files if format_of(file) in formats]:
            return chosen
    return []
