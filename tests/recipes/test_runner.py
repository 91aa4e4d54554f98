"""The runner over real processes: order, skipping, redoing, failing, stopping."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from nanochat.metrics import rows_of
from nanochat.metrics_rows import StageRow
from nanochat.paths import Paths
from nanochat.recipes.changes import with_changes
from nanochat.recipes.recipe import Stage
from nanochat.recipes.runner import Runner
from tests.recipes.conftest import leaves_file, never, trained

pytestmark = pytest.mark.slow


def stage(name: str, *flags: str, **more: object) -> Stage:
    return Stage(name, (name, *flags), module="fakestage", **more)  # type: ignore[arg-type]


PIPELINE = (
    stage("tokenizer", "--file=tok", left=leaves_file),
    stage("pretrain", "--model-tag=baserun", needs=("tokenizer",), trains=True, left=trained),
    stage("sft", "--model-tag=sft", needs=("pretrain",), trains=True, left=trained),
    stage("report", needs=("sft",)),
)


def runner(stages: tuple[Stage, ...], paths: Paths, name: str = "baserun") -> Runner:
    return Runner(stages, paths, paths.recipe("toy", name))


def statuses(stages: tuple[Stage, ...], paths: Paths) -> dict[str, str]:
    return {result.name: result.status for result in runner(stages, paths).run()}


def calls(paths: Paths) -> list[str]:
    """The stages that ran since the last look, in order."""
    file = paths.base / "calls.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    file.write_text("")
    return lines


def test_the_second_run_starts_no_process(paths: Paths, capfd: pytest.CaptureFixture[str]) -> None:
    assert set(statuses(PIPELINE, paths).values()) == {"done"}
    assert calls(paths) == ["tokenizer", "pretrain", "sft", "report"]
    assert statuses(PIPELINE, paths) == dict.fromkeys(("tokenizer", "pretrain", "sft", "report"), "skipped")
    assert calls(paths) == []
    assert all(runner(PIPELINE, paths).up_to_date().values())
    assert capfd.readouterr().out == "", "stdout is for the result"


def test_a_lost_result_is_made_again_with_what_depends_on_it(paths: Paths) -> None:
    statuses(PIPELINE, paths)
    calls(paths)
    (paths.checkpoints("sft") / "step_000004_meta.pt").unlink()
    assert runner(PIPELINE, paths).up_to_date() == {
        "tokenizer": True,
        "pretrain": True,
        "sft": False,
        "report": False,
    }
    statuses(PIPELINE, paths)
    assert calls(paths) == ["sft", "report"]


def test_a_changed_flag_redoes_what_depends_on_it_and_keeps_the_old_run(paths: Paths) -> None:
    statuses(PIPELINE, paths)
    calls(paths)
    changed = with_changes(PIPELINE, ["pretrain.steps=6"])
    assert statuses(changed, paths) == {
        "tokenizer": "skipped",
        "pretrain": "done",
        "sft": "done",
        "report": "done",
    }
    assert [path.name for path in paths.checkpoints("baserun").iterdir()] == ["step_000006_meta.pt"]
    old = paths.base / "archive" / "baserun-1"
    assert (old / "checkpoints" / "step_000004_meta.pt").exists()
    assert (old / "runs" / "metrics.jsonl").exists()
    assert (paths.base / "archive" / "sft-1").exists(), "it was fine-tuned from the old model"


def test_a_failing_stage_stops_the_recipe_and_the_next_run_goes_on_there(paths: Paths) -> None:
    broken = with_changes(PIPELINE, ["sft.exit=3"])
    results = runner(broken, paths).run()
    assert [(result.name, result.status, result.exit_status) for result in results] == [
        ("tokenizer", "done", 0),
        ("pretrain", "done", 0),
        ("sft", "failed", 3),
    ]
    calls(paths)
    assert statuses(PIPELINE, paths)["report"] == "done"
    assert calls(paths) == ["sft", "report"]


def test_an_exit_status_of_0_without_the_result_is_a_failure(
    paths: Paths, capfd: pytest.CaptureFixture[str]
) -> None:
    (result,) = runner((stage("tokenizer", left=never),), paths).run()
    assert (result.status, result.exit_status) == ("failed", 1)
    assert "exited with status 0, but its results are missing" in capfd.readouterr().err


def test_a_background_stage_runs_beside_others_until_it_is_needed(paths: Paths) -> None:
    stages = (
        stage("download", "--wait-for=tok", "--file=shards", background=True, left=leaves_file),
        stage("tokenizer", "--file=tok"),  # in sequence with the download neither would ever end
        stage("pretrain", "--wait-for=shards", needs=("download", "tokenizer")),
    )
    assert statuses(stages, paths) == {"download": "done", "tokenizer": "done", "pretrain": "done"}
    assert (paths.recipe("toy", "baserun") / "download.log").exists()


def test_a_failure_stops_what_runs_in_the_background(paths: Paths) -> None:
    stages = (
        stage("download", "--until-signal", "--file=started", background=True, left=never),
        stage("tokenizer", "--wait-for=started", "--exit=1"),
        stage("pretrain"),
    )
    assert statuses(stages, paths) == {"download": "interrupted", "tokenizer": "failed"}


def test_times_are_recorded_for_the_report(paths: Paths) -> None:
    statuses(with_changes(PIPELINE, ["report.exit=1"]), paths)
    rows = rows_of(paths.metrics("recipe"), StageRow)
    assert [(row.name, row.status) for row in rows] == [
        ("tokenizer", "done"),
        ("pretrain", "done"),
        ("sft", "done"),
        ("report", "failed"),
    ]
    assert all(row.wall_s > 0 for row in rows)


def test_two_names_live_beside_each_other(paths: Paths) -> None:
    """The second one's record and runs are its own; the first one is still done afterwards."""

    def named(name: str) -> tuple[Stage, ...]:
        return with_changes(
            (
                stage("pretrain", f"--model-tag={name}", trains=True, left=trained),
                stage("sft", f"--model-tag={name}-sft", needs=("pretrain",), trains=True, left=trained),
            ),
            (),
        )

    for name in ("one", "two"):
        assert set(runner(named(name), paths, name).up_to_date().values()) == {False}
        assert {result.status for result in runner(named(name), paths, name).run()} == {"done"}
    assert set(runner(named("one"), paths, "one").up_to_date().values()) == {True}
    assert not (paths.base / "archive").exists()
    assert sorted(path.name for path in paths.all_checkpoints.iterdir()) == [
        "one",
        "one-sft",
        "two",
        "two-sft",
    ]
    with pytest.raises(ValueError, match=r"the run one exists and was not made by this recipe"):
        runner(named("one"), paths, "another").run()


def test_an_older_versions_record_is_ignored_with_a_line(paths: Paths, capfd) -> None:
    older = paths.metrics("recipe").with_name("record.json")
    older.parent.mkdir(parents=True)
    older.write_text('{"tokenizer": {"key": "k", "state": "done"}}')
    assert set(statuses(PIPELINE, paths).values()) == {"done"}
    assert f"ignoring {older}" in "".join(capfd.readouterr().err.splitlines())


INTERRUPTED = """
import sys
from nanochat.paths import default_paths
from nanochat.recipes.recipe import Stage
from nanochat.recipes.runner import Runner

stages = (
    Stage("pretrain", tuple(sys.argv[1:]), module="fakestage", trains=True, left=lambda flags, paths: False),
    Stage("sft", ("sft",), module="fakestage"),
)
paths = default_paths()
print([(result.name, result.status) for result in Runner(stages, paths, paths.recipe("toy", "baserun")).run()])
"""


@pytest.mark.parametrize("saves", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_stage_and_the_next_run_continues_it(
    number: signal.Signals, saves: bool, paths: Paths
) -> None:
    flags = ("pretrain", "--model-tag=baserun", "--until-signal", *([] if saves else ["--dies-of-signals"]))
    recipe = subprocess.Popen([sys.executable, "-c", INTERRUPTED, *flags], stdout=subprocess.PIPE, text=True)
    metrics = paths.metrics("baserun")
    deadline = time.monotonic() + 30
    while not (metrics.exists() and metrics.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(recipe.pid, number)
    assert recipe.communicate(timeout=30)[0].strip() == "[('pretrain', 'interrupted')]"
    assert recipe.returncode == 0
    assert calls(paths) == ["pretrain"]

    again = runner((Stage("pretrain", flags, module="fakestage", trains=True, left=trained),), paths)
    assert again.up_to_date() == {"pretrain": False}
    assert (paths.checkpoints("baserun") / "step_000001_meta.pt").exists() == saves


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_the_stage_of_a_killed_recipe_saves_and_exits(paths: Paths) -> None:
    flags = ("pretrain", "--model-tag=baserun", "--until-signal")
    recipe = subprocess.Popen([sys.executable, "-c", INTERRUPTED, *flags])
    metrics, saved = paths.metrics("baserun"), paths.checkpoints("baserun") / "step_000001_meta.pt"
    deadline = time.monotonic() + 30
    while not (metrics.exists() and metrics.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    recipe.kill()
    recipe.wait()
    while not saved.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_several_processes_go_through_torchrun(paths: Paths) -> None:
    runner = Runner((), paths, paths.recipe("toy", "baserun"), processes=8)
    command = runner._command(Stage("pretrain", ("pretrain", "--depth=26"), distributed=True))
    assert command[1:] == [
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=8"),
        *("-m", "nanochat", "pretrain", "--depth=26"),
    ]
    assert runner._command(Stage("report", ("report", "generate")))[1:] == [
        "-m",
        "nanochat",
        "report",
        "generate",
    ]


@pytest.mark.parametrize(("processes", "status"), [(1, "failed"), (8, "interrupted")])
def test_torchrun_that_was_stopped_is_no_failure(paths: Paths, processes: int, status: str) -> None:
    """It exits with 1, whatever its workers exited with."""
    runner = Runner((), paths, paths.recipe("toy", "baserun"), processes=processes)
    evaluating = SimpleNamespace(stage=Stage("eval-base", ("eval", "base"), distributed=True), began=0.0)
    assert runner._verdict(evaluating, 1)[0] == "failed"  # type: ignore[arg-type]
    runner._signal = signal.SIGINT
    assert runner._verdict(evaluating, 1)[0] == status  # type: ignore[arg-type]
