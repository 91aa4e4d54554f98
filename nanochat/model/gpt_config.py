"""The shape of a model, and switches for its parts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GPTConfig:
    """Everything that decides a model's parameters and arithmetic. Raises ValueError for sizes that do not fit.

    Each switch removes one part for an experiment; by default all parts are on.
    """

    max_seq_len: int = 2048
    """Context length in tokens."""
    vocab_size: int = 32_768
    n_layer: int = 12
    n_head: int = 6
    n_kv_head: int = 6
    """Heads of keys and values; fewer than n_head is grouped-query attention (arXiv:2305.13245)."""
    head_dim: int = 128
    n_embd: int = 768
    window_pattern: str = "SSSL"
    """Tiled over the layers: S sees `short_window` positions, L the whole context; the last layer is always L."""
    short_window: int | None = None
    """None: a quarter of the context."""
    mlp_ratio: int = 4
    rope_base: float = 100_000.0
    qk_gain: float = 1.2
    """Sharpens attention after QK-norm; 1.0 leaves the norm alone."""
    softcap: float = 15.0
    """Logits are softcap * tanh(x / softcap) (Gemma 2, arXiv:2408.00118); 0 turns it off."""
    value_embeddings: bool = True
    """Token embeddings added to v in alternate layers through a gate (after arXiv:2410.17897)."""
    gate_channels: int = 12
    """The gate of the value embeddings reads this number of the stream's first channels."""
    gate_scale: float = 3.0
    """The gate is this times a sigmoid."""
    residual_scales: bool = True
    """Learned scales of the residual stream and of the skip from the embedding, one pair a layer."""
    smear: bool = True
    """Adds the previous token's embedding through a learned gate."""
    smear_channels: int = 12
    """The gate of the smear reads this number of the embedding's first channels."""
    backout: bool = True
    """Subtracts a learned share of the residual stream at `middle_layer` before the last norm."""
    backout_layer: int | None = None
    """The stream before this layer, counted from 0, is subtracted; None: n_layer // 2."""

    def __post_init__(self) -> None:
        sizes = ("max_seq_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "head_dim", "n_embd")
        for name in (*sizes, "gate_channels", "smear_channels", "short_window"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head {self.n_head} is not divisible by n_kv_head {self.n_kv_head}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary embeddings, not {self.head_dim}")
        if not self.window_pattern or set(self.window_pattern) - set("SL"):
            raise ValueError(f"window_pattern is a string of S and L, not {self.window_pattern!r}")
        if not 0 <= self.middle_layer <= self.n_layer:
            raise ValueError(f"backout_layer must be from 0 to n_layer, not {self.backout_layer}")

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding and the head: the vocabulary rounded up to a multiple of 64."""
        return -(-self.vocab_size // 64) * 64

    def window(self, layer: int) -> int:
        """Number of positions that a query of this layer sees, including its own."""
        last = layer == self.n_layer - 1
        kind = "L" if last else self.window_pattern[layer % len(self.window_pattern)]
        if kind == "L":
            return self.max_seq_len
        short = max(1, self.max_seq_len // 4) if self.short_window is None else self.short_window
        return min(short, self.max_seq_len)

    @property
    def middle_layer(self) -> int:
        """The backout takes the stream before this layer; n_layer stands for the stream after the last."""
        return self.n_layer // 2 if self.backout_layer is None else self.backout_layer

    def has_value_embedding(self, layer: int) -> bool:
        """Whether this layer has value embeddings: every other layer, including the last."""
        return self.value_embeddings and (self.n_layer - 1 - layer) % 2 == 0
