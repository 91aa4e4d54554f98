"""How decode.cpp chooses tokens: its structures, of the parameters of each row."""

import ctypes
from array import array
from collections.abc import Sequence
from itertools import accumulate

from nanochat.infer.sampler import SamplingParams

_MAX_TOP = 512
"""decode.cpp sorts the likeliest tokens, which is quick for few."""
_ALL = 2**31 - 1


class TokenChoice(ctypes.Structure):
    """`Choice` in decode.cpp."""

    _fields_ = (
        *((name, ctypes.c_float) for name in ("temperature", "top_p", "min_p")),
        ("top_k", ctypes.c_int32),
    )


class Bias(ctypes.Structure):
    """As in decode.cpp."""

    _fields_ = (("token", ctypes.c_int32), ("value", ctypes.c_float))


class Choices:
    """How decode.cpp chooses for each row, and the rows for which it cannot.

    As long as the same requests run, their parameters are the same, and so are these.
    """

    def __init__(self, params: Sequence[SamplingParams]):
        self.params = [*params]
        tops = [_top(p) for p in params]
        self.others = [row for row, top in enumerate(tops) if top is None]
        choices = (
            TokenChoice(p.temperature, p.top_p, p.min_p, top or 0)
            for p, top in zip(params, tops, strict=True)
        )
        self.native = (TokenChoice * len(tops))(*choices)
        biases = [Bias(*pair) for p in params for pair in p.logit_bias]
        self.biases = (Bias * len(biases))(*biases)
        self.bias_ends = array("q", accumulate(len(p.logit_bias) for p in params))
        self.logprobs = any(p.logprobs is not None for p in params)
        self.multi_step = not self.others and not any(p.logprobs or p.repetition_penalty != 1 for p in params)
        """Whether decode.cpp can choose several tokens on its own."""

    def of(self, params: Sequence[SamplingParams]) -> "Choices":
        """These if they are of equal parameters, or others."""
        return self if params == self.params else Choices(params)


def _top(params: SamplingParams) -> int | None:
    """How many of the likeliest tokens decode.cpp chooses from; None if it cannot choose as these ask."""
    if params.greedy:
        return 0
    if params.top_k is None:
        return _ALL if params.top_p == 1 and params.min_p == 0 else None
    return params.top_k if params.top_k <= _MAX_TOP else None
