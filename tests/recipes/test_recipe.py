"""Stages, their keys and their record."""

from __future__ import annotations

import pytest

from nanochat.paths import Paths
from nanochat.recipes.recipe import (
    DONE,
    STARTED,
    Record,
    Stage,
    dependents,
    stage_keys,
    with_changes,
)

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
    assert changed["pretrain"] == ("pretrain", "--fp8", "--depth=6")
    assert changed["sft"] == ("sft", "--no-compile")


@pytest.mark.parametrize("change", ["depth=6", "nowhere.depth=6", "pretrain.=6", ""])
def test_a_change_that_names_no_stage_is_refused(change: str) -> None:
    with pytest.raises(ValueError, match=r"STAGE.FLAG=VALUE, where STAGE is one of tokenizer, pretrain"):
        with_changes(STAGES, [change])


def test_the_record_outlives_its_process_and_knows_only_its_own_key(paths: Paths) -> None:
    path = paths.base / "record.json"
    record = Record(path)
    record.set("pretrain", "key", STARTED)
    record.set("pretrain", "key", DONE)
    record.set("sft", "key", STARTED)
    again = Record(path)
    assert again.state("pretrain", "key") == DONE
    assert again.state("sft", "key") == STARTED
    assert again.state("pretrain", "another key") is None
    again.forget({"sft"})
    assert Record(path).state("sft", "key") is None


def test_a_damaged_record_is_one_clear_line(paths: Paths) -> None:
    (paths.base / "record.json").write_text("{")
    with pytest.raises(ValueError, match=r"record.json is damaged; remove it"):
        Record(paths.base / "record.json")
