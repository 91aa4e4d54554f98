"""The layers of a block. Shapes: B rows, T tokens, C model width, H query heads, K key heads, D head channels."""

import torch
from torch import Tensor, nn

from nanochat.model.backend import Backend, LayerRole
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.matmul import LinearFunction


class Linear(nn.Module):
    """A bias-free linear layer that multiplies by the backend's function for its role."""

    def __init__(self, backend: Backend, role: LayerRole, n_in: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.multiply: LinearFunction = backend.linear(role, n_in, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """(…, n_in) → (…, n_out)."""
        return self.multiply(x, self.weight)


def rotary_tables(length: int, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and sin of every position's angles, (length, head_dim / 2), fp32, on the CPU (RoPE, arXiv:2104.09864)."""
    cpu = torch.device("cpu")  # also on "meta", where arange would import PyTorch's compiler: two seconds
    frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64, device=cpu) / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float64, device=cpu), frequencies)
    return angles.cos().float(), angles.sin().float()


class Attention(nn.Module):
    """Causal attention with rotary positions and QK-norm (arXiv:2010.04245), over a window or the whole context."""

    def __init__(self, config: GPTConfig, layer: int, backend: Backend):
        super().__init__()
        self.head_dim = config.head_dim
        self.window = config.window(layer)
        self.qk_gain = config.qk_gain
        self.q = Linear(backend, "block", config.n_embd, config.n_head * config.head_dim)
        self.k = Linear(backend, "block", config.n_embd, config.n_kv_head * config.head_dim)
        self.v = Linear(backend, "block", config.n_embd, config.n_kv_head * config.head_dim)
        self.out = Linear(backend, "block", config.n_head * config.head_dim, config.n_embd)
        self.gate_scale = config.gate_scale
        self.value_gate = (
            Linear(backend, "gate", min(config.gate_channels, config.n_embd), config.n_kv_head)
            if config.has_value_embedding(layer)
            else None
        )
        self.attend = backend.attend
        self.operators = backend.operators

    def forward(
        self,
        x_BTC: Tensor,
        value_embedding_BTKD: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Attend within the rows of x_BTC, or within their `documents` (`Backend.documents`); returns (B, T, C)."""
        q_BTHD, k_BTKD, v_BTKD = (
            project(x_BTC).unflatten(-1, (-1, self.head_dim)) for project in (self.q, self.k, self.v)
        )
        if self.value_gate is not None and value_embedding_BTKD is not None:
            channels_BTG = x_BTC[..., : self.value_gate.weight.size(1)]
            gate_BTK = self.gate_scale * torch.sigmoid(self.value_gate(channels_BTG))
            v_BTKD = v_BTKD + gate_BTK[..., None] * value_embedding_BTKD
        q_BTHD, k_BTKD = (self.operators.rotate_norm(x, cos, sin, self.qk_gain) for x in (q_BTHD, k_BTKD))
        y_BTHD = self.attend(q_BTHD, k_BTKD, v_BTKD, self.window, documents)
        return self.out(y_BTHD.flatten(-2))


class MLP(nn.Module):
    """Two matrices around relu² (arXiv:2109.08668)."""

    def __init__(self, config: GPTConfig, backend: Backend):
        super().__init__()
        self.up = Linear(backend, "block", config.n_embd, config.mlp_ratio * config.n_embd)
        self.down = Linear(backend, "block", config.mlp_ratio * config.n_embd, config.n_embd)
        self.relu_squared = backend.operators.relu_squared

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) → (B, T, C)."""
        return self.down(self.relu_squared(self.up(x_BTC)))


class Block(nn.Module):
    """One layer: mix in the embedding, then attention and the MLP, each on the normalised stream."""

    def __init__(self, config: GPTConfig, layer: int, backend: Backend):
        super().__init__()
        self.attention = Attention(config, layer, backend)
        self.mlp = MLP(config, backend)
        self.operators = backend.operators

    def forward(
        self,
        x_BTC: Tensor,
        x0_BTC: Tensor,
        scales: tuple[Tensor, Tensor] | None,
        value_embedding_BTKD: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        documents: Tensor | None = None,
    ) -> Tensor:
        """The stream after this layer, (B, T, C)."""
        if scales is None:
            normed_BTC = self.operators.norm(x_BTC)
        else:
            x_BTC, normed_BTC = self.operators.mix_norm(scales[0], x_BTC, scales[1], x0_BTC)
        y_BTC = self.attention(normed_BTC, value_embedding_BTKD, cos, sin, documents)
        x_BTC, normed_BTC = self.operators.add_norm(x_BTC, y_BTC)
        return x_BTC + self.mlp(normed_BTC)
