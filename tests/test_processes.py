"""Processes without a network: shares, one process alone, and who imports torch.distributed."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanochat
from nanochat.processes import Abandoned, Processes, launcher


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
