"""`nanochat run`: the recipes are made of commands that exist, and the verb says how things stand."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.cli.main import _parse, main
from nanochat.cli.verbs import VERBS
from nanochat.config import from_json
from nanochat.metrics import open_metrics
from nanochat.metrics_rows import SampleRow
from nanochat.paths import Paths
from nanochat.recipes import run as run_command
from nanochat.recipes import showcase
from nanochat.recipes.recipe import Recipe, Stage
from nanochat.recipes.run import RECIPES, RunConfig, RunResult, run

COMMANDS = [(recipe.name, stage) for recipe in RECIPES.values() for stage in recipe.stages]


@pytest.mark.parametrize(
    ("recipe", "stage"), COMMANDS, ids=[f"{recipe}-{stage.name}" for recipe, stage in COMMANDS]
)
def test_every_command_of_a_recipe_is_one_that_the_command_line_takes(recipe: str, stage: Stage) -> None:
    if stage.module != "nanochat":
        assert importlib.util.find_spec(stage.module) is not None
        return
    name = next(name for name in (stage.argv[:2], stage.argv[:1]) if name in VERBS)
    config_class = getattr(importlib.import_module(VERBS[name].module), VERBS[name].config)
    config = _parse(name, VERBS[name], config_class, list(stage.argv[len(name) :]))
    assert isinstance(config, config_class)
    if stage.run is not None:
        assert config.model_tag == stage.run
        assert config.resume == "auto", "a broken run must continue"


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_stages_need_only_what_comes_before_them(recipe: Recipe) -> None:
    names = [stage.name for stage in recipe.stages]
    assert len(set(names)) == len(names)
    for number, stage in enumerate(recipe.stages):
        assert set(stage.needs) <= set(names[:number])


def _toy(tmp_path: Path, *argv: str) -> Recipe:
    return Recipe(
        "toy", "a toy", (Stage("only", argv, module="fakestage"),), lambda paths: print("the closing words")
    )


def test_the_whole_verb(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setitem(run_command.RECIPES, "toy", _toy(tmp_path, "only"))
    assert main(["run", "toy", "--json"]) == 0
    *_, words, result = capfd.readouterr().out.splitlines()
    assert words == "the closing words"
    assert '"status": "done"' in result
    assert main(["run", "toy", "--dry-run"]) == 0
    assert "done" in capfd.readouterr().err


def test_a_failing_stage_gives_its_exit_status_and_the_way_on(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setitem(run_command.RECIPES, "toy", _toy(tmp_path, "only", "--exit=3"))
    with pytest.raises(SystemExit) as failure:
        main(["run", "toy", "--set", "only.value=a b"])
    assert failure.value.code == 3
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("only failed (exit status 3)")
    assert last.endswith("run toy --set 'only.value=a b'")


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["nonsense"], "unknown recipe 'nonsense' (there are: quickstart, cpu, speedrun)"),
        (["quickstart", "--nproc", "0"], "at least one process"),
        (["quickstart", "--set", "depth=4"], "STAGE.FLAG=VALUE"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(argv, complaint, paths: Paths, capfd) -> None:
    assert main(["run", *argv]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert complaint in line
    assert list(paths.base.iterdir()) == []


def test_an_unusable_base_directory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "file"))
    assert main(["run", "quickstart"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "cannot write" in line


def test_config_and_result_are_plain_data(paths: Paths) -> None:
    assert from_json(RunConfig, {"recipe": "quickstart"}) == RunConfig("quickstart")
    assert run(RunConfig("quickstart", dry_run=True), paths) == RunResult("quickstart")


def test_answers_are_shown_with_what_the_tools_did() -> None:
    parts = [
        {"type": "text", "text": "Let me see. "},
        {"type": "python", "text": "47*36"},
        {"type": "python_output", "text": "1692"},
        {"type": "text", "text": "It is 1692."},
    ]
    assert showcase.spoken(parts) == "Let me see. [47*36 = 1692] It is 1692."


def test_the_newest_answers_are_the_ones_recorded(paths: Paths) -> None:
    for answer in ("first", "second"):
        with open_metrics(
            paths.metrics("sft"), "showcase", wandb_run="dummy", config={}, enabled=True, resume=True
        ) as metrics:
            metrics.log(SampleRow(1, "Who are you?", answer))
    assert showcase.recorded(paths, "sft") == [("Who are you?", "second")]


def test_a_recipe_loads_no_model_code() -> None:
    code = "import sys, nanochat.recipes.run; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
