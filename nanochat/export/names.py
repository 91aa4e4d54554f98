"""The tensors of a model under three sets of names: ours, transformers', and those of the reference (and of mlx-lm).

Both others rotate the halves of a head the other way round. To exchange the halves of q's and k's rows is exactly that.
"""

import re
from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from nanochat.model.gpt_config import GPTConfig

Naming = Literal["ours", "transformers", "reference"]

_NAMES: tuple[tuple[str, str, str], ...] = (
    ("embedding.weight", "model.embed_tokens.weight", "transformer.wte.weight"),
    ("head.weight", "lm_head.weight", "lm_head.weight"),
    *(
        (f"blocks.N.{ours}.weight", f"model.layers.N.{stock}.weight", f"transformer.h.N.{reference}.weight")
        for ours, stock, reference in (
            ("attention.q", "self_attn.q_proj", "attn.c_q"),
            ("attention.k", "self_attn.k_proj", "attn.c_k"),
            ("attention.v", "self_attn.v_proj", "attn.c_v"),
            ("attention.out", "self_attn.o_proj", "attn.c_proj"),
            ("attention.value_gate", "self_attn.value_gate", "attn.ve_gate"),
            ("mlp.up", "mlp.fc1", "mlp.c_fc"),
            ("mlp.down", "mlp.fc2", "mlp.c_proj"),
        )
    ),
    ("value_embeddings.N.weight", "model.value_embeddings.N.weight", "value_embeds.N.weight"),
    ("residual_scale", "model.residual_scale", "resid_lambdas"),
    ("embedding_scale", "model.embedding_scale", "x0_lambdas"),
    ("smear_gate.weight", "model.smear_gate.weight", "smear_gate.weight"),
    ("smear_scale", "model.smear_scale", "smear_lambda"),
    ("backout_scale", "model.backout_scale", "backout_lambda"),
)
"""N stands for the number of a layer."""

_COLUMN: dict[Naming, int] = {"ours": 0, "transformers": 1, "reference": 2}
_TABLES = re.compile(r"(embedding|head|value_embeddings\.\d+)\.weight")
_ROTATED = re.compile(r"blocks\.\d+\.attention\.[qk]\.weight")


def renamed(state: Mapping[str, Tensor], source: Naming, target: Naming) -> dict[str, Tensor]:
    """The same tensors by their other names. Raises ValueError for a name that is not in the table."""
    known = {row[_COLUMN[source]]: row[_COLUMN[target]] for row in _NAMES}
    result = {}
    for name, tensor in state.items():
        number = re.search(r"(?<=\.)\d+(?=\.)", name)
        general = name if number is None else f"{name[: number.start()]}N{name[number.end() :]}"
        if general not in known:
            raise ValueError(
                f"a tensor has the unknown name {name!r}: no model that this version reads has it"
            )
        result[known[general].replace(".N.", f".{number[0]}." if number else ".N.")] = tensor
    return result


def turned(state: Mapping[str, Tensor], head_dim: int) -> dict[str, Tensor]:
    """Our tensors for the opposite rotation: the halves of each head of q and k exchanged. Its own inverse."""
    return {
        name: tensor.unflatten(0, (-1, 2, head_dim // 2)).flip(1).flatten(0, 2)
        if _ROTATED.fullmatch(name)
        else tensor
        for name, tensor in state.items()
    }


def cropped(state: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Our tensors without the rows that only fill the vocabulary up to a multiple: no token reads or writes them."""
    return {
        name: tensor[: config.vocab_size] if _TABLES.fullmatch(name) else tensor
        for name, tensor in state.items()
    }


def filled_up(state: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """`cropped` undone, with rows of zeros; rows that are there are kept."""
    return {
        name: F.pad(tensor, (0, 0, 0, max(0, config.padded_vocab_size - len(tensor))))
        if _TABLES.fullmatch(name) and tensor.ndim == 2
        else tensor
        for name, tensor in state.items()
    }
