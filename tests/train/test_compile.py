"""Compiled code gives the losses and gradients of eager code."""

import copy

import pytest
import torch

from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.matmul import Product, blas_product, onednn_product
from nanochat.train import compile as compiling

CONFIG = GPTConfig(max_seq_len=32, vocab_size=100, n_layer=2, n_head=2, n_kv_head=1, head_dim=16, n_embd=32)


@pytest.mark.slow
@pytest.mark.parametrize("product", [blas_product, onednn_product], ids=["blas", "onednn"])
def test_loss_and_gradients_are_those_of_eager_code(product: Product) -> None:
    usable, reason = compiling.probe(torch.device("cpu"))
    if not usable:
        pytest.skip(f"torch.compile does not work here: {reason}")
    plain = GPT(CONFIG)
    plain.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    compiled = copy.deepcopy(plain)
    compiled.use_product(product)
    compiling.compile_model(compiled)
    compiling.warm_up(compiled, rows=3)
    ids = torch.randint(0, 100, (3, 32), generator=generator)
    results = []
    for model in (compiled, plain):
        nats, count = model.loss(model(ids), ids.roll(-1, dims=1))
        (nats / count).backward()
        results.append({name: p.grad for name, p in model.named_parameters()} | {"loss": nats.detach()})
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-3)
    with compiling.eager(compiled):
        torch.testing.assert_close(compiled(ids[:1, :7]), plain(ids[:1, :7]), atol=1e-4, rtol=1e-3)
