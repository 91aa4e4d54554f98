"""`nanochat run`: recipes consist of valid commands, and the verb reports their state."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.cli.main import main, parse_command
from nanochat.config import from_json
from nanochat.metrics import open_metrics
from nanochat.metrics_rows import SampleRow
from nanochat.paths import Paths
from nanochat.recipes import run as run_command
from nanochat.recipes import showcase
from nanochat.recipes.changes import with_changes
from nanochat.recipes.obstacles import obstacle, pretraining_obstacle
from nanochat.recipes.recipe import ModelNames, Recipe, Stage
from nanochat.recipes.run import RECIPES, RunConfig, RunResult, run
from nanochat.recipes.speedrun import SPEEDRUN

COMMANDS = [
    (recipe.name, stage)
    for recipe in RECIPES.values()
    for stage in with_changes(recipe.stages(ModelNames(), None), ())
]


@pytest.fixture
def any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing speaks against this machine, which is looked at in a process that loads torch."""
    monkeypatch.setattr("nanochat.recipes.run.obstacle", lambda *_: None)


@pytest.mark.parametrize(
    ("recipe", "stage"), COMMANDS, ids=[f"{recipe}-{stage.name}" for recipe, stage in COMMANDS]
)
def test_every_command_of_a_recipe_is_one_that_the_command_line_takes(recipe: str, stage: Stage) -> None:
    if stage.module != "nanochat":
        assert importlib.util.find_spec(stage.module) is not None
        return
    config = parse_command(stage.argv)
    if stage.run is not None:
        assert config.model_tag == stage.run
        assert config.resume == "auto", "an interrupted run must continue"


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_stages_need_only_what_comes_before_them(recipe: Recipe) -> None:
    stages = recipe.stages(ModelNames(), None)
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    for number, stage in enumerate(stages):
        assert set(stage.needs) <= set(names[:number])
        assert {copy.partition("=")[2].partition(".")[0] for copy in stage.copies} <= set(names[:number])


def _toy(stage: Stage) -> Recipe:
    return Recipe(
        "toy", "a toy", lambda names, depth: (stage,), lambda paths, names: print("the closing words")
    )


def test_the_whole_verb(paths: Paths, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setitem(run_command.RECIPES, "toy", _toy(Stage("only", ("only",), module="fakestage")))
    assert main(["run", "toy", "--json"]) == 0
    *_, words, result = capfd.readouterr().out.splitlines()
    assert words == "the closing words"
    assert '"status": "done"' in result
    assert main(["run", "toy", "--dry-run"]) == 0
    assert "done" in capfd.readouterr().err


@pytest.mark.slow
def test_a_failing_stage_gives_its_exit_status_and_the_way_to_continue(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setitem(run_command.RECIPES, "toy", _toy(Stage("only", ("tokenizer", "eval"))))
    with pytest.raises(SystemExit) as failure:
        main(["run", "toy", "--model-tag=mine", "--set", "only.text-column=a b"])
    assert failure.value.code == 2, "there is no tokenizer"
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("only failed (exit status 2)")
    assert last.endswith("run toy --model-tag=mine --set 'only.text-column=a b'")


def test_without_a_recipe_they_are_listed(paths: Paths, capfd) -> None:
    assert main(["run"]) == 0
    shown = capfd.readouterr().err
    for recipe in RECIPES.values():
        assert recipe.name in shown
        assert recipe.about in shown


@pytest.mark.usefixtures("any_machine")
def test_a_run_that_something_else_made_is_left_alone(paths: Paths, capfd) -> None:
    folder = paths.checkpoints("baserun")
    folder.mkdir(parents=True)
    (folder / "step_000009_meta.pt").write_text("hours of work")
    assert main(["run", "quickstart", "--dry-run"]) == 0
    assert "the run baserun exists and was not made by this recipe" in capfd.readouterr().err
    assert main(["run", "quickstart"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "choose another name with --model-tag NAME" in line
    assert [path.name for path in folder.iterdir()] == ["step_000009_meta.pt"]
    assert main(["run", "quickstart", "--model-tag=mine", "--dry-run"]) == 0
    assert "not made by" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["nonsense"], "unknown recipe 'nonsense': choose from quickstart, cpu, speedrun"),
        (["quickstart", "--nproc", "0"], "--nproc must be at least 1, not 0"),
        (["quickstart", "--depth", "0"], "--depth must be at least 1, not 0"),
        (["quickstart", "--model-tag", "a/b"], "'a/b'"),
        (["quickstart", "--set", "pretrain.depht=4"], "Unrecognized options: --depht=4"),
        (["quickstart", "--set", "depth=4"], "STAGE.FLAG=VALUE"),
        (["cpu", "--depth", "300", "--set", "pretrain.device=cpu"], "--depth must be at most 256, not 300"),
        pytest.param(
            ["quickstart", "--depth", "100", "--set", "pretrain.device=cpu"],
            "--depth 100 needs about",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["speedrun", "--set", "pretrain.device=cpu"],
            "(in a recipe: --set pretrain.fp8=false)",
            marks=pytest.mark.slow,
        ),
        (
            ["speedrun", "--depth", "60"],
            "all-shards needs 4,548 training shards and fineweb-edu has 1,822: choose a smaller --depth",
        ),
    ],
)
def test_a_mistake_is_one_line_before_any_work(argv, complaint, paths: Paths, capfd) -> None:
    assert main(["run", *argv]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert complaint in line
    assert list(paths.base.iterdir()) == []


@pytest.mark.usefixtures("any_machine")
def test_an_unusable_base_directory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "file"))
    assert main(["run", "quickstart"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "cannot write" in line


@pytest.mark.usefixtures("any_machine")
def test_config_and_result_are_plain_data(paths: Paths) -> None:
    assert from_json(RunConfig, {"recipe": "quickstart"}) == RunConfig("quickstart")
    assert run(RunConfig("quickstart", dry_run=True), paths) == RunResult("quickstart")


def test_the_newest_answers_are_the_ones_recorded(paths: Paths) -> None:
    for answer in ("first", "second"):
        with open_metrics(
            paths.metrics("sft"), "showcase", wandb_run="dummy", config=None, enabled=True, resume=True
        ) as metrics:
            metrics.log(SampleRow(1, "Who are you?", answer))
    assert showcase.recorded(paths, "sft") == [("Who are you?", "second")]


def test_a_recipe_loads_no_model_code() -> None:
    code = "import sys, nanochat.recipes.run; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
def test_a_dry_run_shows_the_stages_and_what_speaks_against_them(paths: Paths, capfd) -> None:
    assert main(["run", "speedrun", "--set", "pretrain.device=cpu", "--dry-run"]) == 0
    assert "it would not run: --fp8 needs a GPU" in capfd.readouterr().err


def test_a_process_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.runtime.choose_device", lambda request: ("cuda", ""))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    line = "--nproc 8 takes as many GPUs, and this machine has 2"
    assert pretraining_obstacle(["pretrain"], 8) == line


def test_what_is_done_is_no_obstacle() -> None:
    stages = SPEEDRUN.stages(ModelNames(), 60)
    assert obstacle(stages, 1) is not None
    assert obstacle([stage for stage in stages if stage.name.startswith(("eval", "sft"))], 1) is None
