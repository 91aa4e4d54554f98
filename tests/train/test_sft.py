"""Fine-tuning: it learns to answer, resumes bit-exactly, leaves the base model unchanged."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from nanochat.checkpoint import store
from nanochat.checkpoint.loading import load_model
from nanochat.checkpoint.meta import SourceRun
from nanochat.infer.engine import Engine
from nanochat.infer.sampler import SamplingParams
from nanochat.model import backend
from nanochat.model.fp8 import fp8_linear
from nanochat.paths import default_paths
from nanochat.runtime import open_runtime
from nanochat.tokenizer.chat_format import render_prompt
from nanochat.train import pretrain, sft
from nanochat.train.pretrain import PretrainConfig
from nanochat.train.session import TrainingResult
from nanochat.train.sft import SftConfig
from tests.train.conftest import with_old_flags

pytestmark = pytest.mark.slow


def fine_tune(config: SftConfig) -> TrainingResult:
    with open_runtime("cpu") as runtime:
        return sft.run(config, runtime)


@pytest.fixture
def config(tiny: PretrainConfig, tmp_path: Path) -> SftConfig:
    """A base model, and conversations that answer one question with a tool and one without."""
    with open_runtime("cpu") as runtime:
        pretrain.run(tiny, runtime)
    answers = {
        "who?": "Anna",
        "sum?": [
            {"type": "python", "text": "1+2"},
            {"type": "python_output", "text": "3"},
            {"type": "text", "text": "3"},
        ],
    }
    lines = [
        json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]})
        for q, a in answers.items()
    ]
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join(lines * 40))
    return SftConfig(
        mixture=str(file),
        num_iterations=60,
        eval_every=0,
        save_minutes=0,
        compile="off",
        total_batch_size=128,
    )


def test_learns_to_answer_and_to_use_the_tool(config: SftConfig) -> None:
    assert fine_tune(config).finished
    with open_runtime("cpu") as runtime:
        loaded = load_model("sft", runtime)
    engine = Engine(loaded.model, loaded.tokenizer)
    prompts = [render_prompt(loaded.tokenizer, [{"role": "user", "content": q}]) for q in ("who?", "sum?")]
    first, second = engine.generate(prompts, SamplingParams(temperature=0, max_new_tokens=16))
    assert first.text == "Anna"
    assert second.text == "3"
    assert any(second.forced_mask)


def test_a_resumed_run_ends_with_the_same_bits(config: SftConfig) -> None:
    short = replace(config, num_iterations=8, save_every=4, keep_last=9)
    fine_tune(replace(short, model_tag="whole"))
    fine_tune(replace(short, model_tag="broken"))
    directory = default_paths().checkpoints("broken")
    store.remove(directory, 8)
    with_old_flags(directory, 4)
    assert fine_tune(replace(short, model_tag="broken", resume="auto")).step == 8
    whole, broken = (
        store.load_meta(default_paths().checkpoints(tag), 8).files for tag in ("whole", "broken")
    )
    assert whole == broken


@pytest.mark.parametrize(("warm", "steps"), [(False, 2), (True, 12 + 2)])
def test_a_warm_optimiser_goes_on_from_the_base_runs_state(config: SftConfig, warm: bool, steps: int) -> None:
    short = replace(config, num_iterations=2, save_every=1, keep_last=9, warm_optimizer=warm)
    fine_tune(short)
    directory = default_paths().checkpoints("sft")
    whole = store.load_meta(directory, 2).files
    assert store.load_optimizer_state(directory, 2)["steps"] == steps
    store.remove(directory, 2)
    fine_tune(replace(short, resume="auto"))
    assert store.load_meta(directory, 2).files == whole


def test_a_document_mask_changes_the_run_and_stays_with_it(config: SftConfig) -> None:
    short = replace(config, num_iterations=2, save_every=1, keep_last=9)
    fine_tune(replace(short, model_tag="without"))
    masked = replace(short, document_mask=True)
    fine_tune(masked)
    directory = default_paths().checkpoints("sft")
    whole = store.load_meta(directory, 2).files
    assert whole != store.load_meta(default_paths().checkpoints("without"), 2).files
    store.remove(directory, 2)
    with pytest.raises(ValueError, match="document_mask was True and is now False"):
        fine_tune(replace(short, resume="auto"))
    fine_tune(replace(masked, resume="auto"))
    assert store.load_meta(directory, 2).files == whole


def test_the_base_model_stays(config: SftConfig) -> None:
    directory = default_paths().checkpoints("baserun")
    before = store.load_meta(directory, 12).files
    fine_tune(replace(config, num_iterations=2))
    assert store.load_meta(directory, 12).files == before
    assert store.latest(directory) == 12


def test_a_checkpoint_has_its_own_plan_and_names_its_source(config: SftConfig) -> None:
    fine_tune(replace(config, num_iterations=2, lr_fraction=0.5))
    base = store.load_meta(default_paths().checkpoints("baserun"), 12)
    tuned = store.load_meta(default_paths().checkpoints("sft"), 2)
    assert (tuned.plan.total_steps, tuned.plan.batch_tokens) == (2, 128)
    assert tuned.plan.rates == base.plan.rates.scaled(0.5)
    assert tuned.source == SourceRun("baserun", 12, base.files["model"].sha256)
    assert tuned.finished


def test_a_run_from_another_base_model_is_not_resumed(tiny: PretrainConfig, config: SftConfig) -> None:
    fine_tune(replace(config, num_iterations=2))
    with open_runtime("cpu") as runtime:
        pretrain.run(replace(tiny, model_tag="other", seed=1), runtime)
    with pytest.raises(ValueError, match="the run's source weights was"):
        fine_tune(replace(config, num_iterations=2, from_tag="other", resume="auto"))


def test_a_run_resumes_from_its_own_base_checkpoint_when_the_base_has_trained_on(config: SftConfig) -> None:
    fine_tune(replace(config, num_iterations=2))
    base = default_paths().checkpoints("baserun")
    meta, state = store.load_meta(base, 12), store.load_model_state(base, 12)
    schedule = replace(meta.plan.schedule, total_steps=13)
    longer = replace(
        meta, progress=replace(meta.progress, step=13), plan=replace(meta.plan, schedule=schedule)
    )
    store.save(base, longer, {name: 2 * weight for name, weight in state.items()}, {}, keep_last=9)
    assert fine_tune(replace(config, num_iterations=2, resume="auto")).finished


def test_without_a_base_model_the_way_to_one_is_told(config: SftConfig) -> None:
    with pytest.raises(ValueError, match="there are: baserun"):
        fine_tune(replace(config, from_tag="nothing"))


def test_a_batch_that_is_no_whole_rows_is_refused(config: SftConfig) -> None:
    with pytest.raises(ValueError, match="--total-batch-size"):
        fine_tune(replace(config, total_batch_size=100))
    with pytest.raises(ValueError, match="--device-batch-size"):
        fine_tune(replace(config, device_batch_size=0))


def test_a_base_trained_in_fp8_is_fine_tuned_in_fp8_only_if_asked(
    config: SftConfig, tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(backend, "choose_fp8", lambda asked, device: (asked, "emulated"))
    calls: list[int] = []

    def counting(x: Tensor, weight_OI: Tensor) -> Tensor:
        calls.append(x.size(0))
        return fp8_linear(x, weight_OI)

    monkeypatch.setitem(backend._LINEAR_FUNCTIONS, "fp8", counting)
    with open_runtime("cpu") as runtime:
        pretrain.run(replace(tiny, model_tag="rough", fp8=True), runtime)
    assert calls
    calls.clear()
    capsys.readouterr()
    fine_tune(replace(config, from_tag="rough", model_tag="plain", num_iterations=2))
    said = capsys.readouterr().err
    assert not calls
    assert "rough was trained with --fp8" in said
    assert "fp8: off" in said
    fine_tune(replace(config, from_tag="rough", model_tag="same", num_iterations=2, fp8=True))
    said = capsys.readouterr().err
    assert calls
    assert "was trained with --fp8" not in said
    assert "fp8: on" in said
    with pytest.raises(ValueError, match="fp8 was True and is now False"):
        fine_tune(replace(config, from_tag="rough", model_tag="same", num_iterations=2, resume="auto"))


def test_fp8_is_refused_without_fp8_units(config: SftConfig) -> None:
    with pytest.raises(ValueError, match="--fp8 needs a GPU"):
        fine_tune(replace(config, fp8=True))
    assert not default_paths().checkpoints("sft").exists()


def test_a_run_starts_from_an_older_step_of_another(config: SftConfig) -> None:
    fine_tune(replace(config, num_iterations=2, save_every=1, keep_last=9))
    first = store.load_meta(default_paths().checkpoints("sft"), 1)
    again = replace(config, num_iterations=2, save_every=1, model_tag="again", keep_last=9, from_tag="sft@1")
    fine_tune(again)
    directory = default_paths().checkpoints("again")
    whole = store.load_meta(directory, 2)
    assert whole.source == SourceRun("sft", 1, first.files["model"].sha256)
    for from_tag in ("sft@1", "sft"):  # a resumed run keeps the step that it began with
        store.remove(directory, 2)
        fine_tune(replace(again, resume="auto", from_tag=from_tag))
        assert store.load_meta(directory, 2).files == whole.files
    with pytest.raises(ValueError, match="cannot resume"):
        fine_tune(replace(again, resume="auto", from_tag="sft@2"))
