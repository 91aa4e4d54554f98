"""Upgrade earlier layouts of a checkpoint's meta: a table of pure functions by format number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FORMAT = 5
"""The layout written now."""

Plain = dict[str, Any]


def migrated(content: Any) -> Plain:
    """A meta of any known format, as the fields of the current one without the format number.

    Raises ValueError for an unknown format, and for a meta that does not match its format.
    """
    number = content.get("format") if isinstance(content, dict) else None
    if type(number) is not int or not min(MIGRATIONS) <= number <= FORMAT:
        raise ValueError(f"its format is {number!r}, this version reads {min(MIGRATIONS)} to {FORMAT}")
    while number < FORMAT:
        try:
            content = MIGRATIONS[number](content)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"it is not a complete meta of format {number} ({error!r})") from None
        number += 1
    return {name: value for name, value in content.items() if name != "format"}


def _from_1(old: Plain) -> Plain:
    """Format 2: one copy of the shape, a plan for each stage, a typed data position, no RNG state.

    Format 1 had the shape three times, kept the base model's plan in SFT runs, and had the settings that decide a
    run's course twice: in the plan and in `course`. Only `course` is right for both stages.
    """
    course, base_plan, config = old["course"], old["plan"], old["config"]
    model = _renamed(old["model"], {"sequence_len": "max_seq_len"})
    fine_tuned = "base" in old
    batch_tokens = course["batch_rows"] * model["max_seq_len"] if fine_tuned else course["batch_tokens"]
    device_batch_size = min(base_plan["device_batch_size"], batch_tokens // model["max_seq_len"])
    loader = old["progress"]["loader"]
    return {
        "format": 2,
        "stage": old["stage"],
        "model": model,
        "tokenizer": loader["identity"]["tokenizer"],
        "plan": {
            "schedule": course["schedule"],
            "rates": course["rates"],
            "muon_per_head": base_plan["muon_per_head"],
            "batch_tokens": batch_tokens,
            "device_batch_size": config["device_batch_size"] or device_batch_size,
            "seed": course["seed"],
            "fp8": course.get("fp8", False),
        },
        "progress": {
            **{name: old["progress"][name] for name in ("step", "tokens", "skipped_steps", "elapsed_s")},
            "position": {
                "identity": {"files": None, **_renamed(loader["identity"], {"context": "max_seq_len"})},
                "row": {name: loader[name] for name in ("place", "offset", "rows", "dropped", "padded")},
            },
        },
        "source": {
            "model_tag": old["base"]["run"],
            "step": old["base"]["step"],
            "weights_sha256": course["base"]["model"],
        }
        if fine_tuned
        else None,
        "config": _renamed(config, {"run": "wandb_run", "base": "from_tag"}),
        "software": old["software"],
        "files": old["files"],
    }


def _from_2(old: Plain) -> Plain:
    """Format 3: sizes that the model had as constants are fields of its shape."""
    sizes = {"short_window": None, "gate_channels": 12, "gate_scale": 3.0}
    sizes |= {"smear_channels": 12, "backout_layer": None}
    return {**old, "format": 3, "model": {**old["model"], **sizes}}


def _from_3(old: Plain) -> Plain:
    """Format 4: the plan has the compute dtype, C++, and the document mask, none of which was chosen before."""
    return {
        **old,
        "format": 4,
        "plan": {**old["plan"], "dtype": None, "native": False, "document_mask": False},
    }


def _from_4(old: Plain) -> Plain:
    """Format 5: the plan has the rates and batch that stages after this one follow, where they are not its own."""
    return {**old, "format": 5, "plan": {**old["plan"], "offers": None}}


def _renamed(table: Plain, names: dict[str, str]) -> Plain:
    return {names.get(name, name): value for name, value in table.items()}


MIGRATIONS: dict[int, Callable[[Plain], Plain]] = {1: _from_1, 2: _from_2, 3: _from_3, 4: _from_4}
"""From each earlier format to the next. Never change an entry once its format has been in use."""
