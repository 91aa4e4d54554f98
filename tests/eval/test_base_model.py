import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from nanochat.config import from_json, to_json
from nanochat.eval.base_model import EvalBaseConfig, EvalBaseResult, run
from nanochat.eval.bpb import bits_per_byte
from nanochat.eval.core import GPT2_CORE
from nanochat.eval.samples import PROMPTS
from nanochat.metrics import read_metrics, rows_of
from nanochat.metrics_rows import EvalRow, TasksRow, TrackedRow
from nanochat.text.datasets import TextSource, documents
from nanochat.text.readers import Document
from tests.eval.conftest import save

CONFIG = EvalBaseConfig(model_tag="tiny")


@pytest.mark.slow
def test_scores_what_the_model_was_trained_on(checkpoint, model, tokenizer, runtime, capsys):
    result = run(CONFIG, runtime)
    assert (result.model_tag, result.step, result.core) == ("tiny", 7, None)
    held_out = runtime.paths.base.parent / "held_out.txt"
    expected = bits_per_byte(
        model,
        tokenizer,
        [Document(held_out.read_text())],
        runtime,
        max_seq_len=64,
        batch_tokens=99,
    )
    assert result.val.bpb == pytest.approx(expected.bpb)
    assert result.train.documents == 4
    assert [text.prompt for text in result.samples] == list(PROMPTS)
    assert from_json(EvalBaseResult, json.loads(json.dumps(to_json(result)))) == result
    shown = capsys.readouterr().err
    assert "tiny at step 7" in shown
    assert f"{result.val.bpb:.4f}" in shown


def test_the_metrics_of_the_run_gain_its_figures(checkpoint, runtime):
    path = runtime.paths.metrics("tiny")
    path.parent.mkdir(parents=True)
    path.write_text('{"kind": "wandb", "stage": "pretrain", "time": 1.0, "id": "a"}\n')
    result = run(CONFIG, runtime)
    logged = read_metrics(path)
    kinds = [entry.row.kind for entry in logged]
    assert kinds == ["tracked", "config", "eval", *["sample"] * len(PROMPTS), "done"]
    assert logged[0].row == TrackedRow("a")
    assert {entry.stage for entry in logged[1:]} == {"eval-base"}
    assert rows_of(path, EvalRow) == [EvalRow(7, val_bpb=result.val.bpb, train_bpb=result.train.bpb)]


@pytest.mark.slow
def test_core_is_taken_when_the_bundle_is_there(checkpoint, runtime, shared_data, capsys):
    runtime.paths.eval_bundle.symlink_to(shared_data / "eval_bundle")
    result = run(replace(CONFIG, max_per_task=2, max_bytes=100), runtime)
    assert result.core is not None
    assert result.core.partial
    assert "squad" in result.core.missing
    [row] = rows_of(runtime.paths.metrics("tiny"), TasksRow)
    assert row.scores == {task.label: task.accuracy for task in result.core.tasks}
    assert set(row.counts.values()) == {2}
    lines = list(csv.DictReader((Path(result.answers) / "eval-base.csv").read_text().splitlines()))
    values = {line["name"]: float(line["value"]) for line in lines}
    assert values["validation"] == result.val.bpb
    assert values["CORE (partial)"] == result.core.core
    assert values["GPT-2"] == GPT2_CORE
    assert values["copa"] == row.scores["copa"]
    shown = capsys.readouterr().err
    assert "(partial)" in shown
    assert "missing from the bundle" in shown
    assert run(replace(CONFIG, core="off"), runtime).core is None


def test_a_bundle_of_one_s_own(checkpoint, runtime, shared_data, tmp_path):
    link = tmp_path / "mine"
    link.symlink_to(shared_data / "eval_bundle")
    result = run(replace(CONFIG, bundle=str(link), max_per_task=1, max_bytes=100), runtime)
    assert result.core is not None
    assert result.core.standard_error > 0
    with pytest.raises(ValueError, match=r"^no CORE bundle at [^\n]+nowhere: name a folder[^\n]+$"):
        run(replace(CONFIG, bundle=str(tmp_path / "nowhere")), runtime)


def test_bits_per_byte_of_any_texts(checkpoint, model, tokenizer, runtime, tmp_path, capsys):
    held_out = tmp_path / "held_out.txt"
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({"text": f"Text {n}."}) + "\n" for n in range(9)))
    names = (str(held_out), str(tmp_path / "more.jsonl"))
    result = run(replace(CONFIG, bpb=names), runtime)
    assert [text.name for text in result.texts] == list(names)
    assert result.texts[0].score == result.val
    expected = bits_per_byte(
        model, tokenizer, [Document(f"Text {n}.") for n in range(9)], runtime, max_seq_len=64, batch_tokens=1
    )
    assert result.texts[1].score.bpb == pytest.approx(expected.bpb, rel=1e-6)
    assert result.texts[1].score.documents == 9
    assert "more.jsonl" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no file or folder 'nowhere'"):
        run(replace(CONFIG, bpb=("nowhere",)), runtime)


def test_overlapping_windows_and_sources(checkpoint, runtime, tmp_path, capsys):
    rows = [{"text": f"Text {n}. " * 9, "source": ("web", "books")[n % 2]} for n in range(5)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = replace(CONFIG, bpb=(str(tmp_path / "more.jsonl"),), max_seq_len=32, stride=8)
    result = run(config, runtime)
    assert (result.val.context, result.val.stride) == (32, 8)
    [text] = result.texts
    assert [(part.source, part.documents) for part in text.score.sources] == [("books", 2), ("web", 3)]
    shown = capsys.readouterr().err
    assert "windows of 32 tokens, of which the last 8 are scored" in shown
    assert "books" in shown
    assert run(replace(config, stride=None), runtime).val.bpb != result.val.bpb  # kept under another key


def test_another_dataset_and_a_shorter_context(checkpoint, runtime, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"body": f"Another text, {name}. " * 9}) + "\n")
    result = run(
        replace(CONFIG, dataset=str(tmp_path / "*.jsonl"), text_column="body", max_seq_len=8, max_bytes=50),
        runtime,
    )
    assert result.val.documents == 1
    assert result.val.bytes == len("Another text, b. " * 9)


def test_scores_the_share_that_training_held_out(model, tokenizer, runtime, tmp_path):
    """With another share, documents seen in training would be in the validation split."""
    source = tmp_path / "all.jsonl"
    source.write_text("".join(json.dumps({"text": f"Document {n}."}) + "\n" for n in range(40)))
    trained = TextSource(str(source), val_fraction=0.4)
    save("shared", model, tokenizer, to_json(trained))
    result = run(replace(CONFIG, model_tag="shared"), runtime)
    dataset = trained.open(runtime.paths)
    counts = [len(list(documents(dataset, split))) for split in ("train", "val")]
    assert [result.train.documents, result.val.documents] == counts
    assert counts[1] > 0.05 * 40


def test_a_checkpoint_may_be_named_by_its_path(checkpoint, runtime):
    result = run(replace(CONFIG, model_tag=str(runtime.paths.checkpoints("tiny"))), runtime)
    assert result.model_tag == "tiny"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model_tag": "nothing"}, "nothing"),
        ({"step": 3}, "3"),
        ({"max_seq_len": 65}, "--max-seq-len 65 is longer than the model's context of 64"),
        ({"stride": 65}, "--stride 65 is longer than a window of 64 tokens"),
        ({"stride": 9, "max_seq_len": 8}, "--stride 9 is longer than a window of 8 tokens"),
        ({"max_seq_len": -1}, "--max-seq-len must be at least 1, not -1"),
        ({"max_bytes": 0}, "--max-bytes must be at least 1"),
        ({"dataset": "no/such/place"}, "no/such/place"),
    ],
)
def test_mistakes_are_one_clear_line(checkpoint, runtime, changes, line):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        run(replace(CONFIG, **changes), runtime)
    assert line in str(error.value)
