"""Flags that several verbs share, so that one concept has one name on every command line."""

from __future__ import annotations

from typing import Annotated

import tyro

ModelTag = Annotated[str, tyro.conf.arg(aliases=["--model"])]
"""The run to read: its model tag, or the path of its checkpoints."""

WandbRun = Annotated[str | None, tyro.conf.arg(name="run")]
"""A Weights & Biases run: `--run`, as every user of nanochat knows it."""
