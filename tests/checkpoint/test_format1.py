"""A run of checkpoint format 1, made by the code that wrote it: it loads, resumes and can be fine-tuned as before."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.checkpoint import store
from nanochat.checkpoint.loading import load_model, load_run_tokenizer
from nanochat.checkpoint.meta import CheckpointMeta, from_plain, to_plain
from nanochat.checkpoint.migrations import FORMAT, MIGRATIONS
from nanochat.metrics import rows_of
from nanochat.metrics_rows import TrainRow
from nanochat.paths import default_paths
from nanochat.runtime import open_runtime
from nanochat.train import pretrain, sft
from nanochat.train.pretrain import PretrainConfig
from nanochat.train.sft import SftConfig

FIXTURE = Path(__file__).with_name("format1")
RECORDED: dict[str, Any] = json.loads((FIXTURE / "recorded.json").read_text())
QUIET = {"save_minutes": 0, "eval_every": 0, "compile": "off", "device": "cpu", "dtype": "fp32"}


@pytest.fixture
def old_run(base_dir: Path) -> Path:
    """The base directory with the old run in it."""
    with tarfile.open(FIXTURE / "run.tar.xz") as archive:
        archive.extractall(base_dir, filter="data")
    load_run_tokenizer(default_paths().checkpoints("baserun")).save(default_paths().tokenizers)
    return base_dir


def old_sft_meta(base_dir: Path) -> CheckpointMeta:
    """The old SFT run's meta, upgraded to the current format."""
    path = store.file_of(default_paths().checkpoints("sft"), 2, "meta")
    return from_plain(torch.load(path, weights_only=True))


def losses(run: str) -> list[float]:
    return [row.loss for row in rows_of(default_paths().metrics(run), TrainRow)]


@pytest.mark.slow
def test_the_model_gives_the_recorded_logits(old_run: Path) -> None:
    with open_runtime("cpu", "fp32") as runtime:
        loaded = load_model("baserun", runtime)
    assert (loaded.step, loaded.meta.finished, store.finished_step(loaded.directory)) == (2, False, None)
    assert loaded.model.config.max_seq_len == 16
    with torch.no_grad():
        logits = loaded.model.logits(loaded.model(torch.tensor([RECORDED["ids"]])))[0, -1, :280]
    assert logits.tolist() == pytest.approx(RECORDED["logits"], rel=1e-4, abs=1e-5)


def test_a_migrated_sft_run_has_a_plan_of_its_own(old_run: Path) -> None:
    base = store.load_meta(default_paths().checkpoints("baserun"), 2)
    tuned = old_sft_meta(old_run)
    assert (tuned.stage, tuned.step, tuned.finished) == ("sft", 2, True)
    assert (base.plan.total_steps, tuned.plan.total_steps) == (4, 2)
    assert tuned.plan.schedule.final_lr == 0.0
    assert tuned.plan.rates.matrix == pytest.approx(0.8 * base.plan.rates.matrix)
    assert tuned.plan.batch_tokens == 64
    assert tuned.plan.tokens == tuned.progress.tokens == 128
    assert tuned.model == base.model
    assert tuned.source is not None
    assert (tuned.source.model_tag, tuned.source.step) == ("baserun", 2)
    assert tuned.source.weights_sha256 == base.files["model"].sha256
    assert tuned.progress.position is not None
    assert tuned.progress.position.identity.tokenizer == tuned.tokenizer == base.tokenizer
    assert tuned.config["from_tag"] == "baserun"


def test_migrating_is_pure_and_ends_at_the_format_that_is_written(old_run: Path) -> None:
    path = store.file_of(default_paths().checkpoints("baserun"), 2, "meta")
    old, untouched = (torch.load(path, weights_only=True) for _ in range(2))
    new = old
    for number in sorted(MIGRATIONS):
        new = MIGRATIONS[number](new)
    del old["rng"], untouched["rng"]
    assert old == untouched
    assert set(MIGRATIONS) == set(range(1, FORMAT))
    assert new["format"] == FORMAT
    assert to_plain(from_plain(new)).keys() == new.keys()
    for gone in ("rng", "course", "finished", "step"):
        assert gone not in new


@pytest.mark.slow
def test_the_run_resumes_to_the_recorded_losses(old_run: Path) -> None:
    config = PretrainConfig(
        dataset=str(old_run / "corpus"),
        vocab_size=280,
        depth=1,
        head_dim=32,
        max_seq_len=16,
        num_iterations=4,
        total_batch_size=64,
        eval_bytes=200,
        resume="auto",
        **QUIET,  # type: ignore[arg-type]
    )
    with open_runtime("cpu", "fp32") as runtime:
        with pytest.raises(ValueError, match=r"plan\.schedule\.total_steps was 4 and is now 5"):
            pretrain.run(replace(config, num_iterations=5), runtime)
        assert pretrain.run(config, runtime).finished
    assert losses("baserun") == pytest.approx(RECORDED["losses"]["baserun"][2:], rel=1e-4)
    directory = default_paths().checkpoints("baserun")
    assert store.finished_step(directory) == 4
    plain = torch.load(store.file_of(directory, 4, "meta"), weights_only=True)
    assert plain["format"] == FORMAT


@pytest.mark.slow
def test_sft_starts_from_it(old_run: Path) -> None:
    then = old_sft_meta(old_run)
    store.remove(default_paths().checkpoints("sft"), 2)
    config = SftConfig(
        mixture=str(old_run / "chats.jsonl"),
        num_iterations=2,
        eval_conversations=2,
        **QUIET,  # type: ignore[arg-type]
    )
    with open_runtime("cpu", "fp32") as runtime:
        assert sft.run(config, runtime).finished
    assert losses("sft") == pytest.approx(RECORDED["losses"]["sft"], rel=1e-4)
    now = store.load_meta(default_paths().checkpoints("sft"), 2)
    assert replace(now.plan, dtype=None) == then.plan, "the dtype was not recorded then"
    assert now.source == then.source
    assert {**now.course(), "plan.dtype": None} == then.course()
    assert now.progress.position == then.progress.position
