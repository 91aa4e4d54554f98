"""Flags shared by several verbs, so that one concept has one name on every command line."""

from __future__ import annotations

from typing import Annotated

import tyro

ModelTag = Annotated[str, tyro.conf.arg(aliases=["--model"])]
"""The run to read: its model tag, or the path of its checkpoints; `chat` and `serve` also take hf:OWNER/NAME."""

WandbRun = Annotated[str | None, tyro.conf.arg(name="run")]
"""The name of a Weights & Biases run; the flag is `--run`."""
