"""A small tokenizer, a random model that is far from uniform, a checkpoint of it, one process."""

from dataclasses import replace

import pytest
import torch

from nanochat.checkpoint import store
from nanochat.eval.result_cache import ResultCache
from nanochat.eval.subject import Subject
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.paths import default_paths
from nanochat.processes import Processes
from nanochat.runtime import Runtime
from nanochat.tokenizer.bpe import train_tokenizer
from nanochat.tokenizer.tokenizer import Tokenizer
from tests.conftest import made_up_meta

TEXT = (
    "The harbour lies below the town. Question: which bird cannot fly? Answer: the penguin. "
    "A boat came home late, and 12 people said that 34 was enough. Grüße aus Köln, 한국어도 있다. "
)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT] * 4, 320, max_chars=10_000)


def random_model(tokenizer: Tokenizer, max_seq_len: int, seed: int = 0) -> GPT:
    """All weights random: the initial ones make every output the same."""
    config = GPTConfig(
        max_seq_len=max_seq_len,
        vocab_size=tokenizer.vocab_size,
        n_layer=3,
        n_head=2,
        n_kv_head=1,
        head_dim=8,
        n_embd=16,
    )
    model = GPT(config, REFERENCE)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tokenizer, max_seq_len=64)


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(Processes(), torch.device("cpu"), torch.float32, default_paths())


@pytest.fixture
def subject(model: GPT, tokenizer: Tokenizer) -> Subject:
    return Subject(model.config, tokenizer, lambda: model, max_rows=3)


@pytest.fixture
def kept(tmp_path) -> ResultCache:
    """An empty folder of results."""
    return ResultCache(tmp_path, 0, "0" * 64, Processes(), {})


class Unheard:
    """A process's link that only records values."""

    def __init__(self):
        self.values = []

    def exchange(self, mine):
        self.values += [mine.value] if mine.value is not None else []
        return [mine]


@pytest.fixture
def members(runtime: Runtime):
    """(runtimes of a world's processes, the values they exchange)."""

    def make(world_size: int):
        link = Unheard()
        processes = [Processes(rank, world_size, link) for rank in range(world_size)]
        return [replace(runtime, processes=one) for one in processes], link.values

    return make


@pytest.fixture
def checkpoint(model: GPT, tokenizer: Tokenizer, tmp_path) -> str:
    """The run `tiny` at step 7, whose metadata says it was trained on a folder of texts."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for n in range(4):
        (texts / f"{n}.txt").write_text(f"Document {n}. {TEXT}" * 3)
    (tmp_path / "held_out.txt").write_text(TEXT)
    config = {"dataset": str(texts), "text_column": "text", "val_path": str(tmp_path / "held_out.txt")}
    return save("tiny", model, tokenizer, config)


def save(run: str, model: GPT, tokenizer: Tokenizer, config: dict) -> str:
    """A checkpoint at step 7 of a run that (so it says) had this configuration."""
    directory = default_paths().checkpoints(run)
    store.save(directory, made_up_meta(model.config, 7, config=config), model.state_dict())
    tokenizer.save(directory / "tokenizer")
    return run
