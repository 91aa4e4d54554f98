"""The KV cache: keys, values and smear state of decoding rows.

Each row has its own positions: its token at position p is in slot p. L layers, R rows, S slots, K key heads,
D channels of a head, C model width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.model.gpt_config import GPTConfig


@dataclass
class KVCache:
    """All rows, or a view on some of them (see `rows`)."""

    k_LRSKD: Tensor
    v_LRSKD: Tensor
    positions_RS: Tensor
    """Position held by each slot, -1 if the slot is empty."""
    last_RC: Tensor
    """Smear state: the embedding of each row's latest token."""

    @classmethod
    def empty(
        cls, config: GPTConfig, rows: int, length: int, device: torch.device, dtype: torch.dtype
    ) -> "KVCache":
        """Room for `rows` sequences of up to `length` tokens. Raises ValueError beyond the model's context."""
        if length > config.max_seq_len:
            raise ValueError(
                f"a cache of {length} tokens is longer than the model's context of {config.max_seq_len}"
            )
        shape = (config.n_layer, rows, length, config.n_kv_head, config.head_dim)
        return cls(
            torch.zeros(shape, device=device, dtype=dtype),
            torch.zeros(shape, device=device, dtype=dtype),
            torch.full((rows, length), -1, device=device),
            torch.zeros(rows, config.n_embd, device=device, dtype=dtype),
        )

    @property
    def length(self) -> int:
        """Number of slots per row."""
        return self.positions_RS.size(1)

    def rows(self, start: int, stop: int, length: int | None = None) -> "KVCache":
        """A view on rows start … stop-1 and their first `length` slots (default: all)."""
        slots = slice(0, length)
        return KVCache(
            self.k_LRSKD[:, start:stop, slots],
            self.v_LRSKD[:, start:stop, slots],
            self.positions_RS[start:stop, slots],
            self.last_RC[start:stop],
        )

    def move(self, source: int, destination: int) -> None:
        """Copy row `source` over row `destination`, so that running rows stay contiguous."""
        for state in self._states():
            state[destination] = state[source]

    def _states(self) -> Iterator[Tensor]:
        yield self.k_LRSKD.transpose(0, 1)
        yield self.v_LRSKD.transpose(0, 1)
        yield self.positions_RS
        yield self.last_RC

    def write(
        self, layer: int, k_BTKD: Tensor, v_BTKD: Tensor, positions_BT: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Store new tokens at their positions (-1 is padding and dropped).

        Returns the layer's keys and values (R, S, K, D) and all positions (R, S).
        """
        row_N, column_N = (positions_BT >= 0).nonzero(as_tuple=True)
        slot_N = positions_BT[row_N, column_N]
        self.k_LRSKD[layer][row_N, slot_N] = k_BTKD[row_N, column_N].to(self.k_LRSKD.dtype)
        self.v_LRSKD[layer][row_N, slot_N] = v_BTKD[row_N, column_N].to(self.v_LRSKD.dtype)
        self.positions_RS[row_N, slot_N] = slot_N
        return self.k_LRSKD[layer], self.v_LRSKD[layer], self.positions_RS

    def previous(self, x_BTC: Tensor, positions_BT: Tensor) -> Tensor:
        """The embedding before each token: its left neighbour in this call, or the row's remembered last one.

        Zero at position 0. Remembers each row's newest embedding for the next call.
        """
        before_BTC = torch.cat((self.last_RC[:, None].to(x_BTC.dtype), x_BTC[:, :-1]), dim=1)
        before_BTC = torch.where((positions_BT > 0)[..., None], before_BTC, 0)
        count_B = (positions_BT >= 0).sum(dim=1)
        newest_BC = x_BTC[torch.arange(x_BTC.size(0), device=x_BTC.device), (count_B - 1).clamp_min(0)]
        self.last_RC.copy_(
            torch.where((count_B > 0)[:, None], newest_BC.to(self.last_RC.dtype), self.last_RC)
        )
        return before_BTC
