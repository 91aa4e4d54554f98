"""Tiny random models as runs in the base directory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.checkpoint import store
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.paths import Paths
from nanochat.tokenizer.patterns import split_pattern
from nanochat.tokenizer.tokenizer import Tokenizer
from tests.conftest import BYTES, made_up_meta

SWITCHES = ("value_embeddings", "residual_scales", "smear", "backout")
BARE = {**dict.fromkeys(SWITCHES, False), "window_pattern": "L", "qk_gain": 1.0}
REFERENCE_SIZES: dict[str, Any] = {
    **{"gate_channels": 16, "gate_scale": 2.0, "smear_channels": 24, "short_window": 9},
    "backout_layer": 3,
}


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Models as small as these run quicker on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Bytes, a few merges and the special tokens: 281 ids, so that tables have rows that nothing uses."""
    merges = [b"th", b"the", b"in", b"ing", b" a", b"er", b" the", b"an", b"on", b" w", b"  ", b"12"]
    ranks = {
        **BYTES,
        **{token: 256 + at for at, token in enumerate([*merges, b"\xc3\xa9", b"\xf0\x9f", b"\n\n", b"'s"])},
    }
    return Tokenizer(ranks, split_pattern("default"))


@pytest.fixture(scope="session")
def shape(tokenizer: Tokenizer) -> GPTConfig:
    return GPTConfig(
        max_seq_len=64,
        vocab_size=tokenizer.vocab_size,
        n_layer=4,
        n_head=4,
        n_kv_head=2,
        head_dim=8,
        n_embd=32,
        window_pattern="SSL",
    )


def random_model(config: GPTConfig) -> GPT:
    """No weight is zero, so that every part has an effect; rows beyond the vocabulary are."""
    model = GPT(config, REFERENCE)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.5 if parameter.ndim < 2 else 0.1 if name == "head.weight" else 0.25
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            if len(parameter) == config.padded_vocab_size:
                parameter[config.vocab_size :] = 0
    return model.eval()


@pytest.fixture
def make_run(paths: Paths, shape: GPTConfig, tokenizer: Tokenizer) -> Callable[..., GPT]:
    """Saves a random model of a changed shape as the run `tiny`, and returns it."""

    def make(run: str = "tiny", stage: str = "sft", **changes: Any) -> GPT:
        config = replace(shape, **changes)
        model = random_model(config)
        directory: Path = paths.checkpoints(run)
        meta = made_up_meta(config, 7, stage=stage, tokenizer=tokenizer.hash)
        store.save(directory, meta, model.state_dict())
        tokenizer.save(directory / "tokenizer")
        return model

    return make
