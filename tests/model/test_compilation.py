"""Compiled training steps give the losses and gradients of eager ones, and evaluation stays eager."""

from dataclasses import replace

import pytest
import torch

from nanochat.errors import EnvironmentFault
from nanochat.model import compilation
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.matmul import ProductName

CONFIG = GPTConfig(max_seq_len=32, vocab_size=100, n_layer=2, n_head=2, n_kv_head=1, head_dim=16, n_embd=32)
CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize(("product", "part"), [("BLAS", "block"), ("oneDNN", "block"), ("BLAS", "model")])
def test_loss_and_gradients_are_those_of_eager_code(
    product: ProductName, part: compilation.CompiledPart
) -> None:
    usable, reason = compilation.probe_compile(CPU)
    if not usable:
        pytest.skip(f"torch.compile does not work here: {reason}")
    plain = GPT(CONFIG, REFERENCE)
    plain.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    compiled = GPT(CONFIG, replace(REFERENCE, product=product, compiled_part=part))
    compiled.load_state_dict(plain.state_dict())
    ids = torch.randint(0, 100, (3, 32), generator=generator)
    results = []
    for model in (compiled, plain):
        nats, count = model.loss(model(ids), ids.roll(-1, dims=1))
        (nats / count).backward()
        results.append({name: p.grad for name, p in model.named_parameters()} | {"loss": nats.detach()})
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-3)
    compiled.eval()
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(compiled(ids[:1, :7]), plain(ids[:1, :7]), atol=1e-4, rtol=1e-3)


def test_a_compiler_that_does_not_work_means_eager_unless_it_was_demanded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(compilation, "probe_compile", lambda device: (False, "no compiler"))
    assert compilation.choose_compile("auto", torch.device("cuda"), 1e18) == ("nothing", "no compiler")
    assert "staying eager" in capsys.readouterr().err
    with pytest.raises(EnvironmentFault, match="no compiler"):
        compilation.choose_compile("on", CPU, 1e18)


@pytest.mark.parametrize(
    ("mode", "device", "flops", "expected"),
    [
        ("auto", "cpu", 1e18, "nothing"),
        ("on", "cpu", 1e13, "block"),
        ("off", "cuda", 1e18, "nothing"),
        ("auto", "cuda", 1e13, "block"),
        ("auto", "cuda", 1e18, "model"),
        ("auto", "mps", 1e18, "nothing"),
    ],
)
def test_the_choice_follows_from_the_device_and_the_length_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
    mode: compilation.CompileMode,
    device: str,
    flops: float,
    expected: compilation.CompiledPart,
) -> None:
    monkeypatch.setattr(compilation, "probe_compile", lambda device: (True, "works"))
    assert compilation.choose_compile(mode, torch.device(device), flops)[0] == expected
