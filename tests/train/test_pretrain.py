"""Pretraining in this process: it learns, resumes bit-exactly, splits batches freely, refuses bad requests."""

import os
import random
import re
import shutil
import signal
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from nanochat import runtime
from nanochat.checkpoint import store
from nanochat.checkpoint.loading import load_model
from nanochat.errors import EnvironmentFault
from nanochat.metrics import read_metrics, rows_of
from nanochat.metrics_rows import EvalRow, TrainRow
from nanochat.model import backend, native_loss
from nanochat.native.library import compiler
from nanochat.paths import default_paths
from nanochat.runtime import open_runtime
from nanochat.scaling import Dial
from nanochat.train import hooks, session, step
from nanochat.train import pretrain as pretrain_stage
from nanochat.train.pretrain import PretrainConfig, run
from nanochat.train.session import Session, TrainingResult

pytestmark = pytest.mark.slow


def pretrain(config: PretrainConfig, dtype: str = "auto") -> TrainingResult:
    with open_runtime("cpu", dtype) as here:
        return run(replace(config, dtype=dtype), here)


def hashes(run_name: str, at: int) -> dict[str, str]:
    """The sha256 of weights and optimiser state."""
    meta = store.load_meta(default_paths().checkpoints(run_name), at)
    return {part: facts.sha256 for part, facts in meta.files.items()}


def losses(run_name: str) -> list[float]:
    rows = rows_of(default_paths().metrics(run_name), TrainRow)
    return list({row.step: row.loss for row in rows}.values())


@pytest.mark.parametrize(("steps", "warns"), [(1, False), (400, True)])
def test_it_says_how_often_the_text_is_read(
    tiny: PretrainConfig, capsys: pytest.CaptureFixture[str], steps: int, warns: bool
) -> None:
    """The plan only: training stops before its first step."""
    config = replace(tiny, num_iterations=steps)
    with open_runtime("cpu") as here, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "execute", lambda self: None)
        run(config, here)
    said = capsys.readouterr().err
    stated = re.search(
        r"training text is about ([\d.]+)(k|M) tokens; this run reads it ([\d.e+-]+) times", said
    )
    assert stated is not None
    tokens = float(stated[1]) * {"k": 1e3, "M": 1e6}[stated[2]]
    assert config.total_batch_size is not None
    assert float(stated[3]) == pytest.approx(steps * config.total_batch_size / tokens, rel=0.06)
    assert ("teaches less and less" in said) == warns


def test_an_empty_file_beside_the_text_does_not_stop_it(
    tiny: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("")
    for name in "bcdef":
        (texts / f"{name}.txt").write_text(f"{name} is a letter. " * 500)
    config = replace(tiny, dataset=str(texts), tokenizer=tiny.dataset, num_iterations=1)
    pretrain(config)
    assert "this run reads it" in capsys.readouterr().err


def test_learns_and_leaves_a_model_that_loads(tiny: PretrainConfig) -> None:
    result = pretrain(replace(tiny, num_iterations=40))
    curve = losses("baserun")
    assert result.finished
    assert len(curve) == 40
    assert curve[-1] < 0.6 * curve[0]
    kinds = {entry.row.kind for entry in read_metrics(default_paths().metrics("baserun"))}
    assert kinds == {"config", "train", "eval", "sample", "packing", "done"}
    with open_runtime("cpu") as here:
        loaded = load_model("baserun", here)
    assert loaded.step == 40
    assert loaded.meta.finished


def interrupt_at(monkeypatch: pytest.MonkeyPatch, at: int, number: signal.Signals) -> None:
    """Send this process a real signal during the given step."""
    original = step.accumulate_gradients

    def accumulate(trainer, batches):  # type: ignore[no-untyped-def]
        if trainer.progress.step + 1 == at:
            os.kill(os.getpid(), number)
        return original(trainer, batches)

    monkeypatch.setattr(step, "accumulate_gradients", accumulate)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_resumed_run_ends_with_the_same_bits(
    tiny: PretrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    number: signal.Signals,
) -> None:
    pretrain(replace(tiny, model_tag="whole"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, number)
        stopped = pretrain(replace(tiny, model_tag="broken"))
    assert (stopped.finished, stopped.step) == (False, 5)
    assert "--resume auto" in capsys.readouterr().err
    resumed = pretrain(replace(tiny, model_tag="broken", resume="auto"))
    assert (resumed.finished, resumed.step) == (True, 12)
    assert hashes("broken", 12) == hashes("whole", 12)
    assert losses("broken") == losses("whole")


def test_evaluations_leave_the_weights_alone(tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether every step is evaluated, or those that the share of the time allows, or only the last."""
    tiny, evaluated, ends = replace(tiny, num_iterations=8), {}, set()
    for name, (every, share) in {"none": (0, 1.0), "all": (1, 1.0), "some": (1, 0.3)}.items():
        ticks = count()  # each reading of the clock is a second later: an evaluation takes one
        monkeypatch.setattr(
            session, "Evaluate", partial(hooks.Evaluate, clock=lambda t=ticks: float(next(t)))
        )
        pretrain(replace(tiny, model_tag=name, eval_every=every, eval_share=share))
        evaluated[name] = [row.step for row in rows_of(default_paths().metrics(name), EvalRow)]
        ends.add(tuple(hashes(name, 8).items()))
    assert len(ends) == 1
    assert (evaluated["none"], evaluated["all"]) == ([8], list(range(1, 9)))
    assert 2 < len(evaluated["some"]) < 8


def test_resuming_a_finished_run_changes_nothing(tiny: PretrainConfig) -> None:
    pretrain(tiny)
    before = hashes("baserun", 12)
    again = pretrain(replace(tiny, resume="auto"))
    assert again.finished
    assert hashes("baserun", 12) == before


@pytest.mark.parametrize(("most", "rows"), [(8, 2), (2, 2), (1, 1)])
def test_a_resumed_run_keeps_its_micro_batches_while_they_fit(
    tiny: PretrainConfig, most: int, rows: int
) -> None:
    """Other micro-batches add up to other bits."""
    pretrain(replace(tiny, num_iterations=1, device_batch_size=2))
    saved = store.load_meta(default_paths().checkpoints("baserun"), 1)

    def plan_of(dial: Dial) -> int:
        if (dial.device_batch_size or most) > most:
            raise ValueError("more than fit")
        return dial.device_batch_size or most

    dial = replace(tiny, device_batch_size=None)
    assert pretrain_stage._plan(plan_of, dial, saved) == rows  # type: ignore[arg-type]
    assert pretrain_stage._plan(plan_of, dial, None) == most  # type: ignore[arg-type]
    assert pretrain_stage._plan(plan_of, replace(dial, device_batch_size=1), saved) == 1  # type: ignore[arg-type]


def test_a_run_killed_in_its_last_evaluation_makes_up_for_it_once(
    tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        # The first signal asks the run to stop, the second one ends it.
        for hook, method in ((hooks.Evaluate, "evaluate"), (hooks.SampleText, "show")):
            patch.setattr(hook, method, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny)
    assert store.load_meta(default_paths().checkpoints("baserun"), 12).finished
    figures = [pretrain(replace(tiny, resume="auto")).figures for _ in range(2)]
    (row,) = rows_of(default_paths().metrics("baserun"), EvalRow)
    assert (row.step, [row.val_bpb]) == (12, [figures[0]["val_bpb"]])
    assert figures[1] == {}


def test_a_run_that_died_before_its_first_checkpoint_leaves_no_tokenizer_behind(
    tiny: PretrainConfig,
) -> None:
    folder = default_paths().checkpoints("baserun") / "tokenizer"
    folder.mkdir(parents=True)
    (folder / "tok999.tiktoken").write_text("")
    pretrain(tiny)
    with open_runtime("cpu") as here:
        assert load_model("baserun", here).step == 12


def test_the_state_of_global_generators_does_not_matter(tiny: PretrainConfig) -> None:
    """A checkpoint therefore need not hold it."""
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        pretrain(replace(tiny, model_tag=f"seed{seed}"))
    assert hashes("seed1", 12) == hashes("seed2", 12)


def test_micro_batches_do_not_change_the_losses(tiny: PretrainConfig) -> None:
    curves = []
    for rows in (8, 4, 3, 1):
        pretrain(replace(tiny, model_tag=f"rows{rows}", device_batch_size=rows), "fp32")
        curves.append(losses(f"rows{rows}"))
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=3e-5)


def test_checkpoints_come_as_often_as_asked_and_only_the_last_are_kept(tiny: PretrainConfig) -> None:
    pretrain(replace(tiny, save_every=3, keep_last=2))
    assert store.whole_steps(default_paths().checkpoints("baserun")) == [9, 12]


def test_a_step_that_is_not_finite_is_skipped_and_counted(
    tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    original = step.accumulate_gradients

    def poisoned(trainer, batches):  # type: ignore[no-untyped-def]
        loss = original(trainer, batches)
        if trainer.progress.step == 3:
            trainer.model.head.weight.grad[0, 0] = float("nan")
        return loss

    monkeypatch.setattr(step, "accumulate_gradients", poisoned)
    result = pretrain(tiny)
    assert (result.finished, result.skipped_steps) == (True, 1)
    assert "step 4 skipped" in capsys.readouterr().err
    with open_runtime("cpu") as here:
        assert all(p.isfinite().all() for p in load_model("baserun", here).model.parameters())


def test_saving_precedes_evaluating_and_a_failing_evaluation_ends_nothing(
    tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    saved: list[bool] = []

    def out_of_memory(self: hooks.Evaluate, trainer: object) -> None:
        saved.append(store.latest(default_paths().checkpoints("baserun")) == 12)
        raise torch.OutOfMemoryError("as if")

    from nanochat.train import pretrain as module

    monkeypatch.setattr(module.bpb, "score", lambda *_, **__: out_of_memory(None, None))
    assert pretrain(tiny).finished
    assert saved == [True]
    assert "evaluation at step 12 failed" in capsys.readouterr().err


def test_a_run_is_never_overwritten(tiny: PretrainConfig) -> None:
    pretrain(tiny)
    with pytest.raises(ValueError, match="--resume auto"):
        pretrain(tiny)


@pytest.mark.parametrize(
    "change",
    [{"depth": 2}, {"lr_scale": 2.0}, {"num_iterations": 20}, {"seed": 1}, {"total_batch_size": 512}],
)
def test_a_run_of_other_settings_is_not_resumed(tiny: PretrainConfig, change: dict) -> None:
    pretrain(replace(tiny, num_iterations=2))
    with pytest.raises(ValueError, match="cannot resume"):
        pretrain(replace(tiny, **{"num_iterations": 2, **change}, resume="auto"))


def without_dtype(directory: Path, at: int) -> None:
    """Rewrite a checkpoint as one that was saved before its compute dtype was recorded."""
    path = store.file_of(directory, at, "meta")
    content = torch.load(path, weights_only=True)
    content["plan"]["dtype"] = None
    torch.save(content, path)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_run_resumes_in_its_own_compute_dtype(
    tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, recorded: bool
) -> None:
    """Also where a new run would take another one: a processor with bf16 units, or a later version."""
    choose = runtime.choose_dtype
    monkeypatch.setattr(runtime, "choose_dtype", lambda device, asked: choose(device, "fp32"))
    pretrain(replace(tiny, model_tag="whole"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, signal.SIGTERM)
        pretrain(replace(tiny, model_tag="broken"))
    if not recorded:
        without_dtype(default_paths().checkpoints("broken"), 5)
    monkeypatch.setattr(
        runtime, "choose_dtype", lambda device, asked: choose(device, "bf16" if asked == "auto" else asked)
    )
    capsys.readouterr()
    assert pretrain(replace(tiny, model_tag="broken", resume="auto")).finished
    assert "compute dtype: float32 (as the run began)" in capsys.readouterr().err
    assert hashes("broken", 12)["model"] == hashes("whole", 12)["model"]
    pretrain(replace(tiny, model_tag="new"))
    assert hashes("new", 12)["model"] != hashes("whole", 12)["model"]
    if recorded:
        with pytest.raises(ValueError, match="dtype"):
            pretrain(replace(tiny, model_tag="broken", resume="auto"), "bf16")


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_a_run_in_cpp_resumes_to_the_same_bits_or_not_at_all(
    tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(backend, "_WORTH_COMPILING", 0.0)
        pretrain(replace(tiny, model_tag="whole"))
        with monkeypatch.context() as broken:
            interrupt_at(broken, 5, signal.SIGTERM)
            pretrain(replace(tiny, model_tag="broken"))
    pretrain(replace(tiny, model_tag="torch"))
    assert hashes("torch", 12) != hashes("whole", 12)
    resumable = replace(tiny, model_tag="broken", resume="auto")
    with monkeypatch.context() as patch:
        patch.setattr(native_loss, "find_native_loss", lambda directory: (None, "the compiler is gone"))
        with pytest.raises(EnvironmentFault, match="the compiler is gone"):
            pretrain(resumable)
    assert pretrain(resumable).finished  # now also by itself too small to be worth compiling
    assert hashes("broken", 12) == hashes("whole", 12)


def test_a_torn_checkpoint_falls_back_to_the_one_before(
    tiny: PretrainConfig, capsys: pytest.CaptureFixture
) -> None:
    pretrain(replace(tiny, model_tag="whole"))
    pretrain(replace(tiny, save_every=6))
    directory = default_paths().checkpoints("baserun")
    model = store.file_of(directory, 12, "model")
    model.write_bytes(model.read_bytes()[:-100])
    assert pretrain(replace(tiny, resume="auto")).step == 12
    assert "torn" in capsys.readouterr().err
    assert hashes("baserun", 12) == hashes("whole", 12)


def test_training_and_loading_choose_one_backend_once_each(
    tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    trials: list[str] = []
    for name in ("choose_product", "choose_kernel", "choose_fp8", "choose_compile"):
        choose = getattr(backend, name)
        monkeypatch.setattr(
            backend, name, lambda *a, n=name, c=choose, **k: (trials.append(n), c(*a, **k))[1]
        )
    pretrain(tiny)
    said = capsys.readouterr().err
    with open_runtime("cpu") as here:
        loaded = load_model("baserun", here).model.backend
    assert sorted(trials) == sorted(2 * ["choose_product", "choose_kernel", "choose_fp8", "choose_compile"])
    for choice in loaded.describe():
        assert said.count(f"{choice}\n") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "no-such-thing"}, "no-such-thing"),
        ({"vocab_size": 999}, "tokenizer train"),
        ({"total_batch_size": 100}, "--total-batch-size"),
        ({"device_batch_size": 0}, "--device-batch-size"),
        ({"depth": 0}, "--depth"),
        ({"eval_share": 0}, "--eval-share"),
        ({"depth": 256}, "GB"),
        ({"fp8": True}, "fp8"),
    ],
)
def test_bad_requests_are_refused_before_any_work(tiny: PretrainConfig, change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pretrain(replace(tiny, **change))
    assert not default_paths().checkpoints("baserun").exists()


def test_without_a_tokenizer_the_way_to_one_is_told(tiny: PretrainConfig) -> None:
    shutil.rmtree(default_paths().tokenizers)
    with pytest.raises(ValueError, match="tokenizer train"):
        pretrain(tiny)
