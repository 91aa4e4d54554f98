"""One dataset for several processes, which may stand on machines without a shared disk."""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nanochat.errors import EnvironmentFault
from nanochat.paths import Paths
from nanochat.processes import Processes
from nanochat.text.datasets import Dataset, TextSource

_Facts = list[tuple[str, int]]  # name and size of each file, in order


def open_shared(source: TextSource, paths: Paths, processes: Processes) -> Dataset:
    """The dataset that process 0 finds, made of each process's own files.

    Every process waits for what is still being downloaded. Raises as `TextSource.open` does; EnvironmentFault, naming
    the file, on a process that lacks one of process 0's (by name and size).
    """
    with processes.together(f"opening {source.dataset}"):
        mine = source.open(paths)
    theirs, train, val = processes.decide(lambda: (mine, _facts(mine.train), _facts(mine.val)))
    with processes.together(f"comparing the files of {source.dataset}"):
        return replace(
            mine,
            name=theirs.name,
            held_out=theirs.held_out,
            train=_pick(mine.train, train, processes.rank),
            val=_pick(mine.val, val, processes.rank),
        )


def _facts(files: Sequence[Path]) -> _Facts:
    return [(path.name, path.stat().st_size) for path in files]


def _pick(files: Sequence[Path], wanted: _Facts, rank: int) -> tuple[Path, ...]:
    """Those of our files that process 0 uses, in its order."""
    ours: dict[tuple[str, int], deque[Path]] = defaultdict(deque)
    for path, facts in zip(files, _facts(files), strict=True):
        ours[facts].append(path)
    picked = []
    for name, size in wanted:
        if not ours[name, size]:
            raise EnvironmentFault(
                f"process {rank} has no {name} of {size:,} bytes, which process 0 reads: "
                "put the same files on every machine"
            )
        picked.append(ours[name, size].popleft())
    return tuple(picked)
