"""A tokenizer of single bytes and tiny models, quick enough to run token by token."""

import pytest
import torch

from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.tokenizer.patterns import split_pattern
from nanochat.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Models as small as these run quicker on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """256 bytes and the nine special tokens."""
    return Tokenizer({bytes([byte]): byte for byte in range(256)}, split_pattern("default"))


@pytest.fixture(scope="session")
def new_model():
    """Makes a model with random weights; none is zero, unlike at initialisation, so that every part has an effect."""

    def make(config: GPTConfig) -> GPT:
        model = GPT(config, REFERENCE)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                scale = 0.5 if parameter.ndim < 2 else 0.25
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def whole_config(tokenizer) -> GPTConfig:
    """Every part of the model enabled: windows of 16, grouped queries, value embeddings, smear, backout."""
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


@pytest.fixture(scope="session")
def model(new_model, whole_config) -> GPT:
    return new_model(whole_config)
