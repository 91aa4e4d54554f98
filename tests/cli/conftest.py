"""A tiny model whose answers follow a script, for the tests of the terminal chat."""

from collections.abc import Callable

import pytest
import torch

from nanochat.cli.chat_models import Speaker
from nanochat.infer.engine import Engine
from nanochat.infer.sampler import SamplingParams
from nanochat.infer.torch_decoder import TorchDecoder
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.paths import Paths
from nanochat.processes import Processes
from nanochat.runtime import Runtime
from nanochat.tokenizer.patterns import split_pattern
from nanochat.tokenizer.special import ASSISTANT_END, PYTHON_END, PYTHON_START
from nanochat.tokenizer.tokenizer import Tokenizer

CONTEXT = 128


class Script(list[int]):
    """The tokens that a model generates next regardless of the prompt, and a record of every request."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []
        self.params: list[SamplingParams] = []
        self.before_token: Callable[[], None] = lambda: None

    def logits(self, vocab_size: int) -> torch.Tensor:
        self.before_token()
        return torch.nn.functional.one_hot(torch.tensor([self.pop(0)]), vocab_size) * 15.0


@pytest.fixture
def script(monkeypatch) -> Script:
    """Decoders that follow a script instead of their model."""
    script = Script()
    submit = Engine.submit

    def recording(engine, prompt_ids, params):
        script.prompts.append(list(prompt_ids))
        script.params.append(params)
        return submit(engine, prompt_ids, params)

    monkeypatch.setattr(Engine, "submit", recording)
    monkeypatch.setattr(TorchDecoder, "logits", lambda decoder, _: script.logits(decoder.config.vocab_size))
    return script


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer({bytes([byte]): byte for byte in range(256)}, split_pattern("default"))


def tiny_model(tokenizer: Tokenizer) -> GPT:
    """A random model."""
    config = GPTConfig(
        max_seq_len=CONTEXT,
        vocab_size=tokenizer.vocab_size,
        n_layer=1,
        n_head=1,
        n_kv_head=1,
        head_dim=8,
        n_embd=8,
    )
    model = GPT(config, REFERENCE)
    model.init_weights(0)
    return model


@pytest.fixture
def model(tokenizer):
    return tiny_model(tokenizer)


@pytest.fixture
def say(script, tokenizer):
    """Adds an answer to the script: text, or a tuple of the code of a tool call."""

    def add(*pieces: str | tuple[str]) -> None:
        for piece in pieces:
            if isinstance(piece, str):
                script.extend(tokenizer.encode(piece))
            else:
                script.extend(
                    [
                        tokenizer.special(PYTHON_START),
                        *tokenizer.encode(*piece),
                        tokenizer.special(PYTHON_END),
                    ]
                )
        script.append(tokenizer.special(ASSISTANT_END))

    return add


@pytest.fixture
def runtime(base_dir):
    return Runtime(Processes(), torch.device("cpu"), torch.float32, Paths(base_dir))


@pytest.fixture
def speaker(model, tokenizer, script) -> Speaker:
    """The scripted model, named as a run."""
    return Speaker("sft", 7, Engine(model, tokenizer, max_rows=1))


@pytest.fixture
def other_speaker(model, tokenizer, script) -> Speaker:
    """A second scripted model. It follows the same script: whoever is asked first answers first."""
    return Speaker("base", 3, Engine(model, tokenizer, max_rows=1))


@pytest.fixture(scope="session")
def speaker_once(tokenizer) -> Speaker:
    """An engine that many examples of one property share; its model is random and never answers."""
    return Speaker("sft", 7, Engine(tiny_model(tokenizer), tokenizer, max_rows=1))
