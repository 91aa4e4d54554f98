"""Moves replaced runs and reports to `archive/<name>-<n>`. Nothing is ever deleted."""

from __future__ import annotations

from pathlib import Path

from nanochat.atomic import write_fault
from nanochat.paths import Paths


def move_to_archive(paths: Paths, name: str, folders: dict[str, Path]) -> Path | None:
    """Move the existing ones of these folders to `archive/<name>-<n>/<key>`; None if none exists.

    Raises EnvironmentFault if they cannot be moved.
    """
    present = {key: folder for key, folder in folders.items() if folder.exists()}
    if not present:
        return None
    number = 1
    while (home := paths.base / "archive" / f"{name}-{number}").exists():
        number += 1
    try:
        home.mkdir(parents=True)
        for key, folder in present.items():
            folder.rename(home / key)
    except OSError as error:
        raise write_fault(home, error) from error
    return home
