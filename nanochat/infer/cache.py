"""The cache of keys and values.

Shapes: R rows, K key heads, S slots, D head channels.
"""

import torch

from nanochat.model.gpt_config import GPTConfig


class RowCache:
    """Keys and values of R rows: two tensors per layer, in the layout that attention reads.

    A row's token at position p is in slot p. A slot beyond a row's own position is never visible, so nothing needs
    clearing. The last slot takes what padding writes.
    """

    def __init__(self, config: GPTConfig, rows: int, slots: int, device: torch.device, dtype: torch.dtype):
        shape = (2 * config.n_layer, rows, config.n_kv_head, slots + 1, config.head_dim)
        self.slots = slots
        # One tensor, so that a row moves in one operation.
        self._all = torch.zeros(shape, device=device, dtype=dtype)
        self.k_RKSD = list(self._all[: config.n_layer])
        self.v_RKSD = list(self._all[config.n_layer :])

    def copy(self, source: int, destination: int, length: int) -> None:
        """Copy the first `length` tokens of row `source` over those of row `destination`."""
        self._all[:, destination, :, :length] = self._all[:, source, :, :length]

    def swap(self, a: int, b: int, length: int) -> None:
        """Exchange the first `length` tokens of two rows."""
        kept = self._all[:, a, :, :length].clone()
        self.copy(b, a, length)
        self._all[:, b, :, :length] = kept


def row_bytes(config: GPTConfig, slots: int, dtype: torch.dtype) -> int:
    """Memory of one cache row of `slots` tokens, in bytes."""
    return 2 * config.n_layer * config.n_kv_head * config.head_dim * (slots + 1) * dtype.itemsize
