"""A frozen copy of a model, arranged for inference: fewer and larger operations, and a cache of keys and values.

The training model (nanochat.model.gpt) is the definition; tests hold this copy equal to it for every switch of the
configuration. Arranged differently, without changing a result beyond rounding:

- q, k, v and the value gate are one product, and weights are cast and packed once;
- a token's normalised embedding and its smear gate are looked up, so the smear of the previous token needs that
  token's id and no state in the cache;
- q and k are normalised together before the rotation, which preserves norms; their gain is part of attention's scale;
- learned scalars are Python numbers.

Shapes: N rows of a batch, T tokens, C model width, H query heads, K key heads, J = H + K, D head channels, E = K·D,
R cache rows, S slots, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.layers import Block, norm
from nanochat.model.loss import softcapped
from nanochat.model.matmul import FrozenLinear


class RowCache:
    """Keys and values of R rows: two tensors per layer, in the layout that attention reads.

    A row's token at position p is in slot p. A slot beyond a row's own position is never visible, so nothing needs
    clearing. The last slot takes what padding writes; the last row is scratch for `swap`.
    """

    def __init__(self, config: GPTConfig, rows: int, slots: int, device: torch.device, dtype: torch.dtype):
        shape = (rows + 1, config.n_kv_head, slots + 1, config.head_dim)
        self.slots = slots
        self.k_RKSD = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layer)]
        self.v_RKSD = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layer)]
        self._scratch = rows

    def copy(self, source: int, destination: int, length: int) -> None:
        """Copy the first `length` tokens of row `source` over those of row `destination`."""
        for tensor in (*self.k_RKSD, *self.v_RKSD):
            tensor[destination, :, :length] = tensor[source, :, :length]

    def swap(self, a: int, b: int, length: int) -> None:
        """Exchange the first `length` tokens of two rows."""
        self.copy(a, self._scratch, length)
        self.copy(b, a, length)
        self.copy(self._scratch, b, length)


def row_bytes(config: GPTConfig, slots: int, dtype: torch.dtype) -> int:
    """Memory of one cache row of `slots` tokens, in bytes."""
    return 2 * config.n_layer * config.n_kv_head * config.head_dim * (slots + 1) * dtype.itemsize


@dataclass(frozen=True)
class _Layer:
    """One block: its products, and its learned scalars as numbers."""

    qkv: FrozenLinear
    out: FrozenLinear
    up: FrozenLinear
    down: FrozenLinear
    value_table_VE: Tensor | None
    """Value embeddings, in layers that have them."""
    window: int
    stream_scale: float
    embedding_scale: float


@dataclass(frozen=True)
class _Places:
    """Where the tokens of a batch belong: the same for all layers."""

    cache: RowCache
    rows: slice | Tensor
    row_N1: Tensor
    slot_NT: Tensor
    slots: int
    cos_NT1D: Tensor
    sin_NT1D: Tensor
    masks: dict[int, Tensor]
    """By window: what to add to attention's scores, (N, 1, T, slots)."""


class Decoder:
    """The frozen copy. It may share memory with the model: after the model's weights change, make another one.

    `model`: in eval mode, on its device. Its weights are cast to its compute dtype here; a model trained in fp8
    decodes in that dtype.
    """

    def __init__(self, model: GPT):
        config, dtype = model.config, model.compute_dtype
        self.config, self.dtype = config, dtype
        self.device = model.head.weight.device
        with torch.inference_mode():
            self._table_VC = norm(model.embedding.weight.to(dtype))
            self._smear_V1 = self._smear_gates(model)
            self._layers = [self._layer(model, block, at) for at, block in enumerate(model.layers())]
            self._head = model.backend.frozen(model.head.weight[: config.vocab_size].to(dtype))
            self._backout = model.backout_scale.item() if config.backout else 0.0
            # cos for both halves of a head, and sin with the sign that each half takes
            self._cos_SD = torch.cat((model.cos, model.cos), dim=-1).to(dtype)
            self._sin_SD = torch.cat((-model.sin, model.sin), dim=-1).to(dtype)
        self._attention_scale = config.qk_gain**2 / config.head_dim**0.5

    def _smear_gates(self, model: GPT) -> Tensor | None:
        """For every token, the share of the previous embedding that it adds; None for a model without smear."""
        if not self.config.smear:
            return None
        weight = model.smear_gate.weight.to(self.dtype)
        gate_V1 = torch.sigmoid(F.linear(self._table_VC[:, : weight.size(1)], weight))
        return model.smear_scale.to(self.dtype) * gate_V1

    def _layer(self, model: GPT, block: Block, layer: int) -> _Layer:
        config, attention = self.config, block.attention

        def frozen(weight_OI: Tensor) -> FrozenLinear:
            return model.backend.frozen(weight_OI.to(self.dtype))

        inputs: list[Tensor] = [attention.q.weight, attention.k.weight, attention.v.weight]
        value_table_VE = None
        if attention.value_gate is not None:
            gate = attention.value_gate.weight  # reads only a token's first channels: zeros for the others
            inputs.append(F.pad(gate, (0, config.n_embd - gate.size(1))))
            value_table_VE = model.value_embeddings.get_parameter(f"{layer}.weight").to(self.dtype)
        scales = (1.0, 0.0)
        if config.residual_scales:
            scales = (model.residual_scale[layer].item(), model.embedding_scale[layer].item())
        return _Layer(
            frozen(torch.cat(inputs)),
            frozen(attention.out.weight),
            frozen(block.mlp.up.weight),
            frozen(block.mlp.down.weight),
            value_table_VE,
            attention.window,
            *scales,
        )

    def hidden(
        self,
        ids_NT: Tensor,
        previous_NT: Tensor,
        positions_NT: Tensor,
        cache: RowCache,
        rows: slice | Tensor,
        slots: int,
    ) -> Tensor:
        """Hidden states (N, T, C) of new tokens, whose keys and values go into the cache.

        Args:
            previous_NT: the id before each token; any id where the position is 0.
            positions_NT: each token's place in its row, -1 for padding.
            rows: the cache row of each batch row: a slice (read in place) or int64 indices (N,) (copied).
            slots: how many slots attention reads; more than every position here.
        """
        places = self._places(positions_NT, cache, rows, slots)
        x_NTC = self._table_VC[ids_NT]
        if self._smear_V1 is not None:
            gate_NT1 = self._smear_V1[ids_NT] * (positions_NT > 0)[..., None]
            x_NTC = torch.addcmul(x_NTC, gate_NT1, self._table_VC[previous_NT])
        x0_NTC = middle_NTC = x_NTC
        for at, layer in enumerate(self._layers):
            if at == self.config.n_layer // 2:
                middle_NTC = x_NTC
            if self.config.residual_scales:
                x_NTC = torch.add(x_NTC * layer.stream_scale, x0_NTC, alpha=layer.embedding_scale)
            x_NTC = x_NTC + self._attention(at, norm(x_NTC), ids_NT, places)
            x_NTC = x_NTC + layer.down(F.relu(layer.up(norm(x_NTC))).square_())
        if self.config.backout:
            x_NTC = torch.add(x_NTC, middle_NTC, alpha=-self._backout)
        return norm(x_NTC)

    def _places(self, positions_NT: Tensor, cache: RowCache, rows: slice | Tensor, slots: int) -> _Places:
        place_NT = positions_NT.clamp_min(0)
        row_N = torch.arange(rows.start, rows.stop, device=self.device) if isinstance(rows, slice) else rows
        distance_NTS = place_NT[..., None] - torch.arange(slots, device=self.device)

        def mask(window: int) -> Tensor:
            hidden_NTS = (distance_NTS < 0) | (distance_NTS >= window)
            zeros_NTS = torch.zeros(hidden_NTS.shape, device=self.device, dtype=self.dtype)
            return zeros_NTS.masked_fill_(hidden_NTS, float("-inf"))[:, None]

        return _Places(
            cache,
            rows,
            row_N[:, None],
            torch.where(positions_NT < 0, cache.slots, positions_NT),
            slots,
            self._cos_SD[place_NT][:, :, None],
            self._sin_SD[place_NT][:, :, None],
            {window: mask(window) for window in {layer.window for layer in self._layers}},
        )

    def _attention(self, at: int, x_NTC: Tensor, ids_NT: Tensor, places: _Places) -> Tensor:
        """Layer `at`'s attention of new tokens to themselves and to the cache, (N, T, C)."""
        layer, H, K, D = self._layers[at], self.config.n_head, self.config.n_kv_head, self.config.head_dim
        J = H + K
        qkv_NTO = layer.qkv(x_NTC)
        qk_NTJD = norm(qkv_NTO[..., : J * D].unflatten(-1, (J, D)))
        qk_NTJD = torch.addcmul(qk_NTJD * places.cos_NT1D, qk_NTJD.roll(D // 2, dims=-1), places.sin_NT1D)
        v_NTKD = qkv_NTO[..., J * D : (J + K) * D].unflatten(-1, (K, D))
        if layer.value_table_VE is not None:
            gate_NTK1 = 3 * torch.sigmoid(qkv_NTO[..., (J + K) * D :])[..., None]
            v_NTKD = torch.addcmul(v_NTKD, gate_NTK1, layer.value_table_VE[ids_NT].unflatten(-1, (K, D)))
        k_RKSD, v_RKSD = places.cache.k_RKSD[at], places.cache.v_RKSD[at]
        k_RKSD[places.row_N1, :, places.slot_NT] = qk_NTJD[:, :, H:]
        v_RKSD[places.row_N1, :, places.slot_NT] = v_NTKD
        y_NHTD = F.scaled_dot_product_attention(
            qk_NTJD[:, :, :H].transpose(1, 2),
            k_RKSD[places.rows, :, : places.slots],
            v_RKSD[places.rows, :, : places.slots],
            attn_mask=places.masks[layer.window],
            scale=self._attention_scale,
            enable_gqa=H != K,
        )
        return layer.out(y_NHTD.transpose(1, 2).flatten(-2))

    def logits(self, hidden: Tensor) -> Tensor:
        """Soft-capped logits (..., V), fp32."""
        return softcapped(self._head(hidden).float(), self.config.softcap)
