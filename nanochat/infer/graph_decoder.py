"""The decoder for CUDA: single tokens by CUDA graphs, one per number of rows and slots, rounded up.

A decode step of a small model is hundreds of kernels of a few microseconds; launched one by one, the launches take
longer than the kernels. A graph launches them all at once. Prompts run as in PyTorch's decoder.
Shapes: N rows of a batch, C model width.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from nanochat.console import warn
from nanochat.errors import first_line
from nanochat.infer.cache import RowCache
from nanochat.infer.decoder import Span
from nanochat.infer.frozen import freeze
from nanochat.infer.torch_decoder import TorchDecoder, rows_of
from nanochat.model.gpt import GPT

_CAPTURING = Lock()
"""PyTorch captures one graph at a time in a process, and a server's models decode in threads of their own."""

Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""A function of fixed tensors → (replay, its result, which every replay overwrites)."""

_TOLERANCE = 0.1
"""Between a graph and PyTorch, of hidden states in bf16, whose mean square is 1: a wrong graph is off by more."""
_FEWEST_SLOTS = 256
_WITHOUT_PLANS = (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


class CudaGraphs:
    """Captures CUDA graphs that share memory: read the result of one before replaying another, on the same stream."""

    @cached_property
    def _pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """See Capture. Runs the function twice on another stream first, as PyTorch's documentation asks."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate memory meanwhile, but not capture.
        with _CAPTURING, torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = function()
        return graph.replay, result


@dataclass(frozen=True)
class _Captured:
    """The graph of one number of rows and slots."""

    columns_3N: Tensor
    """Id, previous id and position of every row; position -1 for padding."""
    replay: Callable[[], None]
    hidden_NC: Tensor


class GraphDecoder(TorchDecoder):
    """Runs single tokens by graphs.

    If a graph cannot be captured, or its first result differs from PyTorch's, graphs are given up with a warning.
    """

    def __init__(self, model: GPT, cache: RowCache, capture: Capture | None = None):
        assert model.backend.product == "BLAS", "products must read the weights where `reload` writes them"
        super().__init__(model, cache, own_weights=True)
        self._capture = capture or CudaGraphs()
        self._captured: dict[tuple[int, int], _Captured] = {}
        self._usable = True

    def reload(self, model: GPT) -> None:
        """Take another state of the same model. The graphs stay: they read the weights where they are."""
        with torch.inference_mode():
            for own, new in zip(self._weights.tensors(), freeze(model, self.dtype).tensors(), strict=True):
                own.copy_(new)

    def _run_single(self, spans: Sequence[Span]) -> Tensor:
        if not self._usable:
            return self._run_eagerly(super()._run_single, spans)
        rows = min(_power_of_two(1 + spans[-1].row), len(self.cache.k_RKSD[0]))
        slots = min(max(_FEWEST_SLOTS, _power_of_two(max(span.stop for span in spans))), self.cache.slots)
        columns = [(0, 0, -1)] * rows
        for span in spans:
            columns[span.row] = (span.tokens[0], span.previous, span.start)
        columns_3N = torch.tensor(columns).T.contiguous()
        captured = self._captured.get((rows, slots))
        if captured is None:
            captured = self._first(spans, columns_3N, rows, slots)
            if captured is None:
                return self._run_eagerly(super()._run_single, spans)
        captured.columns_3N.copy_(columns_3N, non_blocking=True)
        captured.replay()
        return rows_of(captured.hidden_NC, spans)

    def _run_several(self, spans: Sequence[Span]) -> Tensor:
        return self._run_eagerly(super()._run_several, spans)

    def _run_eagerly(self, run: Callable[[Sequence[Span]], Tensor], spans: Sequence[Span]) -> Tensor:
        """Without cuDNN's attention, which makes a plan for every new shape: prompts have another at nearly every step.

        The kernel that then takes the mask does not know grouped heads.
        """
        grouped = self.config.n_head != self.config.n_kv_head
        with nullcontext() if grouped else sdpa_kernel([*_WITHOUT_PLANS]):
            return run(spans)

    def _first(self, spans: Sequence[Span], columns_3N: Tensor, rows: int, slots: int) -> _Captured | None:
        """Capture a graph and compare it with PyTorch; None, from then on, if it does not work."""
        static_3N = columns_3N.to(self.device)

        def step() -> Tensor:
            ids_N1, previous_N1, positions_N1 = static_3N[..., None]
            return self.hidden(ids_N1, previous_N1, positions_N1, slice(0, rows), slots).squeeze(1)

        try:
            expected_NC = rows_of(step(), spans).clone()
            replay, hidden_NC = self._capture(step)
            replay()
            difference = (rows_of(hidden_NC, spans) - expected_NC).abs().max().item()
            if not difference <= _TOLERANCE:
                raise ArithmeticError(f"its result differs from PyTorch's by {difference:.1e}")
        except (RuntimeError, ArithmeticError) as error:
            warn(f"decoding without CUDA graphs, which is slower: {first_line(error)}")
            self._usable = False
            self._captured.clear()
            return None
        self._captured[rows, slots] = _Captured(static_3N, replay, hidden_NC)
        return self._captured[rows, slots]


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
