"""Which decoder runs a model: PyTorch's, with graphs on CUDA, and on CPUs compiled code as soon as it is there."""

from typing import get_args

from nanochat.console import say
from nanochat.infer.cache import RowCache
from nanochat.infer.decoder import Decoder
from nanochat.infer.frozen import WeightsName
from nanochat.infer.graph_decoder import GraphDecoder
from nanochat.infer.native_decoder import NativeDecoder, fits_native
from nanochat.infer.native_library import NativeLibrary, native_library
from nanochat.infer.torch_decoder import TorchDecoder
from nanochat.model.gpt import GPT

_WORTHWHILE_PARAMETERS = 2**20
"""A smaller model is quick without compiled code."""


class Decoders:
    """The decoders of a frozen copy of a model on one cache.

    Raises ValueError for weights other than fp32 on another device than a CPU.
    """

    def __init__(self, model: GPT, cache: RowCache, weights: WeightsName = "fp32"):
        device = model.head.weight.device
        if weights not in get_args(WeightsName):
            raise ValueError(f"unknown weights {weights!r}: choose {', '.join(get_args(WeightsName))}")
        if weights != "fp32" and device.type != "cpu":
            raise ValueError(f"--weights {weights} works on CPUs only; on {device.type} use --dtype bf16")
        self._model, self._cache, self._weights = model, cache, weights
        self._library = _library(model)
        self._native: NativeDecoder | None = None
        self._torch: TorchDecoder | None = None
        self.best()  # copies the weights as they are now

    def reload(self, model: GPT) -> None:
        """Take another state of the same model."""
        self._model = model
        if isinstance(self._torch, GraphDecoder):
            self._torch.reload(model)
        else:
            self._native = self._torch = None
            self.best()

    def settle(self) -> None:
        """Wait for compiled code, so that from now on `best` is the same one."""
        if self._library is not None and self._library.pending:
            say("compiling the decoder for this processor, once")
            self._library.wait()
        self.best()

    def best(self) -> Decoder:
        """The fastest decoder that is ready. Any step may use another one: they share the cache."""
        if self._native is None and self._library is not None:
            loaded = self._library.get()
            if loaded is not None:
                self._native = NativeDecoder(self._model, self._cache, loaded, self._weights)
                self._torch = None
        if self._native is not None:
            return self._native
        if self._torch is None:
            if self._model.head.weight.device.type == "cuda":
                self._torch = GraphDecoder(self._model, self._cache)
            else:
                self._torch = TorchDecoder(self._model, self._cache, self._weights)
        return self._torch


def _library(model: GPT) -> NativeLibrary | None:
    """The compiled code, if the model can use it and is large enough to gain by it."""
    backend = model.backend
    parameters = sum(parameter.numel() for parameter in model.parameters())
    usable = backend.device.type == "cpu" and fits_native(model.config)
    if backend.code_cache is None or not usable or parameters < _WORTHWHILE_PARAMETERS:
        return None
    library = native_library(backend.code_cache)
    library.start()
    return library
