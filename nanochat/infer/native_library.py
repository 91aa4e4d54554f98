"""Compiles decode.cpp in the background with the machine's C++ compiler, once, and loads it.

A chat does not wait for the compiler: it runs as a process of its own, and engines decode in PyTorch until the library
is there. Evaluations do wait. Later processes find the library in the base directory.
"""

import ctypes
import subprocess
from functools import cache
from pathlib import Path

import torch

from nanochat.console import warn
from nanochat.infer.cache import RowCache
from nanochat.infer.decoder import Span
from nanochat.infer.frozen import WeightsName
from nanochat.infer.native_decoder import NativeDecoder, declare
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.native.library import compiler, is_wanting, library_path, log_path, start_compiling

SOURCE = Path(__file__).with_name("decode.cpp")
_TRIALS: list[tuple[WeightsName, torch.dtype, float]] = [
    ("fp32", torch.float32, 1e-4),
    ("bf16", torch.bfloat16, 0.5),
]
"""Weights, the cache's dtype, and by how much logits between -15 and 15 may differ."""
_DELAY_S = 2.0
"""Before the compiler starts, so that it does not slow down the first answer."""


class NativeLibrary:
    """The compiled library of one directory, as soon as it is there: call `start` or `wait` first."""

    def __init__(self, directory: Path):
        self._compiling: subprocess.Popen[bytes] | None = None
        self._compiler = compiler()
        self._given_up = self._compiler is None
        if self._compiler is not None:
            self._path = library_path(SOURCE, directory, self._compiler)

    def start(self, delay_s: float = _DELAY_S) -> None:
        """Start the compiler unless it runs, has failed or is not needed; delayed, it yields to other programs."""
        if self._given_up or self._compiling is not None:
            return
        assert self._compiler is not None, "without one it is given up"
        try:
            if is_wanting(self._path):
                self._compiling = start_compiling(SOURCE, self._path, self._compiler, delay_s=delay_s)
            elif not self._path.exists():  # an earlier process has told of the failure
                self._given_up = True
        except OSError as error:  # a read-only folder, or no space
            self._give_up(f"the compiler cannot be started ({error})")

    @property
    def pending(self) -> bool:
        """Whether the compiler is still running."""
        running = self._compiling
        return running is not None and running.poll() is None

    def get(self) -> ctypes.CDLL | None:
        """The library; None while it is being compiled, or if it cannot be used. Never blocks."""
        if self._given_up:
            return None
        running = self._compiling  # read once: other threads' engines call this, too
        if running is not None:
            status = running.poll()
            if status is None:
                return None
            if status != 0:
                self._give_up(f"the compiler failed: see {log_path(self._path)}")
                return None
            self._compiling = None
        try:
            return _load(self._path)
        except (OSError, AttributeError, AssertionError) as error:
            self._give_up(f"{self._path} cannot be used ({error}): delete it")
            return None

    def wait(self) -> None:
        """Wait for the compiler, which starts now if it has not."""
        self.start(delay_s=0)
        if self._compiling is not None:
            self._compiling.wait()

    def _give_up(self, reason: str) -> None:
        self._given_up = True
        warn(f"decoding without compiled code, which is slower: {reason}")


@cache
def native_library(directory: Path) -> NativeLibrary:
    """This process's library of a directory."""
    return NativeLibrary(directory)


@cache
def _load(path: Path) -> ctypes.CDLL:
    """Load the library, start its threads, and try it. Raises OSError, AttributeError or AssertionError."""
    library = ctypes.CDLL(str(path))
    declare(library)
    library.start(torch.get_num_threads())
    _try(library)
    return library


def _try(library: ctypes.CDLL) -> None:
    """Raise AssertionError unless a tiny model gives the same logits as in PyTorch, in fp32 and nearly so in bf16."""
    config = GPTConfig(
        max_seq_len=32,
        vocab_size=80,
        n_layer=2,
        n_head=2,
        n_kv_head=1,
        head_dim=16,
        n_embd=32,
        window_pattern="S",
    )
    with torch.inference_mode(False), torch.no_grad():
        model = GPT(config, REFERENCE)
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        ids = [7 * at % 80 for at in range(20)]
        expected = model.eval().logits(model(torch.tensor([ids])))[0]
        for weights, dtype, tolerance in _TRIALS:
            cache = RowCache(config, 1, 32, torch.device("cpu"), dtype)
            decoder = NativeDecoder(model, cache, library, weights)
            actual = decoder.logits(decoder.hidden_of([Span(0, 0, ids, 0)], range(len(ids))))
            difference = (actual - expected).abs().max().item()
            assert difference < tolerance, f"its {weights} logits differ from PyTorch's by {difference:.1e}"
