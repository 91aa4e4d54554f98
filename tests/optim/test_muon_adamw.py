"""The whole optimiser: learns, resumes exactly, refuses states of other models, covers every parameter once."""

from dataclasses import replace

import pytest
import torch

from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.optim import kernels
from nanochat.optim.groups import RULES, LearningRates, rule_of
from nanochat.optim.muon_adamw import MuonAdamW, MuonOptions
from nanochat.processes import Processes

CONFIG = GPTConfig(max_seq_len=16, vocab_size=64, n_layer=3, n_head=2, n_kv_head=1, head_dim=8, n_embd=16)
RATES = LearningRates(
    matrix=0.02, embedding=0.3, value_embedding=0.15, head=0.01, scalar=0.1, weight_decay=0.1
)


def make(config: GPTConfig = CONFIG) -> tuple[GPT, MuonAdamW]:
    model = GPT(config, REFERENCE)
    model.init_weights(0)
    return model, MuonAdamW(model.named_parameters(), RATES, MuonOptions(), processes=Processes())


def steps(model: GPT, optimizer: MuonAdamW, numbers: range) -> list[float]:
    losses = []
    for number in numbers:
        ids = torch.randint(0, 64, (4, 16), generator=torch.Generator().manual_seed(number % 4))
        nats, count = model.loss(model(ids), ids)
        (nats / count).backward()
        optimizer.step(lr=1.0, momentum=0.9, weight_decay=1.0)
        optimizer.zero_grad()
        losses.append((nats / count).item())
    return losses


def test_learns() -> None:
    losses = steps(*make(), range(60))
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("heads", ["rows", "columns"])
def test_per_head_equals_each_head_by_itself(heads: str) -> None:
    optimizer = MuonAdamW([], RATES, MuonOptions(head_dim=4), processes=Processes())
    matrices = torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(0))
    rule = next(rule for rule in RULES if rule.heads == heads)
    together = optimizer._orthogonalise(matrices, rule)
    for head in (slice(0, 4), slice(4, 8), slice(8, 12)):
        index = (slice(None), head) if heads == "rows" else (slice(None), slice(None), head)
        alone = kernels.orthogonalise(matrices[index], 5, torch.float32)
        torch.testing.assert_close(together[index], alone)


def test_a_restored_run_continues_bit_for_bit() -> None:
    model, optimizer = make()
    steps(model, optimizer, range(5))
    saved = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.utils._pytree.tree_map(
        lambda x: x.clone() if torch.is_tensor(x) else x, optimizer.state_dict()
    )
    steps(model, optimizer, range(5, 9))
    other, other_optimizer = make()
    other.load_state_dict(saved)
    other_optimizer.load_state_dict(state)
    steps(other, other_optimizer, range(5, 9))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_state_of_another_model_is_refused() -> None:
    _, optimizer = make()
    _, wider = make(replace(CONFIG, n_embd=32))
    _, deeper = make(replace(CONFIG, n_layer=4))
    with pytest.raises(ValueError, match="has shape"):
        optimizer.load_state_dict(wider.state_dict())
    with pytest.raises(ValueError, match="belongs to another model"):
        optimizer.load_state_dict(deeper.state_dict())


def test_every_parameter_has_one_rule_and_every_rule_a_parameter() -> None:
    model, _ = make()
    assert {rule_of(name) for name, _ in model.named_parameters()} == set(RULES)
    with pytest.raises(KeyError, match="no optimiser rule"):
        rule_of("unheard.of")
