"""Prompts as verl's parquet: its columns, our items back, and scores equal to the task's check."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.cli.main import main
from nanochat.config import to_json
from nanochat.paths import default_paths
from nanochat.tasks.registry import TASKS
from nanochat.tasks.verl_prompts import (
    PromptsConfig,
    compute_score,
    item_of,
    run_prompts,
    verl_row,
    write_prompts,
)

ARC_ROW = {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
MMLU_ROW = {"question": "q", "subject": "law", "choices": list("wxyz"), "answer": 3}
GSM8K_ROW = {"question": "How many?", "answer": "6*2=<<6*2=12>>12\n#### 1,200"}
HUB = {
    "allenai/ai2_arc/ARC-Easy": ARC_ROW,
    "allenai/ai2_arc/ARC-Challenge": ARC_ROW,
    "cais/mmlu/all": MMLU_ROW,
    "openai/gsm8k/main": GSM8K_ROW,
}
FOR_REINFORCEMENT = [name for name, task in TASKS.items() if task.conversation is not None]


@pytest.fixture
def hub() -> None:
    for folder, row in HUB.items():
        for split in ("train", "validation", "auxiliary_train", "test"):
            path = default_paths().task_data / folder / split / "0000.parquet"
            path.parent.mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist([row] * 3), path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOR_REINFORCEMENT)
def test_items_come_back_and_scores_are_the_tasks(name: str, hub: None, tmp_path: Path) -> None:
    task, path = TASKS[name], tmp_path / "train.parquet"
    items = list(task.items(default_paths(), "train", 7)[:20])
    assert write_prompts(path, (verl_row(task, "train", at, item) for at, item in enumerate(items))) == len(
        items
    )
    table = pq.read_table(path)
    assert table.column_names == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    for at, (row, item) in enumerate(zip(table.to_pylist(), items, strict=True)):
        assert (row["extra_info"]["split"], row["extra_info"]["index"]) == ("train", at)
        assert [message["role"] for message in row["prompt"]] == [m["role"] for m in item.messages]
        assert row["prompt"][-1]["content"] == item.messages[-1]["content"]
        back, its = item_of(row)
        assert (back, to_json(its)) == (task, to_json(item))
        for reply in (item.answer, f"#### {item.answer}", f"It is {item.answer}.", "no idea", "A"):
            assert _score(row, reply) == task.check(item, reply).value


def _score(row, reply: str) -> float:
    return compute_score(row["data_source"], reply, row["reward_model"]["ground_truth"], row["extra_info"])


def test_what_follows_the_last_output_of_a_tool_counts(tmp_path: Path) -> None:
    task = TASKS["builtin-thousands"]
    item = task.items(default_paths(), "train", 7)[0]
    row = verl_row(task, "train", 0, item)
    called = f"<|python_start|>1+1<|python_end|><|output_start|>{item.answer}<|output_end|>"
    assert _score(row, f"{called}It is {item.answer}.<|assistant_end|>") == 1
    assert _score(row, f"{called}Done.") == 0


def test_verl_scores_gsm8k_itself(hub: None) -> None:
    task = TASKS["gsm8k"]
    row = verl_row(task, "train", 0, task.items(default_paths(), "train", 0)[0])
    assert (row["data_source"], row["reward_model"]) == (
        "openai/gsm8k",
        {"style": "rule", "ground_truth": "1200"},
    )


def test_the_verb_writes_both_splits(hub: None, tmp_path: Path, capsys) -> None:
    result = run_prompts(PromptsConfig(task="gsm8k", out=str(tmp_path / "out")), default_paths())
    assert result.prompts == {"train": 3, "val": 3}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train.parquet", "val.parquet"]
    assert "3 prompts of gsm8k and 3 held out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("gsm9k", "unknown task 'gsm9k'"),
        ("humaneval", "has no split 'train', only test: choose another task"),
        ("identity", "no split 'train'"),
    ],
)
def test_a_task_without_training_items_is_refused(task: str, says: str, tmp_path: Path, capsys) -> None:
    assert main(["data", "prompts", "--task", task, "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rows_of_others_are_refused() -> None:
    with pytest.raises(ValueError, match="no task and item of ours"):
        item_of({"extra_info": {"split": "train", "index": 0}})
