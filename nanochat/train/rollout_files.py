"""The file of a run's rollouts: one JSON line a prompt and step, with its samples, rewards and tool calls."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.atomic import write_atomic
from nanochat.config import json_line, parse_json
from nanochat.metrics import Metrics, set_aside
from nanochat.metrics_rows import SampleRow
from nanochat.tokenizer.chat_format import bracketed
from nanochat.train.reinforce import ReinforceStep
from nanochat.train.rollouts import Group
from nanochat.train.state import Trainer
from nanochat.train.step import StepResult

SHOWN = 4
"""Samples of a prompt in the metrics."""


@dataclass
class KeepRollouts:
    """Logs each step's figures and appends its groups to the file.

    Runs before saving, so that after a kill no checkpoint is ahead of the file; a resumed run first drops what comes
    after its checkpoint, and a new one sets an older file aside.
    """

    step: ReinforceStep
    path: Path
    metrics: Metrics
    sample_every: int
    """Steps between samples in the metrics, which the report shows."""
    _open: bool = field(default=False, init=False)

    def after_step(self, trainer: Trainer, result: StepResult, *, last: bool) -> None:
        """Write the step."""
        assert self.step.latest is not None
        groups, row = self.step.latest
        with trainer.runtime.processes.together("writing the rollouts"):
            if trainer.runtime.is_main:
                self.metrics.log(row)
                if last or (self.sample_every and row.step % self.sample_every == 0):
                    self.metrics.log(_sample(row.step, groups[0]))
                if not self._open:
                    if row.step == 1:
                        set_aside(self.path)
                    else:
                        drop_after(self.path, row.step - 1)
                    self._open = True
                with self.path.open("a", encoding="utf-8") as file:
                    file.writelines(json_line(_line(row.step, group)) + "\n" for group in groups)


def _sample(step: int, group: Group) -> SampleRow:
    """A prompt's samples with their rewards, calls in brackets."""
    texts = [
        f"{bracketed(rollout.parts)}  (reward {rollout.reward:.2g})" for rollout in group.rollouts[:SHOWN]
    ]
    return SampleRow(step, f"{group.prompt} ({group.expected})", "\n".join(texts))


def drop_after(path: Path, step: int) -> None:
    """Keep only the lines up to a step: the later ones, and a torn one, are written again."""
    kept = []
    # Bytes, because text ends lines at U+2028 too.
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            if parse_json(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    write_atomic(path, lambda file: file.writelines(kept))


def _line(step: int, group: Group) -> dict[str, Any]:
    """A group as a line of the file."""
    return {
        "step": step,
        "item": group.index,
        "prompt": group.prompt if len(group.messages) == 1 else group.messages,
        "expected": group.expected,
        "samples": [
            {
                "reward": rollout.reward,
                "rewards": rollout.rewards,
                "right": rollout.right,
                "reason": rollout.reason,
                "parts": rollout.parts,
                "tool_calls": rollout.tool_calls,
                "tokens": rollout.length,
                "ended": rollout.ended,
            }
            for rollout in group.rollouts
        ],
    }
