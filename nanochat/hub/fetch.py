"""Download files from the hub or from a plain URL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nanochat import console
from nanochat.errors import EnvironmentFault
from nanochat.hub.batch import WORKERS, Check, Job, download_all, is_sound
from nanochat.hub.listing import describe, describe_url, exported, is_offline, name_some, require_http
from nanochat.hub.retry import RetryPolicy
from nanochat.paths import Paths


def check_parquet(path: Path) -> None:
    """Raise unless `path` opens as a parquet file."""
    import pyarrow.parquet as pq

    pq.read_metadata(path)


def fetch_files(
    repo: str,
    filenames: Sequence[str],
    directory: Path,
    *,
    workers: int = WORKERS,
    check: Check | None = None,
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
) -> list[Path]:
    """Download files of a dataset repository into `directory`; returns their paths in the order of `filenames`.

    The first file is completed before the others start, `workers` at a time. A file that exists with the right
    size and passes `check` (which raises for a bad file) is kept. If the hub is unreachable but all files exist,
    they are returned with a warning. Raises EnvironmentFault.
    """
    targets = [directory / name for name in filenames]
    absent = [target for target in targets if not is_sound(target, check)]
    if is_offline():
        _require_present(absent, directory)
        return targets
    try:
        files = describe(repo, filenames, policy)
    except EnvironmentFault as fault:
        if absent:
            raise
        console.warn(f"{fault}; using the {len(targets)} files that are already in {directory}")
        return targets
    jobs = [file.to(directory) for file in files]
    download_all(jobs, directory, title=repo, workers=workers, check=check, policy=policy)
    return targets


def hub_parquet_files(repo: str, config: str, split: str, paths: Paths) -> list[Path]:
    """Every parquet file of a dataset's split, in order: `task_data/<repo>/<config>/<split>/0000.parquet` …

    0000 is downloaded last: if it exists, so do the others, and the hub is not asked again. Raises
    EnvironmentFault if they cannot be downloaded.
    """
    directory, folder = paths.task_data / repo, f"{config}/{split}"
    first = directory / folder / "0000.parquet"
    if not is_sound(first, check_parquet):
        if is_offline():
            _require_present([first], directory)
        jobs = [file.to(directory) for file in exported(repo, folder)]
        for batch in (jobs[1:], jobs[:1]):
            download_all(batch, directory, title=f"{repo} {folder}", check=check_parquet)
    return sorted(first.parent.glob("*.parquet"))


def fetch_url(
    url: str,
    destination: Path,
    *,
    check: Check | None = None,
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
) -> Path:
    """Download one file from any http(s) address, with the guarantees of `fetch_files` and without HF_TOKEN.

    An existing file that passes `check` is kept. Without `check` only the size stated by the server is verified.
    Raises ValueError for an address that is not http(s), EnvironmentFault if the file cannot be downloaded.
    """
    require_http(url, "the address")
    if is_sound(destination, check):
        return destination
    if is_offline():
        _require_present([destination], destination.parent)
    source = describe_url(url, destination.name, policy)
    download_all(
        [Job(source, destination)], destination.parent, title=source.name, check=check, policy=policy
    )
    return destination


def _require_present(absent: Sequence[Path], directory: Path) -> None:
    if absent:
        names = name_some([path.name for path in absent])
        raise EnvironmentFault(
            f"HF_HUB_OFFLINE is set and {directory} lacks {names}: unset it, or copy them there"
        )
