"""The model, from token ids to hidden states, and from those to the loss or to logits.

Shapes: B rows, T tokens, C model width, K key heads, D head channels, V vocabulary, N = B·T tokens.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.model.backend import Backend
from nanochat.model.fp8 import FP8_MULTIPLE
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.layers import Block, Linear, rotary_tables
from nanochat.model.loss import IGNORE, linear_cross_entropy, linear_token_nats, softcapped, token_nats

BACKOUT_INIT = 0.2


class GPT(nn.Module):
    """A decoder that computes as its backend says. Call `init_weights` or load a state first.

    Weights are fp32, on the CPU at first. In training mode the blocks and the loss run compiled if the backend
    compiles; in evaluation mode, where shapes vary, they run eagerly. Raises ValueError for sizes that fp8 units do not
    multiply, if the backend uses them.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GPTConfig, backend: Backend):
        super().__init__()
        if backend.fp8 and config.max_seq_len % FP8_MULTIPLE:  # tokens are summed over in a weight's gradient
            raise ValueError(
                f"--fp8 needs a context that is a multiple of {FP8_MULTIPLE}, not {config.max_seq_len} tokens: "
                "choose another --max-seq-len, or omit --fp8"
            )
        self.config = config
        self.backend = backend
        C, V = config.n_embd, config.padded_vocab_size
        self.embedding = _embedding(V, C)
        self.blocks = nn.ModuleList(Block(config, layer, backend) for layer in range(config.n_layer))
        self.value_embeddings = nn.ModuleDict(
            {
                str(layer): _embedding(V, config.n_kv_head * config.head_dim)
                for layer in range(config.n_layer)
                if config.has_value_embedding(layer)
            }
        )
        self.head = Linear(backend, "head", C, V)
        if config.residual_scales:
            self.residual_scale = nn.Parameter(torch.empty(config.n_layer))
            self.embedding_scale = nn.Parameter(torch.empty(config.n_layer))
        if config.smear:
            self.smear_gate = Linear(backend, "gate", min(config.smear_channels, C), 1)
            self.smear_scale = nn.Parameter(torch.empty(1))
        if config.backout:
            self.backout_scale = nn.Parameter(torch.empty(1))
        cos, sin = rotary_tables(config.max_seq_len, config.head_dim, config.rope_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._training_block: Callable[..., Tensor] = backend.compiled("block", Block.forward)
        self._training_states: Callable[..., Tensor] = backend.compiled("model", GPT._states)
        self.operators = backend.operators
        self._chunk_loss = backend.chunk_loss

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of activations."""
        return self.backend.compute_dtype

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Initialise all weights; the same for a seed on every device."""
        config = self.config
        generator = torch.Generator().manual_seed(seed)
        uniform = (3.0 / config.n_embd) ** 0.5  # a uniform of this bound has std 1/√width

        def fill(weight: Tensor, draw: Callable[[Tensor], Tensor]) -> None:
            weight.copy_(draw(torch.empty(weight.shape)))

        fill(self.embedding.weight, lambda x: x.normal_(0, 0.8, generator=generator))
        fill(self.head.weight, lambda x: x.normal_(0, 0.001, generator=generator))
        for block in self.layers():
            for projection in (block.attention.q, block.attention.k, block.attention.v):
                fill(projection.weight, lambda x: x.uniform_(-uniform, uniform, generator=generator))
            fill(
                block.mlp.up.weight, lambda x: x.uniform_(-0.4 * uniform, 0.4 * uniform, generator=generator)
            )
            block.attention.out.weight.zero_()
            block.mlp.down.weight.zero_()
            if block.attention.value_gate is not None:
                block.attention.value_gate.weight.zero_()
        for table in self.value_embeddings.parameters():
            fill(table, lambda x: x.uniform_(-uniform, uniform, generator=generator))
        if config.residual_scales:
            self.residual_scale.copy_(torch.linspace(1.15, 1.05, config.n_layer))
            self.embedding_scale.copy_(torch.linspace(0.20, 0.05, config.n_layer))
        if config.smear:
            self.smear_gate.weight.zero_()
            self.smear_scale.zero_()
        if config.backout:
            self.backout_scale.fill_(BACKOUT_INIT)

    def layers(self) -> Iterator[Block]:
        """The blocks, first to last."""
        yield from self.blocks  # type: ignore[misc]

    def forward(self, ids_BT: Tensor, starts_BT: Tensor | None = None) -> Tensor:
        """Hidden states (B, T, C) in the compute dtype, normalised for the head.

        starts_BT: True where a document begins that does not depend on those before it in its row
        (`document_starts`); None: each row is one document.

        Raises ValueError for more tokens than the context.
        """
        T = ids_BT.size(1)
        if T > self.config.max_seq_len:
            raise ValueError(f"{T} tokens do not fit the model's context of {self.config.max_seq_len}")
        states = self._training_states if self.training else GPT._states
        # Found outside of compiled code: how many documents there are depends on the data.
        documents = {} if starts_BT is None else self._documents(starts_BT)
        return states(self, ids_BT, starts_BT, documents)

    def _states(self, ids_BT: Tensor, starts_BT: Tensor | None, documents: dict[int, Tensor]) -> Tensor:
        T = ids_BT.size(1)
        cos, sin = (table[None, :T, None].to(self.compute_dtype) for table in (self.cos, self.sin))

        x_BTC = self.operators.norm(self.embedding(ids_BT).to(self.compute_dtype))
        if self.config.smear:
            x_BTC = x_BTC + self._smear(x_BTC, starts_BT)
        x0_BTC = x_BTC
        middle_BTC = x_BTC
        run_block = self._training_block if self.training else Block.forward
        for layer, block in enumerate(self.layers()):
            if layer == self.config.middle_layer:
                middle_BTC = x_BTC
            x_BTC = run_block(
                block,
                x_BTC,
                x0_BTC,
                self._scales(layer),
                self._value_embedding(layer, ids_BT),
                cos,
                sin,
                documents.get(block.attention.window),
            )
        if self.config.middle_layer == self.config.n_layer:
            middle_BTC = x_BTC
        if self.config.backout:
            x_BTC = x_BTC - self.backout_scale.to(x_BTC.dtype) * middle_BTC
        return self.operators.norm(x_BTC)

    def _documents(self, starts_BT: Tensor) -> dict[int, Tensor]:
        """The attention kernel's form of `starts_BT` for each window, shared by the layers that have it."""
        windows = {block.attention.window for block in self.layers()}
        return {window: self.backend.documents(starts_BT, window) for window in windows}

    def _smear(self, x_BTC: Tensor, starts_BT: Tensor | None) -> Tensor:
        previous_BTC = F.pad(x_BTC[:, :-1], (0, 0, 1, 0))
        if starts_BT is not None:
            previous_BTC = previous_BTC.masked_fill(starts_BT[..., None], 0)
        gate_BT1 = torch.sigmoid(self.smear_gate(x_BTC[..., : self.smear_gate.weight.size(1)]))
        return self.smear_scale.to(x_BTC.dtype) * gate_BT1 * previous_BTC

    def _scales(self, layer: int) -> tuple[Tensor, Tensor] | None:
        if not self.config.residual_scales:
            return None
        return self.residual_scale[layer].to(self.compute_dtype), self.embedding_scale[layer].to(
            self.compute_dtype
        )

    def _value_embedding(self, layer: int, ids_BT: Tensor) -> Tensor | None:
        if not self.config.has_value_embedding(layer):
            return None
        values = self.value_embeddings[str(layer)](ids_BT).to(self.compute_dtype)
        return values.unflatten(-1, (self.config.n_kv_head, self.config.head_dim))

    def _head_weight(self) -> Tensor:
        return self.head.weight[: self.config.vocab_size]

    def logits(self, hidden: Tensor) -> Tensor:
        """Soft-capped logits (..., V), fp32."""
        return softcapped(self.head.multiply(hidden, self._head_weight()).float(), self.config.softcap)

    def loss(self, hidden_BTC: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(summed nats, fp32 scalar with gradients; count of targets that are not IGNORE)."""
        nats = linear_cross_entropy(
            hidden_BTC.flatten(0, 1),
            self._head_weight(),
            targets_BT.flatten(),
            self.config.softcap,
            self.backend.memory.loss_chunk,
            self._chunk_loss,
            self.backend.matmul,
        )
        return nats, (targets_BT != IGNORE).sum()

    def token_logprobs(self, hidden_BTC: Tensor, targets_BT: Tensor) -> Tensor:
        """Log-probability of each target (B, T), fp32 with gradients, 0 where it is IGNORE."""
        nats_N = linear_token_nats(
            hidden_BTC.flatten(0, 1),
            self._head_weight(),
            targets_BT.flatten(),
            self.config.softcap,
            self.backend.memory.loss_chunk,
            self._chunk_loss,
            self.backend.matmul,
        )
        return -nats_N.view_as(targets_BT)

    def token_losses(self, hidden_BTC: Tensor, targets_BT: Tensor) -> Tensor:
        """Nats of each target (B, T), fp32, 0 where it is IGNORE; without gradients."""
        nats_N = token_nats(
            hidden_BTC.flatten(0, 1),
            self._head_weight(),
            targets_BT.flatten(),
            self.config.softcap,
            self.backend.memory.evaluation_chunk,
            self.head.multiply,
        )
        return nats_N.view_as(targets_BT)


def _embedding(rows: int, width: int) -> nn.Embedding:
    """A table without values. PyTorch's own initialisation would be wasted, and imports its compiler on "meta"."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))
