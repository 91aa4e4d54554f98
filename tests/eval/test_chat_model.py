import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from nanochat.config import from_json, to_json
from nanochat.errors import EnvironmentFault
from nanochat.eval.chat_model import EvalChatConfig, EvalChatResult, chatcore, run
from nanochat.eval.intervals import accuracy_interval
from nanochat.eval.task_result import TaskResult
from nanochat.metrics import read_metrics
from nanochat.metrics_rows import TasksRow
from nanochat.tasks.registry import SUITES, TASKS

HALF = accuracy_interval(5, 10)
SCORED = ("builtin-choice", "builtin-letters")
CONFIG = EvalChatConfig(model_tag="tiny", suite=",".join(SCORED), max_items=5)


def test_scores_tasks_and_logs_them(checkpoint, runtime, capsys):
    result = run(CONFIG, runtime)
    assert (result.model_tag, result.step, result.skipped, result.chatcore) == ("tiny", 7, (), None)
    assert [(task.name, task.n, task.baseline) for task in result.tasks] == [
        ("builtin-choice", 5, 0.25),
        ("builtin-letters", 5, 0.0),
    ]
    assert result.mean == pytest.approx(sum(task.centred for task in result.tasks) / 2)
    assert from_json(EvalChatResult, json.loads(json.dumps(to_json(result)))) == result
    config, tasks, done = read_metrics(runtime.paths.metrics("tiny"))
    assert (config.row.kind, done.row.kind, tasks.stage) == ("config", "done", "eval-chat")
    assert tasks.row == TasksRow(
        step=7,
        scores={task.name: task.accuracy for task in result.tasks},
        counts={"builtin-choice": 5, "builtin-letters": 5},
        baselines={"builtin-choice": 0.25, "builtin-letters": 0.0},
        intervals={task.name: (task.interval.low, task.interval.high) for task in result.tasks},
    )
    lines = list(csv.DictReader((Path(result.answers) / "eval-chat.csv").read_text().splitlines()))
    assert [line["name"] for line in lines] == [*SCORED, "all tasks"]
    assert [float(line["value"]) for line in lines] == [
        *(task.accuracy for task in result.tasks),
        result.mean,
    ]
    shown = capsys.readouterr().err
    assert shown.count("tiny is a base model, not trained to answer") == 1
    assert "tiny at step 7: mean centred accuracy" in shown
    [task, *_] = [task for task in result.tasks if task.failures]
    assert f"({task.failures[0].reason})" in shown


def test_a_task_without_items_is_skipped(checkpoint, runtime, monkeypatch):
    empty = replace(TASKS["builtin-facts"], items=lambda *_: [])
    monkeypatch.setitem(TASKS, "builtin-facts", empty)
    [skipped] = run(replace(CONFIG, suite="builtin-facts,builtin-choice"), runtime).skipped
    assert (skipped.name, skipped.reason) == ("builtin-facts", "its data have no items")


def test_a_task_without_data_is_skipped_with_its_reason(checkpoint, runtime, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run(replace(CONFIG, suite="mmlu,builtin-choice"), runtime)
    assert [task.name for task in result.tasks] == ["builtin-choice"]
    [skipped] = result.skipped
    assert skipped.name == "mmlu"
    assert "HF_HUB_OFFLINE" in skipped.reason
    assert "mmlu is skipped" in capsys.readouterr().err


def test_programs_that_cannot_be_isolated_are_not_run(checkpoint, runtime, shared_data, monkeypatch):
    def refuse():
        raise EnvironmentFault("programs cannot be isolated here")

    monkeypatch.setattr("nanochat.eval.chat_model.require_isolation", refuse)
    runtime.paths.task_data.symlink_to(shared_data / "hub")
    config = replace(CONFIG, suite="humaneval,builtin-choice", max_items=1)
    [skipped] = run(config, runtime).skipped
    assert (skipped.name, skipped.reason) == ("humaneval", "programs cannot be isolated here")
    assert run(replace(config, unsafe_sandbox=True), runtime).skipped == ()


def test_no_task_at_all_is_a_fault(checkpoint, runtime, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EnvironmentFault, match="none of the tasks is available"):
        run(replace(CONFIG, suite="mmlu,gsm8k"), runtime)


def test_real_tasks(checkpoint, runtime, shared_data):
    runtime.paths.task_data.symlink_to(shared_data / "hub")
    result = run(replace(CONFIG, suite="chatcore", max_items=3), runtime)
    assert [task.name for task in result.tasks] == list(SUITES["chatcore"])
    assert result.chatcore == pytest.approx(result.mean)
    assert any(task.too_long for task in result.tasks)


def test_data_of_one_s_own_folder(checkpoint, runtime, shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run(replace(CONFIG, suite="mmlu", data_dir=str(shared_data / "hub")), runtime)
    assert [(task.name, task.n) for task in result.tasks] == [("mmlu", 5)]
    assert not runtime.paths.task_data.exists()
    with pytest.raises(ValueError, match=r"^--data-dir [^\n]+nowhere is not a folder$"):
        run(replace(CONFIG, data_dir=str(tmp_path / "nowhere")), runtime)


def test_chatcore_needs_all_of_its_tasks():
    results = [TaskResult(name, 0.5, HALF, 10, 0.0, 0, ()) for name in SUITES["chatcore"]]
    assert chatcore([*results, TaskResult("builtin-facts", 1.0, HALF, 10, 0.0, 0, ())]) == 0.5
    assert chatcore(results[:-1]) is None


@pytest.mark.parametrize(
    ("changes", "line"),
    [({"model_tag": "nothing"}, "nothing"), ({"suite": "nonsense"}, "unknown task 'nonsense'")],
)
def test_mistakes_are_one_clear_line(checkpoint, runtime, changes, line):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        run(replace(CONFIG, **changes), runtime)
    assert line in str(error.value)
