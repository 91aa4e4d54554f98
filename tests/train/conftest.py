"""Fixtures for training: text, tokenizer and configurations that run in a second."""

from dataclasses import replace
from pathlib import Path

import pytest

from nanochat.checkpoint import store
from nanochat.paths import default_paths
from nanochat.text.dataset_tokenizer import tokenizer_folder
from nanochat.tokenizer.bpe import train_tokenizer
from nanochat.train.pretrain import PretrainConfig

NAMES = ("Anna", "Ben", "Clara", "David", "Emil", "Flora")
THINGS = ("apple", "boat", "candle", "drum", "egg", "flute", "goat")


def sentences(count: int) -> list[str]:
    """Distinct documents with a pattern to learn."""
    return [
        f"{NAMES[i % 6]} has {i} {THINGS[i % 7]}s and gives one {THINGS[i % 7]} to {NAMES[(i * 5 + 1) % 6]}. "
        f"Then {NAMES[i % 6]} has {i - 1} {THINGS[i % 7]}s."
        for i in range(1, count + 1)
    ]


def with_old_flags(directory: Path, step: int) -> None:
    """Add to a checkpoint's config the flags that every stage once had."""
    meta = store.load_meta(directory, step)
    old = {"eval_bytes": 500_000, "sample_every": 0, "compile": "off", "fp8": False}
    model, optimizer = store.load_model_state(directory, step), store.load_optimizer_state(directory, step)
    store.save(directory, replace(meta, config={**old, **meta.config}), model, optimizer)


@pytest.fixture
def corpus(base_dir: Path, tmp_path: Path) -> Path:
    """A folder of text, and a tokenizer of 320 tokens trained on it in the base directory."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i, text in enumerate(sentences(400)):
        (folder / f"{i:03d}.txt").write_text(text)
    train_tokenizer(sentences(400), 320, max_chars=10**6).save(tokenizer_folder(str(folder), default_paths()))
    return folder


@pytest.fixture
def tiny(corpus: Path) -> PretrainConfig:
    """A depth-1 run of 12 steps that evaluates and samples only at its end."""
    return PretrainConfig(
        depth=1,
        dataset=str(corpus),
        max_seq_len=32,
        head_dim=32,
        total_batch_size=256,
        num_iterations=12,
        eval_every=0,
        eval_bytes=2000,
        save_minutes=0,
        compile="off",
    )
