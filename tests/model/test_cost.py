"""Costs, counted another way."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nanochat.model.backend import REFERENCE
from nanochat.model.cost import flops_per_token, horizon_parameters, parameter_counts
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig

SMALL = GPTConfig(
    max_seq_len=64,
    vocab_size=128,
    n_layer=2,
    n_head=2,
    n_kv_head=2,
    head_dim=16,
    n_embd=32,
    window_pattern="S",
)


def test_every_parameter_is_counted_once() -> None:
    assert sum(parameter_counts(SMALL).values()) == sum(p.numel() for p in GPT(SMALL, REFERENCE).parameters())


def test_horizon_is_matrices_and_head() -> None:
    matrices, gates, head = 2 * 12 * 32 * 32, 12 * 2, 128 * 32
    assert horizon_parameters(SMALL) == matrices + gates + head


@pytest.mark.slow
def test_flops_of_products_are_those_that_torch_counts() -> None:
    model = GPT(SMALL, REFERENCE)
    model.init_weights(0)
    ids = torch.zeros(1, 64, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        nats, _ = model.loss(model(ids), ids)
        nats.backward()
    attention = 12 * 2 * 16 * (16 + 64)  # the counter does not see into attention kernels on a CPU
    smear_gate = 6 * 12  # while ours leaves out a dozen weights
    counted = counter.get_total_flops() / 64 - smear_gate
    assert counted + attention == flops_per_token(SMALL)
