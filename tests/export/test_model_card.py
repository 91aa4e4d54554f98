"""The figures of a model card are the newest of each kind, whatever was measured beside them."""

from pathlib import Path

from nanochat.eval.intervals import normal_interval
from nanochat.export.model_card import model_card
from nanochat.metrics import open_metrics
from nanochat.metrics_rows import EvalRow, Row, TasksRow
from tests.conftest import made_up_meta


def card(path: Path, *rows: Row) -> str:
    """The card of a checkpoint at step 0 whose run logged these rows."""
    with open_metrics(path, "eval", wandb_run=None, config=None, enabled=True, resume=False) as metrics:
        for row in rows:
            metrics.log(row)
    return model_card("m", made_up_meta(), path, "fp32")


def test_an_evaluation_of_other_tasks_or_figures_leaves_the_earlier_ones(tmp_path: Path) -> None:
    text = card(
        tmp_path / "metrics.jsonl",
        EvalRow(0, val_bpb=1.5, core=0.25),
        TasksRow(0, {"facts": 0.5, "letters": 0.25}, {"facts": 8, "letters": 8}, {}),
        EvalRow(0, val_bpb=1.25),
        TasksRow(0, {"facts": 0.75}, {"facts": 8}, {}),
        EvalRow(1, val_bpb=9.0),
    )
    for cell in (
        "| bits per byte | 1.2500 |",
        "| CORE | 0.2500 |",
        "| facts | 75.0% |",
        "| letters | 25.0% |",
    ):
        assert text.count(cell) == 1
    assert "9.0000" not in text


def test_without_figures_it_says_so(tmp_path: Path) -> None:
    text = card(tmp_path / "metrics.jsonl", EvalRow(0, accuracy=0.5))
    assert "None were measured" in text
    assert "| what |" not in text


def test_core_has_the_interval_that_eval_base_shows(tmp_path: Path) -> None:
    text = card(tmp_path / "metrics.jsonl", EvalRow(0, core=0.2, core_standard_error=0.01))
    interval = normal_interval(0.2, 0.01)
    assert f"| CORE | 0.2000 | {interval.low:.4f} to {interval.high:.4f} | validation |" in text
