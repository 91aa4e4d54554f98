"""Every number on the command line of a stage that trains, evaluates or reports has bounds."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

from nanochat.cli.verbs import VERBS

CHECKED_LATER = {  # against what is there: tokenizers, shards, checkpoints
    *("vocab_size", "val_fraction", "need_shards", "step", "max_chars", "doc_cap"),
}
STAGES = {"plan", "pretrain", "sft", "rl", "dpo", "eval", "report", "run"}


def _kinds(hint: Any) -> set[type]:
    if get_origin(hint) is tuple:
        return set()
    arguments = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    return set().union(*map(_kinds, arguments)) if arguments else {hint}


def _numbers() -> Iterator[tuple[type, str, float]]:
    """Every config, the names of its numeric fields, and values that mean nothing in them."""
    for name, verb in VERBS.items():
        if name[0] not in STAGES:
            continue
        config = getattr(importlib.import_module(verb.module), verb.config)
        for field, hint in get_type_hints(config).items():
            if field not in CHECKED_LATER and _kinds(hint) & {int, float}:
                wrong = (-1.0, math.nan, math.inf) if float in _kinds(hint) else (-1,)
                yield from ((config, field, value) for value in wrong)


def test_a_number_out_of_bounds_is_refused_before_any_work() -> None:
    for config, field, value in _numbers():
        required = {
            other.name: "x"
            for other in dataclasses.fields(config)
            if other.default is dataclasses.MISSING and other.default_factory is dataclasses.MISSING
        }
        with pytest.raises(ValueError, match=rf"{field}|{field.replace('_', '-')}"):
            config(**required | {field: value})


@pytest.mark.parametrize("field", ["num_iterations", "max_seq_len", "target_param_data_ratio", "lr_scale"])
def test_nothing_stands_for_a_default(field: str) -> None:
    from nanochat.scaling import Dial

    with pytest.raises(ValueError, match=f"--{field.replace('_', '-')} must be"):
        Dial(**{field: 0})
