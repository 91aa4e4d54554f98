"""What a model costs: parameters by group, FLOPs a token, bytes of memory."""

import torch

from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.optim.groups import parameters_by_group, rule_of


def meta_model(config: GPTConfig) -> GPT:
    """The model without memory behind it."""
    with torch.device("meta"):
        return GPT(config)


def parameter_counts(config: GPTConfig) -> dict[str, int]:
    """Parameters by optimiser group, in the groups' order."""
    return parameters_by_group(meta_model(config).named_parameters())


def horizon_parameters(config: GPTConfig) -> int:
    """What the training horizon is counted in: the transformer's matrices and the head."""
    counts = parameter_counts(config)
    return counts["matrices"] + counts.get("value gates", 0) + counts["head"]


def flops_per_token(config: GPTConfig) -> float:
    """Forward and backward, PaLM's way of counting (arXiv:2204.02311, appendix B).

    6 for each parameter that is multiplied, and 12 · heads · head_dim · visible positions a layer for attention.
    """
    multiplied = sum(p.numel() for name, p in meta_model(config).named_parameters() if _is_multiplied(name))
    visible = sum(min(config.window(layer), config.sequence_len) for layer in range(config.n_layer))
    return 6.0 * multiplied + 12.0 * config.n_head * config.head_dim * visible


def _is_multiplied(name: str) -> bool:
    return rule_of(name).algorithm == "muon" or name.startswith(("head", "smear_gate"))


# Floats kept for the backward pass by one token in one layer, in units of the model width, counted in layers.py: the
# mixed stream, two norms, q, k, v before and after rotation and norm, attention's output, and three of the MLP's width.
_SAVED_PER_LAYER = 16 + 3 * 4


def training_bytes(
    config: GPTConfig, device_tokens: int, world_size: int, compute_bytes: int, loss_chunk: int
) -> int:
    """An estimate of one device's memory while training on micro-batches of `device_tokens`."""
    counts = parameter_counts(config)
    muon = counts["matrices"] + counts.get("value gates", 0)
    total = sum(counts.values())
    weights_and_gradients = 8 * total
    moments = 4 * muon / world_size + 8 * (total - muon)
    activations = device_tokens * config.n_embd * compute_bytes * (_SAVED_PER_LAYER * config.n_layer + 8)
    loss = 3 * 4 * min(loss_chunk, device_tokens) * config.padded_vocab_size + 4 * counts["head"]
    return int(weights_and_gradients + moments + activations + loss)
