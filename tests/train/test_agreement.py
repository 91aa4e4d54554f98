"""A fault anywhere on any process has the same outcome on all processes (real processes, gloo)."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.checkpoint import store
from nanochat.cli.main import main
from nanochat.metrics import rows_of
from nanochat.metrics_rows import TrainRow
from nanochat.paths import default_paths

pytestmark = pytest.mark.slow

PATIENCE_S = 60
ALL_S = 400
STEPS = 4

# Every place where a verb can fail, the call that fails there (the loader is some batches ahead of the steps), and
# which processes call it.
FATAL = (
    ("pretrain", "loader", 2),
    ("pretrain", "step", 2),
    ("pretrain", "optimizer", 3),
    ("pretrain", "save", 1),
)
FATAL_VERBS = (("eval-base", "evaluation", 1), ("eval-chat", "choices", 1), ("eval-chat", "answers", 1))
TOLERATED = (("pretrain", "evaluation", 1), ("pretrain", "sampling", 1), ("sft", "conversations", 1))
ONLY_MAIN = ("save", "sampling")
TASKS = "arc-easy,builtin-facts"  # one scored by its choices, one by generated answers


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    file = tmp_path / "chats.jsonl"
    chat = {"messages": [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "Anna"}]}
    file.write_text(f"{json.dumps(chat)}\n" * 80)
    return file


@pytest.fixture(autouse=True)
def questions(tmp_path: Path) -> None:
    """ARC's test set as on the hub, with a few short questions, in the folder that `command` names."""
    folder = tmp_path / "hub" / "allenai" / "ai2_arc" / "ARC-Easy" / "test"
    folder.mkdir(parents=True)
    choices = {"text": ["a", "b"], "label": ["A", "B"]}
    rows = [{"question": f"{n}?", "choices": choices, "answerKey": "AB"[n % 2]} for n in range(8)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "0000.parquet")


def command(verb: str, tag: str, corpus: Path, chats: Path) -> list[str]:
    training = (
        f"--num-iterations={STEPS}",
        "--eval-every=2",
        "--save-every=2",
        "--save-minutes=0",
        "--compile=off",
    )
    model = (
        "--depth=1",
        "--max-seq-len=64",
        "--head-dim=32",
        "--total-batch-size=512",
        "--device-batch-size=2",
    )
    pretrain = (*model, *training, f"--dataset={corpus}", "--eval-bytes=2000", "--sample-every=2")
    sft = (*training, "--from-tag=whole-pretrain", f"--mixture={chats}", "--eval-conversations=8")
    commands = {
        "pretrain": ("pretrain", f"--model-tag={tag}", *pretrain),
        "sft": ("sft", f"--model-tag={tag}", *sft),
        "eval-base": ("eval", "base", "--model-tag=whole-pretrain", "--max-bytes=2000", "--fresh"),
        "eval-chat": (
            "eval",
            "chat",
            "--model-tag=whole-sft",
            "--max-items=6",
            "--fresh",
            f"--suite={TASKS}",
            f"--data-dir={chats.parent / 'hub'}",
        ),
    }
    return [*commands[verb], "--device=cpu", "--dtype=fp32"]


def run(world: int, cases: list[dict], tmp_path: Path) -> list[list[dict]]:
    """The outcomes of each case on each process. All cases run in turn in one set of processes."""
    spec = tmp_path / f"spec-{world}.json"
    spec.write_text(json.dumps(cases))
    script = Path(__file__).with_name("process_cases.py")
    world_of = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    with ExitStack() as stack:
        members = []
        for rank in range(world):
            environment = {**os.environ, **world_of, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            log = stack.enter_context(open(f"{spec}.log-{rank}", "w"))
            member = subprocess.Popen([sys.executable, script, spec], stderr=log, env=environment)
            stack.callback(member.kill)
            members.append(member)
        for rank, member in enumerate(members):
            assert member.wait(ALL_S) == 0, Path(f"{spec}.log-{rank}").read_text()
    outcomes = [json.loads(Path(f"{spec}.{rank}").read_text()) for rank in range(world)]
    return [list(case) for case in zip(*outcomes, strict=True)]


def rewind(tag: str) -> None:
    """Delete a run's checkpoints after its half."""
    directory = default_paths().checkpoints(tag)
    for step in store.whole_steps(directory):
        if step > STEPS // 2:
            store.remove(directory, step)


def losses(tag: str) -> list[float]:
    return [row.loss for row in rows_of(default_paths().metrics(tag), TrainRow)]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_keep_step_and_a_fault_on_any_of_them_is_one_of_all(
    world: int, corpus: Path, chats: Path, tmp_path: Path
) -> None:
    verbs = ("pretrain", "sft", "eval-base", "eval-chat")
    whole = [{"argv": command(verb, f"whole-{verb}", corpus, chats), "faults": []} for verb in verbs]
    kinds = [(True, *row) for row in (*FATAL, *FATAL_VERBS)] + [(False, *row) for row in TOLERATED]
    faults = [
        (fatal, verb, place, call, rank)
        for fatal, verb, place, call in kinds
        for rank in sorted({0} if place in ONLY_MAIN else {0, world - 1})
    ]
    broken = [
        {
            "argv": command(verb, f"{place}-{rank}", corpus, chats),
            "faults": [{"place": place, "rank": rank, "call": call}],
        }
        for _, verb, place, call, rank in faults
    ]
    # Started by one process, resumed by several, and the reverse.
    assert main(command("pretrain", "one", corpus, chats)) == 0
    alone = losses("one")
    rewind("one")
    resumed = [*command("pretrain", "one", corpus, chats), "--resume=auto"]
    mistaken = ["eval", "base", "--model-tag=nothing", "--device=cpu"]
    last = [{"argv": argv, "faults": []} for argv in (resumed, mistaken)]
    *outcomes, continued, mistake = run(world, [*whole, *broken, *last], tmp_path)
    assert "".join(member["errors"] for member in mistake).count("\n") == 1, mistake
    assert max(member["status"] for member in mistake) == 2
    assert [member["status"] for member in continued] == [0] * world, continued
    together = losses("whole-pretrain")
    assert together == pytest.approx(alone, rel=3e-5)
    assert losses("one") == pytest.approx([*alone, *alone[STEPS // 2 :]], rel=3e-5)
    rewind("whole-pretrain")
    assert main([*command("pretrain", "whole-pretrain", corpus, chats), "--resume=auto"]) == 0
    assert losses("whole-pretrain") == pytest.approx([*together, *together[STEPS // 2 :]], rel=3e-5)

    for verb, outcome in zip(verbs, outcomes, strict=False):
        assert [member["status"] for member in outcome] == [0] * world, (verb, outcome)
        calls = [member["collectives"] for member in outcome]
        assert calls == [calls[0]] * world, verb
        assert calls[0], verb
    assert {name for name, *_ in outcomes[0][0]["collectives"]} == {"exchange", "sum", "concatenate"}

    for (fatal, verb, place, _, rank), outcome in zip(faults, outcomes[len(verbs) :], strict=True):
        case = (verb, place, rank)
        errors = "".join(member["errors"] for member in outcome)
        assert max(member["seconds"] for member in outcome) < PATIENCE_S, case
        assert "Traceback" not in errors, (case, errors)
        if fatal:
            assert all(member["status"] == 1 for member in outcome), (case, outcome)
            assert outcome[rank]["errors"].count("error: ") == 1, (case, errors)
            assert f"(process {rank}): error: " in outcome[rank]["errors"], (case, errors)
            assert errors.count(f"error: process {rank} failed: ") == 1, (case, errors)
        else:
            assert all(member["status"] == 0 for member in outcome), (case, errors)
            assert errors.count("warning: ") == 1, (case, errors)
            assert f"process {rank}" in errors, (case, errors)
            calls = [member["collectives"] for member in outcome]
            assert calls == [calls[0]] * world, case
            assert losses(f"{place}-{rank}") == losses(f"whole-{verb}")[:STEPS], case
