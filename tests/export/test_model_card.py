from pathlib import Path

from nanochat.eval.intervals import normal_interval
from nanochat.export.model_card import model_card
from nanochat.metrics import open_metrics
from nanochat.metrics_rows import EvalRow
from tests.conftest import made_up_meta


def test_core_has_the_interval_that_eval_base_shows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with open_metrics(path, "eval-base", wandb_run=None, config=None, enabled=True, resume=True) as metrics:
        metrics.log(EvalRow(7, val_bpb=1.25, core=0.2, core_standard_error=0.01))
    card = model_card("tiny", made_up_meta(step=7), path, "fp32")
    interval = normal_interval(0.2, 0.01)
    assert f"| CORE | 0.2000 | {interval.low:.4f} to {interval.high:.4f} | validation |" in card
    assert "| bits per byte | 1.2500 |  | validation |" in card
