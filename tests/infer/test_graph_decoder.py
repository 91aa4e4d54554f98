"""Decoding by recorded steps equals the plain decoder."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from nanochat.infer.decoders import Decoders
from nanochat.infer.engine import Engine
from nanochat.infer.graph_decoder import Capture, CudaGraphs, GraphDecoder
from nanochat.infer.sampler import SamplingParams
from nanochat.infer.torch_decoder import TorchDecoder

PROMPTS = [[at * 7 % 256 for at in range(length)] for length in (5, 17, 30, 2, 9)]
PARAMS = [SamplingParams(temperature=0, max_new_tokens=4 + 5 * at) for at in range(len(PROMPTS))]


class Recorder:
    """Stands in for CUDA graphs by a trace, which keeps tensors where they were and numbers as they were."""

    def __init__(self, spoil: float = 0.0):
        self.records = 0
        self.replays = 0
        self.spoil = spoil

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.records += 1
        traced = make_fx(function)()
        result = traced() + self.spoil

        def replay() -> None:
            self.replays += 1
            result.copy_(traced() + self.spoil)

        return replay, result


def graph_engine(model, tokenizer, monkeypatch, record: Capture) -> Engine:
    engine = Engine(model, tokenizer, max_rows=3, tools=None)
    engine._decoders._torch = GraphDecoder(model, engine._cache, record)
    monkeypatch.setattr(Decoders, "best", lambda self: self._torch)
    return engine


def answers(model, tokenizer, monkeypatch, record: Capture) -> list[list[int]]:
    engine = graph_engine(model, tokenizer, monkeypatch, record)
    return [completion.ids for completion in engine.generate(PROMPTS, PARAMS)]


def test_recorded_steps_give_the_tokens_of_the_plain_decoder(model, tokenizer, monkeypatch):
    expected = [c.ids for c in Engine(model, tokenizer, max_rows=3, tools=None).generate(PROMPTS, PARAMS)]
    recorder = Recorder()
    assert answers(model, tokenizer, monkeypatch, recorder) == expected
    assert recorder.records <= 3, "rows are rounded up to 1, 2 and 3; slots to the context of 64"
    assert recorder.replays > 3 * recorder.records


def check_reloading(config, new_model, tokenizer, monkeypatch, capture: Capture, device: str = "cpu") -> None:
    """An engine that keeps its graphs answers as a new one does after every change of the weights."""
    first, second = new_model(config).to(device), new_model(config).to(device)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(-0.8)
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    engine = graph_engine(first, tokenizer, monkeypatch, capture)
    for model in (first, second, first):
        fresh = Engine(model, tokenizer, max_rows=3, tools=None)
        fresh._decoders._torch = TorchDecoder(model, fresh._cache)
        engine.reload(model)
        asked = [[c.ids for c in each.generate(PROMPTS, PARAMS)] for each in (engine, fresh)]
        assert asked[0] == asked[1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in first.state_dict().items())


def test_graphs_stay_when_the_weights_change(whole_config, new_model, tokenizer, monkeypatch):
    recorder = Recorder()
    check_reloading(whole_config, new_model, tokenizer, monkeypatch, recorder)
    assert recorder.records <= 3


def test_rows_decode_by_graphs_beside_a_prompt(model, tokenizer, monkeypatch):
    recorder = Recorder()
    engine = graph_engine(model, tokenizer, monkeypatch, recorder)
    engine.submit(PROMPTS[0], SamplingParams(temperature=0, max_new_tokens=30))
    while not engine.step():
        pass
    engine.step()
    replays = recorder.replays
    engine.submit(PROMPTS[2], PARAMS[2])
    assert engine.step(), "a token beside the prompt"
    assert recorder.replays == replays + 1


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
    assert answers(model, tokenizer, monkeypatch, CudaGraphs()) == expected


@pytest.mark.gpu
def test_on_a_gpu_graphs_stay_when_the_weights_change(whole_config, new_model, tokenizer, monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    check_reloading(whole_config, new_model, tokenizer, monkeypatch, CudaGraphs(), "cuda")
