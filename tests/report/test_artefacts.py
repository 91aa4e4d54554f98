"""Reading the artefacts: resumed runs merged, timings of recipes summed, rows older than a reset left out."""

import json
from pathlib import Path

from nanochat.metrics import LoggedRow, open_metrics, rows_of
from nanochat.metrics_rows import DoneRow, EvalRow, Row, SampleRow, StageRow, TasksRow, TrainRow
from nanochat.paths import Paths
from nanochat.report.artefacts import Findings, PlannedModel, collect


def test_repeated_steps_of_a_resumed_run_count_once(pipeline: Paths) -> None:
    stage = next(stage for stage in collect(pipeline).training() if stage.stage == "pretrain")
    steps, losses = stage.series(TrainRow, lambda row: row.loss)
    assert steps == list(range(1, 81))
    newest = {row.step: row.loss for row in rows_of(pipeline.metrics("baserun"), TrainRow)}
    assert losses == [newest[step] for step in steps]
    last = stage.last(TrainRow)
    assert last is not None
    assert last.total_steps == 80


def test_figures_that_are_not_known_leave_no_points(pipeline: Paths) -> None:
    assert collect(pipeline).training()[0].series(TrainRow, lambda row: row.mfu) == ([], [])


def test_samples_at_the_same_step_are_all_kept(pipeline: Paths) -> None:
    (stage,) = [stage for stage in collect(pipeline).stages if stage.of(SampleRow)]
    assert [row.prompt for row in stage.of(SampleRow)] == ["The capital of France is", "Two plus two is"]


def test_other_figures_of_the_same_step_are_kept(pipeline: Paths) -> None:
    """An evaluation of one more task, or of one more figure, replaces no other."""
    rows = (
        TasksRow(60, {"facts": 0.5, "letters": 0.6}, {}, {}, chatcore=0.5),
        TasksRow(60, {"facts": 0.7, "letters": 0.8}, {}, {}, chatcore=0.6),
        TasksRow(60, {"gsm8k": 0.1}, {}, {}),
        EvalRow(60, core=0.2),
        EvalRow(60, val_bpb=0.8),
        EvalRow(60, val_bpb=0.7),
    )
    with open_metrics(
        pipeline.metrics("late"), "eval-chat", wandb_run="dummy", config=None, enabled=True, resume=True
    ) as metrics:
        for row in rows:
            metrics.log(row)
    findings = collect(pipeline)
    assert {name: score.score for name, score in findings.scores()["late"].items()} == {
        "facts": 0.7,
        "letters": 0.8,
        "gsm8k": 0.1,
    }
    (stage,) = [stage for stage in findings.stages if stage.run == "late"]
    assert [(row.core, row.val_bpb) for row in stage.of(EvalRow)] == [(0.2, None), (None, 0.7)]
    assert [row.chatcore for row in stage.of(TasksRow)] == [0.6, None]


def test_stages_come_in_the_order_in_which_they_ran(pipeline: Paths) -> None:
    findings = collect(pipeline)
    assert [(stage.run, stage.stage) for stage in findings.stages] == [
        ("tokenizer", "tokenizer"),
        ("tokenizer", "tokenizer-eval"),
        ("baserun", "pretrain"),
        ("baserun", "eval-base"),
        ("baserun", "eval-chat"),
        ("sft", "sft"),
        ("sft", "eval-chat"),
    ]
    assert [stage.stage for stage in findings.training()] == ["pretrain", "sft"]


def test_without_a_recipe_the_stages_own_times_are_taken(pipeline: Paths) -> None:
    assert [(timing.name, timing.wall_s) for timing in collect(pipeline).timings] == [
        ("tokenizer (tokenizer)", 4.0),
        ("pretrain (baserun)", 64.0),
        ("sft (sft)", 32.0),
    ]


def test_a_recipes_attempts_at_one_result_are_summed(pipeline: Paths) -> None:
    attempts = [  # name, key, status, wall_s
        ("tokenizer", "a", "done", 4.0),
        ("pretrain", "old", "done", 100.0),
        ("pretrain", "new", "interrupted", 10.0),
        ("pretrain", "new", "failed", 5.0),
        ("pretrain", "new", "done", 20.0),
        ("tokenizer", "a", "done", 6.0),  # its file was removed and it was made again
    ]
    with open_metrics(
        pipeline.metrics("recipe"), "recipe", wandb_run="dummy", config=None, enabled=True, resume=True
    ) as metrics:
        for name, key, status, wall_s in attempts:
            metrics.log(StageRow(name, key, (), status, wall_s))
    findings = collect(pipeline)
    assert [(timing.name, timing.wall_s, timing.attempts) for timing in findings.timings] == [
        ("tokenizer", 6.0, 1),
        ("pretrain", 35.0, 3),
    ]
    assert "recipe" not in {stage.run for stage in findings.stages}


def write(path: Path, stage: str, *rows: tuple[float, Row]) -> None:
    """A metrics file of rows at these times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(LoggedRow(stage, time, row).to_json()) + "\n" for time, row in rows))


def test_stages_that_no_recipe_ran_count_too(paths: Paths) -> None:
    write(paths.metrics("baserun"), "pretrain", (3590, DoneRow(3500.0)))
    write(paths.metrics("recipe"), "recipe", (3600, StageRow("pretrain", "a", (), "done", 3600.0)))
    write(paths.metrics("rl"), "rl", (12000, DoneRow(7200.0)))
    assert [(timing.name, timing.wall_s) for timing in collect(paths).timings] == [
        ("pretrain", 3600.0),
        ("rl (rl)", 7200.0),
    ]


def test_the_latest_evaluation_counts_and_not_that_of_the_latest_step(paths: Paths) -> None:
    rows = (1.0, EvalRow(1000, core=0.2)), (2.0, EvalRow(500, core=0.3)), (3.0, EvalRow(700, val_bpb=1.0))
    write(paths.metrics("baserun"), "eval-base", *rows)
    assert collect(paths).latest(EvalRow, lambda row: row.core) == EvalRow(500, core=0.3)


def test_an_empty_base_directory_has_no_findings(paths: Paths) -> None:
    findings = collect(paths)
    assert findings == Findings((), (), system=None, planned=PlannedModel(), left_out=())
