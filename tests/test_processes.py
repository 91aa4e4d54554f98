"""Processes without a network: a single one, several as threads, and which modules import torch.distributed."""

import ast
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import nanochat
from nanochat.paths import Paths
from nanochat.process_link import Outcome, ProcessFailure, describe
from nanochat.processes import Abandoned, Processes, launcher
from nanochat.text.datasets import TextSource
from nanochat.text.shared_dataset import open_shared


def test_only_the_link_imports_torch_distributed() -> None:
    importing = set()
    for path in Path(nanochat.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            if any(name.startswith("torch.distributed") for name in names):
                importing.add(path.name)
    assert importing == {"process_link.py"}


@given(count=st.integers(0, 100), world=st.integers(1, 12))
def test_shares_are_consecutive_and_differ_by_at_most_one(count: int, world: int) -> None:
    shares = [Processes(rank, world).share(count) for rank in range(world)]
    assert [i for share in shares for i in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_alone_decides_and_fails_by_itself() -> None:
    alone = Processes()
    assert alone.decide(lambda: 3) == 3
    assert alone.any(True)
    alone.same("anything", object())
    with pytest.raises(KeyError), alone.together("a part"):
        raise KeyError


def test_a_tolerated_failure_costs_one_warning(capsys: pytest.CaptureFixture) -> None:
    alone = Processes()
    with alone.tolerating("evaluation at step 3"), alone.together("a part"):
        raise MemoryError
    assert capsys.readouterr().err == (
        "warning: evaluation at step 3 failed, training continues: out of memory\n"
    )


def test_a_stop_abandons_only_what_is_skippable_now_and_later(capsys: pytest.CaptureFixture) -> None:
    alone, done = Processes(), []
    with alone.together("saving"):
        alone.interrupt("SIGTERM")
        done.append("saving")
    for _ in range(2):
        with alone.tolerating("evaluation", skippable=True), alone.together("a part"):
            done.append("evaluation")
    with alone.tolerating("the last evaluation"), alone.together("a part"):
        done.append("last")
    assert done == ["saving", "last"]
    assert capsys.readouterr().err == "evaluation abandoned: SIGTERM\n" * 2
    running = Processes()
    with running.tolerating("evaluation", skippable=True), running.together("a part"):
        with pytest.raises(Abandoned):
            running.interrupt("SIGTERM")
        raise Abandoned


def test_the_command_to_continue_with_is_torchruns_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launcher() == "nanochat"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert launcher() == "torchrun --standalone --nproc_per_node=8 -m nanochat"
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert launcher().startswith("torchrun --nnodes=2 ")


class Wire:
    """A link between threads instead of processes."""

    def __init__(self, world_size: int):
        self._slots: list = [None] * world_size
        self._barrier = threading.Barrier(world_size)

    def end(self, rank: int) -> "End":
        return End(self, rank)

    def exchange(self, rank: int, mine: Outcome) -> list[Outcome]:
        self._slots[rank] = mine
        self._barrier.wait(20)
        everyone = list(self._slots)
        self._barrier.wait(20)
        return everyone


class End:
    """One thread's end of the link."""

    working_alone = False

    def __init__(self, wire: Wire, rank: int):
        self._wire, self._rank = wire, rank

    def exchange(self, mine: Outcome) -> list[Outcome]:
        return self._wire.exchange(self._rank, mine)

    def concatenate(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([outcome.value for outcome in self.exchange(Outcome(tensor))])

    def failure(self, process: int, reason: str) -> ProcessFailure:
        return ProcessFailure(process, reason, speaks=True)


def everywhere(work: Callable[[Processes], object], world_size: int = 3) -> list:
    """What `work` returns or raises in each process."""
    wire = Wire(world_size)

    def run(rank: int) -> object:
        try:
            return work(Processes(rank, world_size, wire.end(rank)))  # type: ignore[arg-type]
        except Exception as error:
            return error

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(run, range(world_size)))


def test_process_0_decides() -> None:
    assert everywhere(lambda processes: processes.decide(lambda: 10 + processes.rank)) == [10, 10, 10]
    assert everywhere(lambda processes: processes.any(processes.rank == 2)) == [True, True, True]
    assert everywhere(lambda processes: processes.gather(processes.rank)) == [[0, 1, 2]] * 3


def test_what_differs_between_processes_is_refused_by_all_in_the_same_words() -> None:
    outcomes = everywhere(lambda processes: processes.same("the tokenizer", "ab" if processes.rank else "cd"))
    assert all(isinstance(outcome, ValueError) for outcome in outcomes)
    assert {str(outcome) for outcome in outcomes} == {
        "the tokenizer differs between processes: cd on process 0, ab on process 1; "
        "give every machine the same files and versions"
    }


def test_a_failure_together_is_its_own_where_it_happened_and_named_elsewhere() -> None:
    def work(processes: Processes) -> None:
        with processes.together("saving"):
            if processes.rank == 1:
                raise OSError("disk full")

    first, failed, last = everywhere(work)
    assert isinstance(failed, OSError)
    for other in (first, last):
        assert isinstance(other, ProcessFailure)
        assert str(other) == "process 1 failed: saving: disk full"


def test_only_what_every_process_knows_of_is_tolerated() -> None:
    def work(processes: Processes) -> None:
        with processes.tolerating("evaluation"), processes.together("a part"):
            if processes.rank == 1:
                raise OSError("disk full")
        with processes.tolerating("evaluation"):
            raise KeyError(processes.rank)

    assert [type(outcome) for outcome in everywhere(work)] == [KeyError] * 3


def test_every_process_reads_the_files_that_process_0_reads(tmp_path: Path) -> None:
    """Process 1 has an extra file, process 2 lacks one, as can happen on machines without a shared disk."""
    for rank, count in enumerate((3, 4, 2)):
        for number in range(count):
            file = tmp_path / f"machine-{rank}" / "texts" / f"{number}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"Document {number}. " * 9)

    def work(processes: Processes) -> list[Path]:
        source = TextSource(str(tmp_path / f"machine-{processes.rank}" / "texts"))
        return list(open_shared(source, Paths(tmp_path), processes).train)

    assert everywhere(work, 2) == [
        [tmp_path / f"machine-{rank}" / "texts" / f"{number}.txt" for number in range(3)] for rank in range(2)
    ]
    *others, lacking = everywhere(work, 3)
    assert str(lacking).startswith("process 2 has no 2.txt of 108 bytes, which process 0 reads")
    assert all("process 2 has no 2.txt" in str(other) for other in others)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("choose another\nmore"), "choose another"),
        (PermissionError(13, "Permission denied", "x.pt"), "[Errno 13] Permission denied: 'x.pt'"),
        (RuntimeError("\n  no kernel\nmore"), "RuntimeError: no kernel"),
        (ValueError(), "ValueError"),
        (MemoryError(), "out of memory"),
    ],
)
def test_an_error_is_described_in_one_line(error: Exception, line: str) -> None:
    assert describe(error) == line
