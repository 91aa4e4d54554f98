"""Decoding several tokens of each row in one call of decode.cpp, which also chooses them."""

import ctypes
from array import array
from collections.abc import Collection, Sequence

from nanochat.infer.decoder import Continuation, Decoded
from nanochat.infer.native_choices import Bias, Choices, TokenChoice
from nanochat.infer.sampler import SamplingParams


class MultiStep(ctypes.Structure):
    """As in decode.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("ids", "previous", "rows", "positions", "limits")),
        ("choices", ctypes.POINTER(TokenChoice)),
        ("biases", ctypes.POINTER(Bias)),
        *((name, ctypes.c_void_p) for name in ("bias_ends", "uniforms", "last_ids")),
        *((name, ctypes.c_int64) for name in ("last_count", "most")),
        *((name, ctypes.c_void_p) for name in ("tokens", "counts", "chosen", "sums")),
    )


class NativeMultiStep:
    """See MultiStepDecoder. `model`: decode.cpp's structure; `slots`: of the cache."""

    def __init__(self, library: ctypes.CDLL, model: ctypes.Structure, slots: int):
        self._library, self._model, self._slots = library, model, slots
        self._choices = Choices(())

    def can_choose(self, params: Sequence[SamplingParams]) -> bool:
        """See MultiStepDecoder."""
        self._choices = self._choices.of(params)
        return self._choices.multi_step

    def run(self, rows: Sequence[Continuation], last_ids: Collection[int]) -> list[Decoded]:
        """See MultiStepDecoder."""
        choices = self._choices = self._choices.of([row.params for row in rows])
        assert choices.multi_step, "ask can_choose first"
        assert max(row.position + len(row.uniforms) for row in rows) <= self._slots, "beyond the cache"
        most = max(len(row.uniforms) for row in rows)
        places, positions, ids, previous, _, _ = zip(*rows, strict=True)
        limits = [len(row.uniforms) for row in rows]
        inputs = [array("q", column) for column in (ids, previous, places, positions, limits)]
        uniforms = array("f")
        for row in rows:
            uniforms.extend(row.uniforms)
            uniforms.extend([0.0] * (most - len(row.uniforms)))
        last = array("q", last_ids)
        tokens, counts = array("q", bytes(8 * most * len(rows))), array("q", bytes(8 * len(rows)))
        chosen, sums = (array("f", bytes(4 * most * len(rows) * choices.logprobs)) for _ in range(2))
        steps = MultiStep(
            *map(_address, inputs),
            choices.native,
            choices.biases,
            _address(choices.bias_ends),
            _address(uniforms),
            _address(last),
            len(last),
            most,
            *map(_address, (tokens, counts)),
            *(_address(table) if choices.logprobs else None for table in (chosen, sums)),
        )
        self._library.decode_steps(ctypes.byref(self._model), len(rows), ctypes.byref(steps))
        decoded = []
        for first, count in zip(range(0, len(tokens), most), counts, strict=True):
            own = slice(first, first + count)
            logprobs = [logit - whole for logit, whole in zip(chosen[own], sums[own], strict=True)]
            decoded.append(Decoded(tokens[own].tolist(), logprobs))
        return decoded


def _address(numbers: "array[int] | array[float]") -> int:
    return numbers.buffer_info()[0]
