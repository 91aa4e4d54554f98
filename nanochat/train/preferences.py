"""Pairs of a chosen and a rejected answer: read from jsonl, rendered to tokens, and made from rollouts.

A line is `{"prompt", "chosen", "rejected"}`. The prompt is a question or messages; an answer is text, parts with tool
calls (as in nanochat.tokenizer.chat_format) or messages, of which the last one counts and the ones before are the
prompt if there is no other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.atomic import write_text_atomic
from nanochat.config import from_json, json_line, parse_json
from nanochat.console import counted, say
from nanochat.paths import RL_RUN, Paths, expanded
from nanochat.tokenizer.chat_format import render, render_prompt
from nanochat.tokenizer.tokenizer import Tokenizer

HELD_OUT = 20
"""Every n-th pair is for validation."""


@dataclass(frozen=True)
class PreferencePair:
    """Both conversations in tokens; the masks are True for what the model would write of the answers."""

    chosen: list[int]
    chosen_mask: list[bool]
    rejected: list[int]
    rejected_mask: list[bool]

    @property
    def length(self) -> int:
        """Inputs of the longer conversation."""
        return max(len(self.chosen), len(self.rejected)) - 1


def read_pairs(path: Path, tokenizer: Tokenizer, max_seq_len: int) -> list[PreferencePair]:
    """The pairs of a file that fit the context; the others are counted on stderr.

    Raises ValueError, with the line's number, for one that cannot be read; and if no pair is left.
    """
    if not path.is_file():
        raise ValueError(f"--pairs {path} is not a file")
    pairs, too_long = [], 0
    for number, line in _numbered(path):
        try:
            pair = render_pair(parse_json(line), tokenizer)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        if pair.length > max_seq_len:
            too_long += 1
        else:
            pairs.append(pair)
    if too_long:
        say(f"{counted(too_long, 'pair')} skipped: longer than the context of {max_seq_len} tokens")
    if len(pairs) < 2:
        raise ValueError(
            f"{path} holds {counted(len(pairs), 'usable pair')}: training and validation need one each"
        )
    return pairs


def render_pair(row: Any, tokenizer: Tokenizer) -> PreferencePair:
    """A line's pair. Raises ValueError for missing fields, equal answers and malformed messages."""
    if not isinstance(row, dict) or not {"chosen", "rejected"} <= row.keys():
        raise ValueError('expected {"prompt", "chosen", "rejected"}')
    before, chosen = _answer(row["chosen"])
    _, rejected = _answer(row["rejected"])
    prompt = row.get("prompt", before)
    if chosen == rejected:
        raise ValueError("the chosen and the rejected answer are equal")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise ValueError("the prompt must be a question or a list of messages")
    start = len(render_prompt(tokenizer, messages))
    (ids, mask), (other_ids, other_mask) = (
        render(tokenizer, {"messages": [*messages, {"role": "assistant", "content": content}]})
        for content in (chosen, rejected)
    )
    own, other = ([bool(learn) and at >= start for at, learn in enumerate(m)] for m in (mask, other_mask))
    return PreferencePair(ids, own, other_ids, other)


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank. Only a line feed ends a line: within JSON, U+2028 is a character like others."""
    with open(path, "rb") as file:
        yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())


def _answer(value: Any) -> tuple[list[Any] | None, Any]:
    """(the messages before an answer, if it brings them; its content)."""
    if isinstance(value, list) and value and all(isinstance(m, dict) and "role" in m for m in value):
        return value[:-1], value[-1].get("content")
    return None, value


def split_pairs(pairs: Sequence[PreferencePair]) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """(for training, held out): every HELD_OUT-th is held out; of fewer pairs, the last."""
    every = min(HELD_OUT, len(pairs))
    training = [pair for at, pair in enumerate(pairs, start=1) if at % every]
    return training, [*pairs[every - 1 :: every]]


@dataclass(frozen=True)
class PreferencesConfig:
    """Write pairs of the best and the worst answer to each prompt of a run's rollouts."""

    model_tag: str = RL_RUN
    """The run of `nanochat rl`."""
    out: str = "pairs.jsonl"
    first_step: int = 1
    """Leave out the rollouts of earlier steps."""


@dataclass(frozen=True)
class PreferencesResult:
    """`prompts` are those read; the ones whose samples earn the same give no pair."""

    path: Path
    prompts: int
    pairs: int


def run_preferences(config: PreferencesConfig, paths: Paths) -> PreferencesResult:
    """Write the file. Raises ValueError if the run has no rollouts, or none that differ."""
    source = paths.rollouts(config.model_tag)
    if not source.is_file():
        raise ValueError(
            f"the run {config.model_tag!r} has no rollouts ({source}): train it with `nanochat rl`"
        )
    prompts = [prompt for prompt in _prompts(source) if prompt.step >= config.first_step]
    pairs = [pair for prompt in prompts if (pair := _pair(prompt))]
    if not pairs:
        raise ValueError(f"in none of {len(prompts)} prompts do the rewards of the samples differ")
    path = expanded(config.out).absolute()
    write_text_atomic(path, "".join(json_line(pair) + "\n" for pair in pairs))
    say(f"{counted(len(pairs), 'pair')} of {counted(len(prompts), 'prompt')}: {path}")
    return PreferencesResult(path, len(prompts), len(pairs))


@dataclass(frozen=True)
class _Sample:
    reward: float
    parts: list[Any]
    ended: bool


@dataclass(frozen=True)
class _Prompt:
    """What is read of a line of rollouts."""

    step: int
    prompt: Any
    """A question, or the messages up to it."""
    samples: tuple[_Sample, ...]


def _prompts(path: Path) -> Iterator[_Prompt]:
    for number, line in _numbered(path):
        try:
            yield from_json(_Prompt, parse_json(line), ignore_unknown=True)
        except ValueError:
            raise ValueError(f"{path}, line {number}: not a line of rollouts") from None


def _pair(prompt: _Prompt) -> dict[str, Any] | None:
    """The best and the worst answer, of equals the first; None if all are worth the same.

    Answers that the token limit cut are left out: a pair says that its answers end where they do.
    """
    finished = [sample for sample in prompt.samples if sample.ended]
    best = max(finished, key=lambda sample: sample.reward, default=None)
    worst = min(finished, key=lambda sample: sample.reward, default=None)
    if best is None or worst is None or best.reward == worst.reward:
        return None
    return {"prompt": prompt.prompt, "chosen": best.parts, "rejected": worst.parts}
