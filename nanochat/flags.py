"""Flags shared by several verbs, so that one concept has one name on every command line."""

from __future__ import annotations

import os
from typing import Annotated, Literal, get_args

import tyro

ModelTag = Annotated[str, tyro.conf.arg(aliases=["--model"])]
"""The run to read: its model tag, or the path of its checkpoints; `chat` and `serve` also take hf:OWNER/NAME."""

WandbRun = Annotated[str | None, tyro.conf.arg(name="run")]
"""The name of a run at the services that track it; the flag is `--run`."""

Tracker = Literal["wandb", "trackio", "tensorboard"]
"""A service that receives the figures of a run too."""

TRACK_VARIABLE = "NANOCHAT_TRACK"


def default_track() -> tuple[Tracker, ...]:
    """The services that NANOCHAT_TRACK names, separated by commas. Raises ValueError for an unknown one."""
    words = [word.strip() for word in os.environ.get(TRACK_VARIABLE, "").split(",") if word.strip()]
    known: dict[str, Tracker] = {tracker: tracker for tracker in get_args(Tracker)}
    unknown = [word for word in words if word not in known]
    if unknown:
        raise ValueError(f"{TRACK_VARIABLE} names {unknown[0]!r}: choose from {', '.join(known)}")
    return tuple(known[word] for word in words)
