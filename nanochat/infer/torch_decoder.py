"""The decoder in PyTorch, for every device.

Shapes: N rows of a batch, T tokens, C model width, H query heads, K key heads, J = H + K, D head channels,
O outputs of qkv, R cache rows, S slots, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.infer.cache import RowCache
from nanochat.infer.decoder import MultiStepDecoder, Span
from nanochat.infer.frozen import WeightsName, freeze, rounded
from nanochat.infer.sampler import SamplingParams, log_sums, sample
from nanochat.model.gpt import GPT
from nanochat.model.loss import softcapped
from nanochat.model.matmul import FrozenLinear
from nanochat.model.operators import norm

_SLOT_BLOCK = 64
"""Cache slots are read in multiples of this, so that shapes rarely change and little is read unnecessarily."""


@dataclass(frozen=True)
class _Products:
    """The products of one block."""

    qkv: FrozenLinear
    out: FrozenLinear
    up: FrozenLinear
    down: FrozenLinear


@dataclass(frozen=True)
class _Places:
    """Where the tokens of a batch belong: the same for all layers."""

    rows: slice | Tensor
    row_N1: Tensor
    slot_NT: Tensor
    slots: int
    cos_NT1D: Tensor
    sin_NT1D: Tensor
    masks: dict[int, Tensor]
    """By window: what to add to attention's scores, (N, 1, T, slots)."""


class TorchDecoder:
    """Runs a frozen copy of a model, in eval mode on its device, by the products of the model's backend.

    `weights`: matrices, and with bf16 their inputs, are rounded as the compiled decoder does, in the compute dtype.
    `own_weights`: share none with the model.
    """

    multi_step: MultiStepDecoder | None = None
    torch_threads: int | None = None

    def __init__(
        self, model: GPT, cache: RowCache, weights: WeightsName = "fp32", *, own_weights: bool = False
    ):
        self.config, self.dtype, self.cache = model.config, model.compute_dtype, cache
        self.device = model.head.weight.device
        self._weights = freeze(model, self.dtype, copy=own_weights)

        def frozen(weight_OI: Tensor) -> FrozenLinear:
            product = model.backend.frozen(rounded(weight_OI, weights))
            return product if weights != "bf16" else lambda x: product(rounded(x, "bf16"))

        with torch.inference_mode():
            self._layers = [
                _Products(frozen(w.qkv_OI), frozen(w.out_OI), frozen(w.up_OI), frozen(w.down_OI))
                for w in self._weights.layers
            ]
            self._head = frozen(self._weights.head_VC)

    def wake(self) -> None:
        """See Decoder."""

    def run(self, spans: Sequence[Span]) -> Tensor:
        """See Decoder. Single tokens run as one batch that reads the cache in place; longer spans run padded."""
        single = sorted(
            (at for at, span in enumerate(spans) if len(span.tokens) == 1), key=lambda at: spans[at].row
        )
        several = [at for at, span in enumerate(spans) if len(span.tokens) > 1]
        if single == list(range(len(spans))):
            return self._run_single(spans)
        hidden_NC = torch.empty(len(spans), self.config.n_embd, device=self.device, dtype=self.dtype)
        if single:
            hidden_NC[single] = self._run_single([spans[at] for at in single])
        if several:
            hidden_NTC = self._run_several([spans[at] for at in several])
            last_N = torch.tensor([len(spans[at].tokens) - 1 for at in several], device=self.device)
            hidden_NC[several] = hidden_NTC[torch.arange(len(several), device=self.device), last_N]
        return hidden_NC

    def hidden_of(self, spans: Sequence[Span], wanted: Sequence[int]) -> Tensor:
        """See Decoder. The spans run padded to the longest."""
        hidden_NTC = self._run_several(spans)
        lengths_N1 = torch.tensor([[len(span.tokens)] for span in spans], device=self.device)
        hidden_TC = hidden_NTC[torch.arange(hidden_NTC.size(1), device=self.device) < lengths_N1]
        return hidden_TC[torch.tensor(wanted, device=self.device)]

    def _run_single(self, spans: Sequence[Span]) -> Tensor:
        """Spans of one token each, by row. Rows between them are padding."""
        rows = spans[-1].row + 1
        columns = [(0, 0, -1)] * rows  # id, previous id, position
        for span in spans:
            columns[span.row] = (span.tokens[0], span.previous, span.start)
        ids_N1, previous_N1, positions_N1 = torch.tensor(columns, device=self.device).T[..., None]
        hidden_NC = self.hidden(
            ids_N1, previous_N1, positions_N1, slice(0, rows), self._slots(spans)
        ).squeeze(1)
        return rows_of(hidden_NC, spans)

    def _run_several(self, spans: Sequence[Span]) -> Tensor:
        """Hidden states (N, T, C) of spans padded to the longest."""
        longest = max(len(span.tokens) for span in spans)

        def padded(values: Iterable[int], fill: int) -> list[int]:
            listed = list(values)
            return listed + [fill] * (longest - len(listed))

        ids = [padded(span.tokens, 0) for span in spans]
        previous = [padded([span.previous, *span.tokens[:-1]], 0) for span in spans]
        positions = [padded(range(span.start, span.stop), -1) for span in spans]
        ids_NT, previous_NT, positions_NT = torch.tensor([ids, previous, positions], device=self.device)
        rows_N = torch.tensor([span.row for span in spans], device=self.device)
        return self.hidden(ids_NT, previous_NT, positions_NT, rows_N, self._slots(spans))

    def _slots(self, spans: Sequence[Span]) -> int:
        needed = max(span.stop for span in spans)
        return min(-(-needed // _SLOT_BLOCK) * _SLOT_BLOCK, self.cache.slots)

    def hidden(
        self,
        ids_NT: Tensor,
        previous_NT: Tensor,
        positions_NT: Tensor,
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
        w, places = self._weights, self._places(positions_NT, rows, slots)
        x_NTC = w.table_VC[ids_NT]
        if w.smear_V1 is not None:
            gate_NT1 = w.smear_V1[ids_NT] * (positions_NT > 0)[..., None]
            x_NTC = torch.addcmul(x_NTC, gate_NT1, w.table_VC[previous_NT])
        x0_NTC = middle_NTC = x_NTC
        for at, (weights, layer) in enumerate(zip(w.layers, self._layers, strict=True)):
            if at == self.config.middle_layer:
                middle_NTC = x_NTC
            if self.config.residual_scales:
                x_NTC = torch.addcmul(x_NTC * weights.stream_scale, x0_NTC, weights.embedding_scale)
            x_NTC = x_NTC + self._attention(at, norm(x_NTC), ids_NT, places)
            x_NTC = x_NTC + layer.down(F.relu(layer.up(norm(x_NTC))).square_())
        if self.config.middle_layer == self.config.n_layer:
            middle_NTC = x_NTC
        if self.config.backout:
            x_NTC = torch.addcmul(x_NTC, middle_NTC, w.backout, value=-1)
        return norm(x_NTC)

    def _places(self, positions_NT: Tensor, rows: slice | Tensor, slots: int) -> _Places:
        place_NT = positions_NT.clamp_min(0)
        row_N = torch.arange(rows.start, rows.stop, device=self.device) if isinstance(rows, slice) else rows
        distance_NTS = place_NT[..., None] - torch.arange(slots, device=self.device)

        def mask(window: int) -> Tensor:
            hidden_NTS = (distance_NTS < 0) | (distance_NTS >= window)
            zeros_NTS = torch.zeros(hidden_NTS.shape, device=self.device, dtype=self.dtype)
            return zeros_NTS.masked_fill_(hidden_NTS, float("-inf"))[:, None]

        return _Places(
            rows,
            row_N[:, None],
            torch.where(positions_NT < 0, self.cache.slots, positions_NT),
            slots,
            self._weights.cos_SD[place_NT][:, :, None],
            self._weights.sin_SD[place_NT][:, :, None],
            {window: mask(window) for window in {weights.window for weights in self._weights.layers}},
        )

    def _attention(self, at: int, x_NTC: Tensor, ids_NT: Tensor, places: _Places) -> Tensor:
        """Layer `at`'s attention of new tokens to themselves and to the cache, (N, T, C)."""
        weights, layer = self._weights.layers[at], self._layers[at]
        H, K, D = self.config.n_head, self.config.n_kv_head, self.config.head_dim
        J = H + K
        qkv_NTO = layer.qkv(x_NTC)
        qk_NTJD = norm(qkv_NTO[..., : J * D].unflatten(-1, (J, D)))
        qk_NTJD = torch.addcmul(qk_NTJD * places.cos_NT1D, qk_NTJD.roll(D // 2, dims=-1), places.sin_NT1D)
        v_NTKD = qkv_NTO[..., J * D : (J + K) * D].unflatten(-1, (K, D))
        if weights.value_table_VE is not None:
            gate_NTK1 = self.config.gate_scale * torch.sigmoid(qkv_NTO[..., (J + K) * D :])[..., None]
            v_NTKD = torch.addcmul(v_NTKD, gate_NTK1, weights.value_table_VE[ids_NT].unflatten(-1, (K, D)))
        k_RKSD, v_RKSD = self.cache.k_RKSD[at], self.cache.v_RKSD[at]
        k_RKSD[places.row_N1, :, places.slot_NT] = qk_NTJD[:, :, H:]
        v_RKSD[places.row_N1, :, places.slot_NT] = v_NTKD
        y_NHTD = F.scaled_dot_product_attention(
            qk_NTJD[:, :, :H].transpose(1, 2),
            k_RKSD[places.rows, :, : places.slots],
            v_RKSD[places.rows, :, : places.slots],
            attn_mask=places.masks[weights.window],
            scale=self._weights.attention_scale,
            enable_gqa=H != K,
        )
        return layer.out(y_NHTD.transpose(1, 2).flatten(-2))

    def logits(self, hidden_NC: Tensor) -> Tensor:
        """Soft-capped logits, fp32; (N, C) → (N, V)."""
        return softcapped(self._head(hidden_NC).float(), self.config.softcap)

    def choose(
        self, logits_NV: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float]
    ) -> Tensor:
        """See Decoder."""
        return sample(logits_NV, params, uniforms)

    def log_sums(self, logits_NV: Tensor) -> Tensor:
        """See Decoder."""
        return log_sums(logits_NV)


def rows_of(hidden_NC: Tensor, spans: Sequence[Span]) -> Tensor:
    """The spans' rows of all rows' hidden states; spans by row."""
    if spans[-1].row == len(spans) - 1:
        return hidden_NC[: len(spans)]  # indices would have to be copied to a GPU
    return hidden_NC[[span.row for span in spans]]
