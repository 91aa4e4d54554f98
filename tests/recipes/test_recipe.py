"""Stages, their keys, their changes and their record."""

from __future__ import annotations

import pytest

from nanochat.paths import Paths
from nanochat.recipes.changes import check_changes, with_changes
from nanochat.recipes.recipe import ModelNames, Stage, dependents, names_for, stage_keys
from nanochat.recipes.record import Record
from nanochat.recipes.run import RECIPES

STAGES = (
    Stage("tokenizer", ("tokenizer", "train", "--vocab-size=2048")),
    Stage("pretrain", ("pretrain", "--depth=4", "--fp8"), needs=("tokenizer",)),
    Stage("eval", ("eval", "base"), needs=("pretrain",)),
    Stage("sft", ("sft",), needs=("pretrain",)),
    Stage("report", ("report", "generate"), needs=("eval", "sft")),
)


def _changed_keys(*changes: str) -> set[str]:
    before, after = stage_keys(STAGES), stage_keys(with_changes(STAGES, changes))
    return {name for name in before if before[name] != after[name]}


def test_a_changed_flag_changes_the_key_of_what_depends_on_it_and_of_nothing_else() -> None:
    assert _changed_keys("sft.epochs=2") == {"sft", "report"}
    assert _changed_keys("pretrain.depth=6") == {"pretrain", "eval", "sft", "report"}
    assert _changed_keys("tokenizer.vocab-size=2048") == set(), "the value that it had"
    assert dependents(STAGES, "pretrain") == {"eval", "sft", "report"}


def test_a_change_replaces_a_flag_or_adds_it() -> None:
    changed = {
        stage.name: stage.argv for stage in with_changes(STAGES, ["pretrain.depth=6", "sft.no-compile"])
    }
    assert changed["pretrain"] == ("pretrain", "--depth=6", "--fp8")
    assert changed["sft"] == ("sft", "--no-compile")


@pytest.mark.parametrize("change", ["depth=6", "nowhere.depth=6", "pretrain.=6", ""])
def test_a_change_that_names_no_stage_is_refused(change: str) -> None:
    with pytest.raises(ValueError, match=r"STAGE.FLAG=VALUE, where STAGE is one of tokenizer, pretrain"):
        with_changes(STAGES, [change])


def test_the_record_outlives_its_process_and_knows_only_its_own_key(paths: Paths) -> None:
    path = paths.base / "record.json"
    record = Record(path)
    record.set("pretrain", "key", "started")
    record.set("pretrain", "key", "done")
    record.set("sft", "key", "started")
    again = Record(path)
    assert again.state("pretrain", "key") == "done"
    assert again.state("sft", "key") == "started"
    assert again.state("pretrain", "another key") is None
    again.outdate({"sft", "report"})
    assert Record(path).state("sft", "key") == "outdated"
    assert Record(path).knows("sft")
    assert not Record(path).knows("report")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Expecting property name"),
        ("[" * 5000, "nested more than"),
        ("null", "expected the fields of RecordFile"),
        ('{"format": 2}', "2 is none of 1"),
        ('{"stages": {"sft": {"key": "k", "state": "over"}}}', "'over' is none of"),
        ('{"stages": {"sft": {"state": "done"}}}', "missing key"),
    ],
)
def test_a_damaged_record_is_one_clear_line(paths: Paths, text: str, words: str) -> None:
    (paths.base / "record.json").write_text(text)
    with pytest.raises(ValueError, match=r"^.*record.json is damaged [^\n]*$") as error:
        Record(paths.base / "record.json")
    assert words in str(error.value)


def test_switches_are_turned_off_and_on() -> None:
    def pretrain(*changes: str) -> tuple[str, ...]:
        return with_changes(STAGES, changes)[1].argv

    assert pretrain("pretrain.fp8=false") == ("pretrain", "--depth=4", "--no-fp8")
    assert pretrain("pretrain.fp8=false", "pretrain.fp8=true") == ("pretrain", "--depth=4", "--fp8")
    assert pretrain("pretrain.run=a{b}=c") == ("pretrain", "--depth=4", "--fp8", "--run=a{b}=c")


def test_a_flag_follows_the_stage_that_it_is_copied_from() -> None:
    stages = RECIPES["speedrun"].stages(ModelNames(), None)
    changes = ["shards.dataset=climbmix", "tokenizer.vocab-size=4096", "all-shards.num-shards=20"]
    flags = {stage.name: stage.flags for stage in with_changes(stages, changes)}
    assert [flags[name]["vocab-size"] for name in ("tokenizer", "eval-tokenizer", "pretrain")] == ["4096"] * 3
    assert flags["pretrain"]["need-shards"] == "20"
    for name in ("shards", "all-shards", "tokenizer", "eval-tokenizer", "pretrain"):
        assert flags[name]["dataset"] == "climbmix"
    chosen = with_changes(stages, [*changes, "pretrain.vocab-size=2048"])
    assert next(stage.flags["vocab-size"] for stage in chosen if stage.name == "pretrain") == "2048"


def test_a_relative_path_is_changed_into_an_absolute_one(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts").mkdir()
    monkeypatch.chdir(tmp_path)
    tokenizer, *_ = with_changes(STAGES, ["tokenizer.dataset=texts"])
    assert tokenizer.flags["dataset"] == str(tmp_path / "texts")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("pretrain.depht=3", "--set for the stage pretrain: Unrecognized options: --depht=3"),
        ("pretrain.depth=many", "--set for the stage pretrain: .*--depth.*'many'"),
        ("tokenizer.fp8=false", "--set for the stage tokenizer: Unrecognized options: --no-fp8"),
        ("showcase.depth=3", "the stage showcase takes no flags"),
        ("sft.model-tag=x", "name the models of a recipe with --model-tag NAME"),
    ],
)
def test_a_change_that_a_verb_does_not_take_is_refused(change: str, words: str) -> None:
    stages = RECIPES["quickstart"].stages(ModelNames(), None)
    with pytest.raises(ValueError, match=words):
        check_changes(with_changes(stages, [change]), [change])


def test_recipes_are_functions_of_the_names_and_the_depth() -> None:
    for recipe in RECIPES.values():
        stages = {stage.name: stage for stage in recipe.stages(names_for("mine"), 7)}
        assert (stages["pretrain"].run, stages["sft"].run) == ("mine", "mine-sft")
        assert stages["pretrain"].flags["depth"] == "7"
        assert stages["sft"].flags["from-tag"] == stages["eval-base"].flags["model-tag"] == "mine"
        assert stages["eval-chat"].flags["model-tag"] == "mine-sft"
        assert not any("baserun" in word for stage in stages.values() for word in stage.argv)
    shards = [
        int(
            {stage.name: stage for stage in RECIPES["speedrun"].stages(ModelNames(), depth)}[
                "all-shards"
            ].flags["num-shards"]
        )
        for depth in (1, 13, None)
    ]
    assert shards == [8, 47, 370]
