"""Results kept beside a checkpoint: finished work is not repeated, whatever interrupts it."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from nanochat.eval.base_model import EvalBaseConfig
from nanochat.eval.base_model import run as run_base
from nanochat.eval.chat_model import EvalChatConfig, run
from nanochat.eval.result_cache import ItemRow, ResultCache, TaskRecord, task_records
from nanochat.paths import kept_results
from nanochat.processes import Processes
from nanochat.tasks.registry import SUITES
from tests.eval.conftest import random_model, save

RECORD = TaskRecord(
    0.25, (ItemRow(0, "B", "B", True, (1.5, -2.0)), ItemRow(3, "", "\ud800", False, (None,), "odd", True))
)
CONFIG = EvalChatConfig(model_tag="tiny", suite="builtin-choice,builtin-letters", max_items=5)


def never() -> TaskRecord:
    raise AssertionError("computed again")


def folder_of(tmp_path, weights="0" * 64, common=None, **options) -> ResultCache:
    return ResultCache(tmp_path, 3, weights, Processes(), common or {}, **options)


def test_a_result_is_computed_once_for_each_thing_it_depends_on(tmp_path):
    first = ("birds", "a" * 64, {"items": 2}, TaskRecord)
    assert folder_of(tmp_path).get_or_compute(*first, lambda: RECORD) == RECORD
    assert folder_of(tmp_path).get_or_compute(*first, never) == RECORD
    other = [
        (folder_of(tmp_path, weights="1" * 64), first),
        (folder_of(tmp_path, common={"dtype": "bfloat16"}), first),
        (folder_of(tmp_path), ("birds", "b" * 64, {"items": 2}, TaskRecord)),
        (folder_of(tmp_path), ("birds", "a" * 64, {"items": 3}, TaskRecord)),
        (folder_of(tmp_path, fresh=True), first),
    ]
    for kept, arguments in other:
        with pytest.raises(AssertionError, match="computed again"):
            kept.get_or_compute(*arguments, never)


def test_a_name_from_outside_stays_in_the_folder(tmp_path):
    for name in ("../../out", "/tmp/out", "a" * 999, "\0", ""):
        folder_of(tmp_path).get_or_compute(name, "a" * 64, {}, TaskRecord, lambda: RECORD)
    assert len(list(kept_results(tmp_path, 3).iterdir())) == 5


def test_another_version_of_the_scorer_computes_again(tmp_path, monkeypatch):
    arguments = ("birds", "a" * 64, {}, TaskRecord)
    folder_of(tmp_path).get_or_compute(*arguments, lambda: RECORD)
    [path] = kept_results(tmp_path, 3).iterdir()
    content = json.loads(path.read_text())
    content["key"]["scorer"] += 1
    path.write_text(json.dumps(content))
    assert list(task_records(tmp_path, 3, "0" * 64)) == []
    with pytest.raises(AssertionError, match="computed again"):
        folder_of(tmp_path).get_or_compute(*arguments, never)


@pytest.mark.parametrize(
    "damage", [b"", b"\xff", b"[]", b'{"key": 1, "result": {}}', b'{"result": {"rows": 3}}', b"[" * 9999]
)
def test_a_damaged_file_is_named_and_replaced(tmp_path, capsys, damage):
    arguments = ("birds", "a" * 64, {}, TaskRecord)
    folder_of(tmp_path).get_or_compute(*arguments, lambda: RECORD)
    [path] = kept_results(tmp_path, 3).iterdir()
    path.write_bytes(damage)
    assert list(task_records(tmp_path, 3, "0" * 64)) == []
    assert folder_of(tmp_path).get_or_compute(*arguments, lambda: RECORD) == RECORD
    assert f"{path} is damaged" in capsys.readouterr().err
    assert folder_of(tmp_path).get_or_compute(*arguments, never) == RECORD


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path, capsys):
    (tmp_path / "eval").write_text("a file stands where the folder belongs")
    kept = folder_of(tmp_path)
    for name in ("birds", "fish"):
        assert kept.get_or_compute(name, "a" * 64, {}, TaskRecord, lambda: RECORD) == RECORD
    assert capsys.readouterr().err.count("results are not kept") == 1


def test_a_second_evaluation_loads_no_weights(checkpoint, runtime, model, tokenizer, monkeypatch):
    first = run(CONFIG, runtime)
    base = run_base(EvalBaseConfig(model_tag="tiny"), runtime)

    def refuse(*_):
        raise AssertionError("weights loaded")

    monkeypatch.setattr("nanochat.checkpoint.loading.OpenCheckpoint.load", refuse)
    assert run(CONFIG, runtime) == first
    assert run_base(EvalBaseConfig(model_tag="tiny"), runtime) == base
    for changed in (replace(CONFIG, fresh=True), replace(CONFIG, max_items=6)):
        with pytest.raises(AssertionError, match="weights loaded"):
            run(changed, runtime)
    save("tiny", random_model(tokenizer, 64, seed=1), tokenizer, {})
    with pytest.raises(AssertionError, match="weights loaded"):
        run(CONFIG, runtime)


@pytest.mark.slow
def test_a_killed_evaluation_repeats_no_finished_task(checkpoint, runtime):
    """Killed when the second task's answers appear; the restarted one leaves finished files as they are."""
    command = [
        sys.executable,
        "-m",
        "nanochat",
        "eval",
        "chat",
        "--model-tag",
        checkpoint,
        "--max-items",
        "5",
    ]
    folder = kept_results(runtime.paths.checkpoints(checkpoint), 7)
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("builtin-facts-novel: ") and "% of" in line:
            child.send_signal(signal.SIGKILL)
            break
    child.communicate()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix == ".json"}
    assert len(before) >= 2
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert again.returncode == 0, again.stderr
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert before.items() <= after.items()
    assert len([name for name in after if name.endswith(".json")]) == len(SUITES["builtin"])
