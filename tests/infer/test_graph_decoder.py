"""Decoding by recorded steps equals the plain decoder. Here a record is the step itself, run again into one result."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nanochat.infer.decoders import Decoders
from nanochat.infer.engine import Engine
from nanochat.infer.graph_decoder import GraphDecoder, capture_cuda_graph
from nanochat.infer.sampler import SamplingParams
from nanochat.infer.torch_decoder import TorchDecoder

PROMPTS = [[at * 7 % 256 for at in range(length)] for length in (5, 17, 30, 2, 9)]
PARAMS = [SamplingParams(temperature=0, max_new_tokens=4 + 5 * at) for at in range(len(PROMPTS))]


class Recorder:
    """Stands in for CUDA graphs: what changes between replays must be in tensors that the step reads."""

    def __init__(self, spoil: float = 0.0):
        self.records = 0
        self.replays = 0
        self.spoil = spoil

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.records += 1
        result = function() + self.spoil

        def replay() -> None:
            self.replays += 1
            result.copy_(function() + self.spoil)

        return replay, result


def answers(model, tokenizer, monkeypatch, record) -> list[list[int]]:
    engine = Engine(model, tokenizer, max_rows=3, tools=None)
    decoder = GraphDecoder(TorchDecoder(model, engine._cache), record)
    monkeypatch.setattr(Decoders, "best", lambda self: decoder)
    return [completion.ids for completion in engine.generate(PROMPTS, PARAMS)]


def test_recorded_steps_give_the_tokens_of_the_plain_decoder(model, tokenizer, monkeypatch):
    expected = [c.ids for c in Engine(model, tokenizer, max_rows=3, tools=None).generate(PROMPTS, PARAMS)]
    recorder = Recorder()
    assert answers(model, tokenizer, monkeypatch, recorder) == expected
    assert recorder.records <= 3, "rows are rounded up to 1, 2 and 3; slots to the context of 64"
    assert recorder.replays > 3 * recorder.records


def test_a_graph_that_cannot_be_recorded_costs_one_line(model, tokenizer, monkeypatch, capsys):
    expected = [c.ids for c in Engine(model, tokenizer, max_rows=3, tools=None).generate(PROMPTS, PARAMS)]

    def fail(_function):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    assert answers(model, tokenizer, monkeypatch, fail) == expected
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "operation not permitted" in line


def test_a_graph_with_other_results_is_not_used(model, tokenizer, monkeypatch, capsys):
    expected = [c.ids for c in Engine(model, tokenizer, max_rows=3, tools=None).generate(PROMPTS, PARAMS)]
    recorder = Recorder(spoil=0.5)
    assert answers(model, tokenizer, monkeypatch, recorder) == expected
    assert recorder.records == 1
    assert "differs from PyTorch's" in capsys.readouterr().err


@pytest.mark.gpu
def test_on_a_gpu_graphs_give_the_tokens_of_the_plain_decoder(model, tokenizer, monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = model.to("cuda")
    expected = [c.ids for c in Engine(model, tokenizer, max_rows=3, tools=None).generate(PROMPTS, PARAMS)]
    assert answers(model, tokenizer, monkeypatch, capture_cuda_graph) == expected
