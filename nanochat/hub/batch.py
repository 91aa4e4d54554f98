"""Download many files into one folder: one process at a time, disk space checked first, progress shown."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from nanochat import console
from nanochat.atomic import write_fault
from nanochat.errors import EnvironmentFault
from nanochat.hub.retry import RetryPolicy
from nanochat.hub.threads import Cancellation, in_threads
from nanochat.hub.transfer import DownloadSource, Rejected, download

WORKERS = 8  # parallel connections
LOCK_NAME = ".download.lock"
_SPARE_BYTES = 64 << 20  # left free on the disk
_POLL_S = 0.5  # between checks of what another process has downloaded
_REFRESH_S = 0.2  # between updates of the progress bar

Check = Callable[[Path], None]  # raises, with a reason, if a file is not what it should be


@dataclass(frozen=True)
class Job:
    """One file to download: its source and its destination."""

    source: DownloadSource
    destination: Path

    def held(self) -> int:
        """Bytes of an interrupted download that this one resumes."""
        part = self.source.part_of(self.destination)
        return part.stat().st_size if self.source.has_version and part.exists() else 0

    def is_done(self, check: Check | None) -> bool:
        """Whether the file exists with the stated size and passes `check`. Its hash was compared on arrival."""
        path, size = self.destination, self.source.size
        return is_sound(path, check) and (size is None or path.stat().st_size == size)


def is_sound(path: Path, check: Check | None) -> bool:
    """Whether `path` is a file that passes `check`."""
    try:
        if check is not None and path.is_file():
            check(path)
    except Exception:  # whatever the reader of that format raises
        return False
    return path.is_file()


def download_all(
    jobs: Sequence[Job],
    directory: Path,
    *,
    title: str,
    workers: int = WORKERS,
    check: Check | None = None,
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
) -> None:
    """Download the files of all jobs that are not done: the first one alone, then `workers` at a time.

    A bad file does not stop the others. A stalled server, a full disk or an interrupt ends everything at once;
    partial files remain for the next run. Raises EnvironmentFault.
    """
    lacking = [job for job in jobs if not job.is_done(check)]
    if not lacking:
        return
    with _turn(directory, lambda: [job for job in lacking if not job.is_done(check)]) as left:
        if not left:
            return
        _require_space(directory, left)
        sizes = [job.source.size for job in left if job.source.size is not None]
        total = sum(sizes) if len(sizes) == len(left) else None
        with console.progress(f"downloading {title}", total, "B") as bar:
            _Download(left, check, policy, bar).run(workers)


class _Download:
    """The threads of one download and their progress."""

    def __init__(
        self, jobs: Sequence[Job], check: Check | None, policy: RetryPolicy, bar: console.ProgressBar
    ):
        self.jobs, self.check, self.policy, self.bar = jobs, check, policy, bar
        self._lock = Lock()
        self._bytes = sum(job.held() for job in jobs)
        self._finished = 0
        self._rejected: list[Rejected] = []

    def run(self, workers: int) -> None:
        for batch in (self.jobs[:1], self.jobs[1:]):
            with in_threads(self._one, batch, workers) as futures:
                self._collect(set(futures))
        if self._rejected:
            more = f" (and {len(self._rejected) - 1} more files)" if len(self._rejected) > 1 else ""
            raise EnvironmentFault(f"{self._rejected[0]}{more}")

    def _one(self, job: Job, cancelled: Cancellation) -> None:
        download(
            job.source,
            job.destination,
            policy=self.policy,
            check=self.check,
            on_bytes=self._count,
            cancelled=cancelled,
        )

    def _count(self, change: int) -> None:
        with self._lock:
            self._bytes += change

    def _collect(self, pending: set[Future[None]]) -> None:
        while pending:
            done, pending = wait(pending, timeout=_REFRESH_S, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    future.result()
                    self._finished += 1
                except Rejected as fault:
                    self._rejected.append(fault)
            self.bar.update(self._bytes, files=f"{self._finished}/{len(self.jobs)}")


@contextmanager
def _turn(directory: Path, left: Callable[[], list[Job]]) -> Iterator[list[Job]]:
    """Yield the remaining jobs while holding the folder's lock.

    If another process is downloading into the folder, wait for its lock or until it has downloaded all these jobs.
    """
    from filelock import FileLock, Timeout

    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / LOCK_NAME)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            console.say(f"another process is downloading into {directory}; waiting for it")
            while not lock.is_locked and left():
                with suppress(Timeout):
                    lock.acquire(timeout=_POLL_S)
    except OSError as error:
        raise write_fault(directory / LOCK_NAME, error) from error
    try:
        yield left()
    finally:
        lock.release()


def _require_space(directory: Path, jobs: Sequence[Job]) -> None:
    needed = sum(max((job.source.size or 0) - job.held(), 0) for job in jobs) + _SPARE_BYTES
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise EnvironmentFault(
            f"{len(jobs)} files still need {needed / 1e9:.2f} GB, but {directory} has {free / 1e9:.2f} GB free: "
            "free some space, request fewer files or choose another NANOCHAT_BASE_DIR"
        )
