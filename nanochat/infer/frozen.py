"""A model's weights arranged for inference: fewer and larger products, and everything that can be looked up.

The training model (nanochat.model.gpt) is the definition; tests hold the decoders, which compute with these, equal to
it for every switch of the configuration. Arranged differently, without changing a result beyond rounding:

- q, k, v and the value gate are one product;
- a token's normalised embedding and its smear gate are looked up, so the smear of the previous token needs that
  token's id and no state in the cache;
- q and k are normalised before the rotation, which preserves norms; their gain is part of attention's scale;
- everything else is only cast to the compute dtype.

Shapes: C model width, O outputs and I inputs of a matrix, K key heads, D head channels, E = K·D, S positions,
V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.layers import Block
from nanochat.model.operators import norm

WeightsName = Literal["fp32", "bf16", "int8"]
"""How matrices are stored: as they are computed with; in bf16, their inputs too; or in int8 with a scale per output."""


@dataclass(frozen=True)
class FrozenLayer:
    """One block: its matrices and its learned scalars."""

    qkv_OI: Tensor
    """Queries, keys, values, and the value gates in layers that have value embeddings."""
    out_OI: Tensor
    up_OI: Tensor
    down_OI: Tensor
    value_table_VE: Tensor | None
    """Value embeddings, in layers that have them."""
    window: int
    stream_scale: Tensor
    embedding_scale: Tensor


@dataclass(frozen=True)
class FrozenWeights:
    """All weights, in one dtype. May share memory with the model: make it again after the model's weights change."""

    config: GPTConfig
    table_VC: Tensor
    """Normalised embeddings."""
    smear_V1: Tensor | None
    """For every token, the share of the previous embedding that it adds; None for a model without smear."""
    layers: tuple[FrozenLayer, ...]
    head_VC: Tensor
    cos_SD: Tensor
    """For both halves of a head."""
    sin_SD: Tensor
    """With the sign that each half takes."""
    attention_scale: float
    backout: Tensor

    def tensors(self) -> Iterator[Tensor]:
        """All of them, in an order that depends on the configuration alone."""
        for part in (self, *self.layers):
            yield from (value for value in vars(part).values() if isinstance(value, Tensor))


def freeze(model: GPT, dtype: torch.dtype, copy: bool = False) -> FrozenWeights:
    """The weights of a model, on its device, cast to `dtype`; a model trained in fp8 decodes in that dtype.

    `copy`: share no memory with the model.
    """
    config = model.config
    with torch.inference_mode():
        table_VC = norm(model.embedding.weight.to(dtype))
        smear_V1 = None
        if config.smear:
            weight = model.smear_gate.weight.to(dtype)
            gate_V1 = torch.sigmoid(F.linear(table_VC[:, : weight.size(1)], weight))
            smear_V1 = model.smear_scale.to(dtype) * gate_V1
        return FrozenWeights(
            config=config,
            table_VC=table_VC,
            smear_V1=smear_V1,
            layers=tuple(_layer(model, block, at, dtype, copy) for at, block in enumerate(model.layers())),
            head_VC=model.head.weight[: config.vocab_size].to(dtype, copy=copy),
            cos_SD=torch.cat((model.cos, model.cos), dim=-1).to(dtype),
            sin_SD=torch.cat((-model.sin, model.sin), dim=-1).to(dtype),
            attention_scale=config.qk_gain**2 / config.head_dim**0.5,
            backout=model.backout_scale[0].to(dtype, copy=copy) if config.backout else table_VC.new_zeros(()),
        )


def _layer(model: GPT, block: Block, layer: int, dtype: torch.dtype, copy: bool) -> FrozenLayer:
    config, attention = model.config, block.attention

    def cast(weight: Tensor) -> Tensor:
        return weight.to(dtype, copy=copy)

    inputs: list[Tensor] = [attention.q.weight, attention.k.weight, attention.v.weight]
    value_table_VE = None
    if attention.value_gate is not None:
        gate = attention.value_gate.weight  # reads only a token's first channels: zeros for the others
        inputs.append(F.pad(gate, (0, config.n_embd - gate.size(1))))
        value_table_VE = cast(model.value_embeddings.get_parameter(f"{layer}.weight"))
    scales = attention.q.weight.new_tensor((1.0, 0.0))
    if config.residual_scales:
        scales = torch.stack((model.residual_scale[layer], model.embedding_scale[layer]))
    return FrozenLayer(
        torch.cat(inputs).to(dtype),
        cast(attention.out.weight),
        cast(block.mlp.up.weight),
        cast(block.mlp.down.weight),
        value_table_VE,
        attention.window,
        *scales.to(dtype),
    )


def int8_scales(weight_OI: Tensor) -> Tensor:
    """What one step of the integers -127 … 127 means for each output, (O, 1)."""
    return (weight_OI.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-30)


def rounded(weight_OI: Tensor, weights: WeightsName) -> Tensor:
    """A matrix as it is after storing it, in its own dtype."""
    if weights == "bf16":
        return weight_OI.to(torch.bfloat16).to(weight_OI.dtype)
    if weights == "int8":
        scales_O1 = int8_scales(weight_OI)
        return (weight_OI / scales_O1).round() * scales_O1
    return weight_OI
