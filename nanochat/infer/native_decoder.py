"""The decoder for CPUs: a whole step in one call of compiled C++ (decode.cpp), with fp32, bf16 or int8 weights.

Attention reads only the slots that a token sees, each weight is read once for six tokens, and nothing is dispatched
operator by operator. A token's result does not depend on the rest of the batch, bit for bit.
Shapes: N spans or T tokens, W wanted tokens, C model width, O outputs and I inputs of a matrix, P panels, V vocabulary.
"""

import ctypes
from array import array
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from nanochat.infer.cache import RowCache
from nanochat.infer.decoder import MultiStepDecoder, Span
from nanochat.infer.frozen import FrozenLayer, WeightsName, freeze
from nanochat.infer.native_choices import Choices, TokenChoice
from nanochat.infer.native_multi_step import MultiStep, NativeMultiStep
from nanochat.infer.native_weights import LANES, PACKS
from nanochat.infer.sampler import SamplingParams, sample
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("weights", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("kind", ctypes.c_int32),
        ("inputs", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Matrix) for name in ("qkv", "out", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("value_embeddings", "keys", "values")),
        ("window", ctypes.c_int32),
        ("stream_scale", ctypes.c_float),
        ("embedding_scale", ctypes.c_float),
    )


_SIZES = ("n_layer", "width", "heads", "kv_heads", "head_dim", "mlp_width", "middle_layer", "slots")


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        ("head", _Matrix),
        *((name, ctypes.c_void_p) for name in ("embeddings", "smear", "cos", "sin")),
        *((name, ctypes.c_int32) for name in _SIZES),
        ("weight_bytes", ctypes.c_int64),
        ("bf16_cache", ctypes.c_int32),
        *((name, ctypes.c_float) for name in ("attention_scale", "gate_scale", "backout", "softcap")),
    )


def fits_native(config: GPTConfig) -> bool:
    """Whether the sizes are multiples of a vector, as decode.cpp needs."""
    return config.n_embd % LANES == 0 and config.head_dim % LANES == 0


class NativeDecoder:
    """Runs a frozen copy of a model, in eval mode on the CPU, on an fp32 or bf16 cache.

    `library`: from nanochat.infer.native_library. `weights`: how matrices are stored ("fp32": in the compute
    dtype); embeddings, activations and sums stay fp32. int8 has a scale for each output.
    The model's sizes must satisfy `fits_native`.
    """

    torch_threads: int | None = 1

    def __init__(self, model: GPT, cache: RowCache, library: ctypes.CDLL, weights: WeightsName = "fp32"):
        config = model.config
        assert fits_native(config), "decode.cpp works on whole vectors"
        assert cache.k_RKSD[0].dtype in (torch.float32, torch.bfloat16), "decode.cpp works on these caches"
        self._config, self._cache, self._library = config, cache, library
        self._frozen = freeze(model, torch.float32)
        self._kept: list[Tensor] = []  # what the structures point to
        computed: WeightsName = "bf16" if model.compute_dtype == torch.bfloat16 else "fp32"
        pack = PACKS[computed if weights == "fp32" else weights]

        def matrix(weight_OI: Tensor) -> _Matrix:
            kind, words, scales = pack(weight_OI)
            self._kept += [words, *([] if scales is None else [scales])]
            return _Matrix(words.data_ptr(), _address(scales), kind, weight_OI.size(1), weight_OI.size(0))

        def layer(at: int, frozen: FrozenLayer) -> _Layer:
            products = (frozen.qkv_OI, frozen.out_OI, frozen.up_OI, frozen.down_OI)
            tensors = (frozen.value_table_VE, cache.k_RKSD[at], cache.v_RKSD[at])
            scalars = (frozen.window, frozen.stream_scale.item(), frozen.embedding_scale.item())
            return _Layer(*map(matrix, products), *map(_address, tensors), *scalars)

        frozen = self._frozen
        self._layers = (_Layer * config.n_layer)(*(layer(at, own) for at, own in enumerate(frozen.layers)))
        tables = (frozen.table_VC, frozen.smear_V1, frozen.cos_SD, frozen.sin_SD)
        mlp_width = config.mlp_ratio * config.n_embd
        sizes = (config.n_layer, config.n_embd, config.n_head, config.n_kv_head, config.head_dim, mlp_width)
        scalars = (frozen.attention_scale, config.gate_scale, frozen.backout.item(), config.softcap)
        weight_bytes = sum(words.nbytes for words in self._kept)
        self._model = _Model(
            self._layers,
            matrix(frozen.head_VC),
            *map(_address, tables),
            *sizes,
            config.middle_layer,
            cache.slots + 1,
            weight_bytes,
            cache.k_RKSD[0].dtype == torch.bfloat16,
            *scalars,
        )
        self._reference = ctypes.byref(self._model)
        self._choices = Choices(())
        self.multi_step: MultiStepDecoder | None = NativeMultiStep(library, self._model, cache.slots)

    def wake(self) -> None:
        """See Decoder."""
        self._library.wake()

    def run(self, spans: Sequence[Span]) -> Tensor:
        """See Decoder."""
        last = accumulate((len(span.tokens) for span in spans), initial=-1)
        return self.hidden_of(spans, [*last][1:])

    def hidden_of(self, spans: Sequence[Span], wanted: Sequence[int]) -> Tensor:
        """See Decoder."""
        ids = [token for span in spans for token in span.tokens]
        if len(ids) == len(spans):  # a token each: most steps
            rows, positions, _, previous = (list(column) for column in zip(*spans, strict=True))
        else:
            previous = [token for span in spans for token in (span.previous, *span.tokens[:-1])]
            rows = [span.row for span in spans for _ in span.tokens]
            positions = [position for span in spans for position in range(span.start, span.stop)]
        assert max(positions) < self._cache.slots, "a token is beyond the cache"
        count = len(ids)
        columns = [array("q", column) for column in (ids, previous, rows, positions, wanted)]
        *of_tokens, of_wanted = (column.buffer_info()[0] for column in columns)
        work = torch.empty(self._library.work_floats(self._reference, count))
        hidden_WC = torch.empty(len(wanted), self._config.n_embd)
        results = work.data_ptr(), hidden_WC.data_ptr()
        self._library.hidden_states(self._reference, count, *of_tokens, len(wanted), of_wanted, *results)
        return hidden_WC

    def logits(self, hidden_NC: Tensor) -> Tensor:
        """Soft-capped logits (N, V), fp32."""
        hidden_NC = hidden_NC.contiguous()
        logits_NV = torch.empty(len(hidden_NC), -(-self._config.vocab_size // LANES) * LANES)
        tables = hidden_NC.data_ptr(), logits_NV.data_ptr()
        self._library.logits(self._reference, len(hidden_NC), *tables)
        return logits_NV[:, : self._config.vocab_size]

    def choose(
        self, logits_NV: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float]
    ) -> Tensor:
        """See Decoder."""
        choices = self._choices = self._choices.of(params)
        draws = array("f", uniforms)
        ids_N = torch.empty(len(params), dtype=torch.long)
        results = draws.buffer_info()[0], ids_N.data_ptr()
        self._library.choose(
            *logits_NV.shape, logits_NV.stride(0), logits_NV.data_ptr(), choices.native, *results
        )
        if choices.others:
            their = [params[row] for row in choices.others], [uniforms[row] for row in choices.others]
            ids_N[choices.others] = sample(logits_NV[choices.others], *their)
        return ids_N

    def log_sums(self, logits_NV: Tensor) -> Tensor:
        """See Decoder."""
        sums_N = torch.empty(len(logits_NV))
        self._library.log_sums(*logits_NV.shape, logits_NV.stride(0), logits_NV.data_ptr(), _address(sums_N))
        return sums_N


def declare(library: ctypes.CDLL) -> None:
    """State the types of the library's functions."""
    pointer, size, model = ctypes.c_void_p, ctypes.c_int64, ctypes.POINTER(_Model)
    library.start.argtypes, library.start.restype = [ctypes.c_int32], None
    library.wake.argtypes, library.wake.restype = [], None
    library.work_floats.argtypes, library.work_floats.restype = [model, size], size
    library.hidden_states.argtypes = [model, size, *[pointer] * 4, size, *[pointer] * 3]
    library.hidden_states.restype = None
    library.logits.argtypes, library.logits.restype = [model, size, pointer, pointer], None
    library.choose.argtypes = [size, size, size, pointer, ctypes.POINTER(TokenChoice), pointer, pointer]
    library.choose.restype = None
    library.decode_steps.argtypes = [model, size, ctypes.POINTER(MultiStep)]
    library.decode_steps.restype = None
    library.log_sums.argtypes, library.log_sums.restype = [size, size, size, pointer, pointer], None


def _address(tensor: Tensor | None) -> int | None:
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()
