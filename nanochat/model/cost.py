"""The costs of a model: parameters by kind, FLOPs per token, bytes of memory."""

import torch

from nanochat.model.backend import REFERENCE, MemoryModel
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig


def meta_model(config: GPTConfig) -> GPT:
    """The model on the meta device: shapes without memory."""
    with torch.device("meta"):
        return GPT(config, REFERENCE)


# By the first part of a parameter's name; parameters not named here are a few scalars and a narrow gate.
_KINDS = {
    "embedding": "embedding",
    "value_embeddings": "value embeddings",
    "blocks": "matrices",
    "head": "head",
}


def parameter_counts(config: GPTConfig) -> dict[str, int]:
    """Parameters by kind: embedding, value embeddings, matrices (all in the blocks), head, scalars."""
    counts = dict.fromkeys((*_KINDS.values(), "scalars"), 0)
    for name, parameter in meta_model(config).named_parameters():
        counts[_KINDS.get(name.split(".")[0], "scalars")] += parameter.numel()
    return counts


def horizon_parameters(config: GPTConfig) -> int:
    """The parameters that the training horizon is proportional to: the transformer's matrices and the head."""
    counts = parameter_counts(config)
    return counts["matrices"] + counts["head"]


def flops_per_token(config: GPTConfig) -> float:
    """FLOPs of forward and backward per token, counted as in PaLM (arXiv:2204.02311, appendix B).

    6 per parameter in a matrix product, plus 12 · heads · head_dim · visible positions per layer for attention.
    """
    multiplied = horizon_parameters(config)
    visible = sum(config.window(layer) for layer in range(config.n_layer))
    return 6.0 * multiplied + 12.0 * config.n_head * config.head_dim * visible


# Floats kept for the backward pass by one token in one layer, in units of the model width. Eager, counted in layers.py:
# the mixed stream, two norms, q, k, v before and after rotation and norm, attention's output, three of the MLP's width.
# Compiled blocks keep less: what was measured on a GPU (docs/log.md), between 17 and 18.
_SAVED_PER_LAYER = {"eager": 16 + 3 * 4, "compiled": 18}

# Eager code keeps three fp32 tensors of a chunk's logits, compiled code the logits and their gradient in bf16.
_BYTES_PER_LOGIT = {"eager": 3 * 4, "compiled": 2 * 2}


def training_bytes(config: GPTConfig, device_tokens: int, world_size: int, memory: MemoryModel) -> int:
    """Estimated bytes of one device's memory while training on micro-batches of `device_tokens` tokens."""
    counts = parameter_counts(config)
    total = sum(counts.values())
    weights_and_gradients = 8 * total
    moments = 4 * counts["matrices"] / world_size + 8 * (total - counts["matrices"])
    saved = _SAVED_PER_LAYER[memory.blocks] * config.n_layer + 8
    activations = device_tokens * config.n_embd * memory.compute_bytes * saved
    logits = min(memory.loss_chunk, device_tokens) * config.padded_vocab_size
    loss = _BYTES_PER_LOGIT[memory.blocks] * logits + 4 * counts["head"]
    return int(weights_and_gradients + moments + activations + loss)
