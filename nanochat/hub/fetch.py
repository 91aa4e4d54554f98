"""Bring files of the hub, or of a plain URL, to this machine whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nanochat import console
from nanochat.atomic import sha256_of
from nanochat.errors import EnvironmentFault
from nanochat.hub.batch import WORKERS, Check, Job, download_all, is_sound
from nanochat.hub.listing import describe, describe_url, exported, is_offline, name_some, require_http
from nanochat.hub.transfer import RetryPolicy
from nanochat.paths import Paths


def check_parquet(path: Path) -> None:
    """Raises unless `path` opens as a parquet file."""
    import pyarrow.parquet as pq

    pq.read_metadata(path)


def fetch_files(
    repo: str,
    filenames: Sequence[str],
    directory: Path,
    *,
    workers: int = WORKERS,
    check: Check | None = None,
    progress: bool = True,
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
) -> list[Path]:
    """Bring files of a dataset repository into `directory` and return their paths, in the order asked.

    The first file is complete before the others begin, which then come `workers` at a time. What is there
    already, by size and `check` (which raises where a file is not what it should be), is not fetched again.
    When the hub does not answer but everything is there, that is enough. Raises EnvironmentFault, one line.
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
        console.warn(f"{fault}; going on with the {len(targets)} files that are already in {directory}")
        return targets
    jobs = [file.to(directory) for file in files]
    download_all(jobs, directory, title=repo, workers=workers, check=check, progress=progress, policy=policy)
    return targets


def hub_parquet(repo: str, config: str, split: str, paths: Paths) -> Path:
    """The one parquet file of a dataset's split, as the hub exports it, below `paths.task_data`.

    Raises ValueError where the split has several files: `hub_parquet_files` returns them all.
    """
    files = hub_parquet_files(repo, config, split, paths)
    if len(files) > 1:
        raise ValueError(f"{repo} {config}/{split} has {len(files)} files: use hub_parquet_files")
    return files[0]


def hub_parquet_files(repo: str, config: str, split: str, paths: Paths) -> list[Path]:
    """Every parquet file of a dataset's split, in order: `task_data/<repo>/<config>/<split>/0000.parquet` …

    0000 is fetched last: once it is there, so are the others, and the hub is not asked again.
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
    sha256: str | None = None,
    check: Check | None = None,
    progress: bool = True,
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
) -> Path:
    """Bring one file from any http(s) address, with the guarantees of `fetch_files` and without HF_TOKEN.

    A file that is there already, with that sha256 and passing `check`, is not fetched again. Without sha256 and
    `check` the server's word on the size is all the proof there is.
    """
    require_http(url, "the address")

    def is_wanted(path: Path) -> None:
        if sha256 is not None and sha256_of(path) != sha256:
            raise ValueError(f"its sha256 is not {sha256}")
        if check is not None:
            check(path)

    if is_sound(destination, is_wanted):
        return destination
    if is_offline():
        _require_present([destination], destination.parent)
    source = describe_url(url, destination.name, sha256, policy)
    download_all(
        [Job(source, destination)],
        destination.parent,
        title=source.name,
        check=is_wanted,
        progress=progress,
        policy=policy,
    )
    return destination


def _require_present(absent: Sequence[Path], directory: Path) -> None:
    if absent:
        names = name_some([path.name for path in absent])
        raise EnvironmentFault(
            f"HF_HUB_OFFLINE is set and {directory} lacks {names}: unset it, or copy them there"
        )
