"""`nanochat eval lm-eval` with the real package: `uv pip install -e '.[eval]'`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nanochat.errors import EnvironmentFault
from nanochat.eval.bundle import load_bundle
from nanochat.eval.core import score_task
from nanochat.eval.harness import HarnessConfig, evaluate, run
from nanochat.eval.prompt_states import PromptStates
from nanochat.eval.result_cache import task_records
from nanochat.eval.subject import Subject
from nanochat.eval.task_accuracy import evaluate_task
from nanochat.tasks.registry import TASKS
from tests.eval.conftest import random_model

ITEMS = 100
CHOICE = """task: birds
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
"""
TEXT = """task: harbour
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: KIND
doc_to_text: "{{question}}"
doc_to_target: "{{text}}"
metric_list: [{metric: METRIC}]
"""


@pytest.fixture
def lm_eval(monkeypatch, tmp_path):
    """The package, kept off the network and off this user's cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    return pytest.importorskip("lm_eval", reason="lm-eval is not installed: uv pip install -e '.[eval]'")


def write_task(folder, name, text, rows):
    folder.mkdir(exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(text.replace("DATA", str(data)))


def test_without_the_package_it_is_one_line(checkpoint, runtime, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.tasks", None)
    with pytest.raises(
        EnvironmentFault, match=r"^lm-eval cannot be imported [^\n]+'\.\[eval\]'` in the clone$"
    ):
        run(HarnessConfig(tasks="birds", model_tag="tiny"), runtime)


@pytest.mark.slow
def test_a_task_of_one_s_own_without_network(lm_eval, checkpoint, runtime, tmp_path, capsys):
    folder = tmp_path / "tasks"
    birds = [
        {"question": f"Bird {n}?", "choices": ["yes", "no", "a boat"], "answer": n % 3} for n in range(7)
    ]
    write_task(folder, "birds", CHOICE, birds)
    texts = [{"question": "", "text": "The harbour lies below the town."}] * 3
    rolling = TEXT.replace("KIND", "loglikelihood_rolling").replace("METRIC", "bits_per_byte")
    write_task(folder, "harbour", rolling, texts)
    config = HarnessConfig(tasks="birds,harbour", model_tag="tiny", include_path=str(folder))
    result = run(config, runtime)
    scores = {(score.task, score.metric): score for score in result.scores}
    assert scores["birds", "acc"].items == 7
    assert scores["harbour", "bits_per_byte"].value > 0
    assert json.loads(Path(result.path).read_text())["result"]["scores"][0]["task"] == "birds"
    assert "asked as plain text" in capsys.readouterr().err
    assert run(replace(config, tasks="birds", chat=True, limit=2), runtime).scores[0].items == 2
    for tasks, line in ((",", "--tasks names no task"), ("birds,nothing", "lm-eval has no task nothing:")):
        with pytest.raises(ValueError, match=line):
            run(replace(config, tasks=tasks), runtime)


@pytest.mark.slow
def test_real_items_get_the_answers_of_our_own_scorers(
    lm_eval, shared_data, tokenizer, runtime, kept, tmp_path
):
    """LAMBADA as CORE scores it, and ARC in the chat format as `eval chat` does."""
    from lm_eval.tasks import TaskManager

    model = random_model(tokenizer, max_seq_len=1024)
    subject = Subject(model.config, tokenizer, lambda: model)
    folder = tmp_path / "tasks"
    [lambada] = [task for task in load_bundle(shared_data / "eval_bundle") if task.label == "lambada_openai"]
    rows = [
        {"question": item["context"].strip(), "text": f" {item['continuation']}"}
        for item in lambada.items[:ITEMS]
    ]
    write_task(folder, "lambada", TEXT.replace("KIND", "loglikelihood").replace("METRIC", "acc"), rows)
    arc = TASKS["arc-easy"]
    paths = replace(runtime.paths, own_task_data=shared_data / "hub")
    items = list(arc.items(paths, "test", 0)[:ITEMS])
    rows = [
        {
            "question": item.messages[0]["content"],
            "choices": item.choices,
            "answer": item.choices.index(item.answer),
        }
        for item in items
    ]
    write_task(folder, "arc", CHOICE.replace("birds", "arc"), rows)
    manager = TaskManager(include_path=str(folder), include_defaults=False)

    def ask(name, *, chat):
        _, report = evaluate(subject, [name], manager, chat=chat, batch_tokens=4096, samples=True)
        answers = sorted(report["samples"][name], key=lambda sample: sample["doc_id"])
        assert len(answers) == ITEMS
        return report["results"][name]["acc,none"], [sample["filtered_resps"] for sample in answers]

    ours = score_task(PromptStates(model, 4096), subject, lambada, ITEMS, runtime).rows
    accuracy, answers = ask("harbour", chat=False)
    for row, [(log_probability, greedy)] in zip(ours, answers, strict=True):
        assert greedy == row.right
        scored = len(tokenizer.encode(row.gold))
        assert log_probability == pytest.approx(-row.scores[0] * scored, rel=1e-4)
    assert accuracy == sum(row.right for row in ours) / ITEMS

    result = evaluate_task(subject, arc, items, runtime, kept)
    [(_, _, record)] = task_records(kept.folder.parent.parent, 0, "0" * 64)
    accuracy, answers = ask("arc", chat=True)
    for item, row, pairs in zip(items, record.rows, answers, strict=True):
        chances = [log_probability for log_probability, _ in pairs]
        assert item.choices[chances.index(max(chances))] == row.prediction
    assert accuracy == result.accuracy
