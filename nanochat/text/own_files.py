"""Finds the user's text files by path or pattern."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from pathlib import Path

from nanochat.text.readers import FORMATS, TEXT_FORMATS, format_of


def names_files(spec: str) -> bool:
    """Whether `spec` is a pattern or an existing path."""
    return spec != "" and (glob.has_magic(spec) or Path(spec).expanduser().exists())


def absolute(spec: str) -> str:
    """The absolute path or pattern of `spec`; unchanged if it is neither a pattern nor an existing path."""
    path = Path(spec).expanduser()
    if spec and path.exists():  # the path of an empty text is the working directory
        return str(path.resolve() if ".." in path.parts else path.absolute())
    if not glob.has_magic(spec):
        return spec
    return os.path.normpath(path if path.is_absolute() else Path(glob.escape(os.getcwd())) / path)


def short_name(spec: str) -> str:
    """A folder name for the files of `spec`: the last part of the path that is not a pattern, without suffixes."""
    parts = [part for part in Path(spec).absolute().parts if not glob.has_magic(part)]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", parts[-1].split(".")[0]).strip("-._") or "data"


def unique_name(spec: str) -> str:
    """`short_name` with a digest of the absolute path, so that equal names in different folders differ."""
    digest = hashlib.sha256(os.path.abspath(absolute(spec)).encode()).hexdigest()
    return f"{short_name(spec)}-{digest[:8]}"


def find_files(spec: str) -> list[Path]:
    """The files at a path or pattern, in order.

    Raises ValueError if there are none.
    """
    if not names_files(spec):
        raise ValueError(f"no file or folder {spec!r}")
    path = Path(spec).expanduser()
    if path.is_file():
        if format_of(path) is None:
            raise ValueError(
                f"{path}: unknown format; use {', '.join(FORMATS)} (the text ones also as .gz or .zst)"
            )
        return [path]
    if path.is_dir():
        found = _preferred(
            sorted(file for file in path.rglob("*") if file.is_file() and _is_visible(file, path))
        )
        where = f"the folder {path}"
    else:
        matches = map(Path, sorted(glob.glob(str(path), recursive=True)))
        found = [match for match in matches if format_of(match) and match.is_file()]
        where = f"the pattern {spec}"
    if not found:
        raise ValueError(f"{where} holds no {', '.join(FORMATS)} file: nothing to read")
    return found


def _is_visible(file: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in file.relative_to(folder).parts)


def _preferred(files: list[Path]) -> list[Path]:
    """The parquet files, else the jsonl files, else all: a README next to shards is not training text."""
    for formats in ((".parquet",), (".jsonl",), TEXT_FORMATS):
        if chosen := [file for file in files if format_of(file) in formats]:
            return chosen
    return []
