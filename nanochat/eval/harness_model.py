"""A model as lm-evaluation-harness sees one: texts in; log-likelihoods, answers and chat prompts out.

Nothing here imports that package. harness.py joins this class with its abstract one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from nanochat.eval.core import score_groups
from nanochat.eval.prompt_states import PromptRow, PromptStates
from nanochat.eval.subject import Subject
from nanochat.eval.task_accuracy import final_text
from nanochat.infer.sampler import SamplingParams
from nanochat.tokenizer.chat_format import Message, render_prompt
from nanochat.tokenizer.special import SPECIAL_TOKENS

_AT_ONCE = 128
"""Contexts whose prompts are in memory together."""
_MAX_NEW_TOKENS = 256
"""Of a task that states no limit; the harness's own default."""
_SPECIAL = re.compile("(" + "|".join(map(re.escape, SPECIAL_TOKENS)) + ")")


class HarnessRequest(Protocol):
    """What the harness asks: for a log-likelihood (context, continuation), for an answer (context, settings)."""

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments."""


class HarnessModel:
    """The methods that lm-evaluation-harness calls.

    Args:
        subject: its engine is idle.
        batch_tokens: the most tokens per forward pass.
        chat: prompts are in the chat format, where the names of special tokens stand for these.
    """

    def __init__(self, subject: Subject, batch_tokens: int, *, chat: bool):
        super().__init__()
        self._subject, self._tokenizer, self._chat = subject, subject.tokenizer, chat
        self._context = subject.config.max_seq_len
        self._states = PromptStates(subject.model, batch_tokens)
        self._rendered: dict[str, list[int]] = {}

    @property
    def tokenizer_name(self) -> str:
        """What identifies the tokenizer and its chat format."""
        return f"nanochat-{self._tokenizer.hash}"

    def apply_chat_template(self, chat_history: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The prompt as text; without `add_generation_prompt` the last message is the beginning of the answer."""
        asked, begun = (
            (chat_history, "") if add_generation_prompt else (chat_history[:-1], _last(chat_history))
        )
        ids = render_prompt(self._tokenizer, asked) + self._tokenizer.encode(begun)
        text = self._tokenizer.decode(ids)
        self._rendered[text] = ids  # names of special tokens within a message stay plain text
        return text

    def loglikelihood(self, requests: Sequence[HarnessRequest]) -> list[tuple[float, bool]]:
        """The log-probability of each continuation, and whether it is the greedy one."""
        rows = [self._row(*request.args) for request in requests]
        return self._score(rows, [request.args[0] for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[HarnessRequest]) -> list[float]:
        """The log-probability of each whole text, every token once, in windows of the context."""
        windows = [list(self._windows(request.args[0])) for request in requests]
        rows = [row for one in windows for row in one]
        scores = iter(self._score(rows, list(range(len(rows)))))
        return [sum(next(scores)[0] for _ in one) for one in windows]

    def generate_until(self, requests: Sequence[HarnessRequest]) -> list[str]:
        """The answer to each context, up to the first of its stop strings."""
        params = [self._params(request.args[1]) for request in requests]
        prompts = [
            self._with_bos(request.args[0])[-(self._context - min(p.max_new_tokens, self._context // 4)) :]
            for request, p in zip(requests, params, strict=True)
        ]
        completions = self._subject.engine.generate(prompts, params)
        if self._chat:
            answers = [final_text(self._tokenizer, completion) for completion in completions]
        else:
            answers = [completion.text for completion in completions]
        return [_before(answer, p.stop) for answer, p in zip(answers, params, strict=True)]

    def _score(self, rows: Sequence[PromptRow], contexts: Sequence[Any]) -> list[tuple[float, bool]]:
        """The log-probability of each row's scored tokens, and whether all are the greedy ones.

        Rows of equal contexts run as one group, one after another, and what they share is computed once.
        """
        places: dict[Any, list[int]] = {}
        for place, context in enumerate(contexts):
            shares = rows[place].start > 1  # more than <|bos|>
            places.setdefault((context, None if shares else place), []).append(place)
        # Contexts of like length together, the longest first.
        groups = sorted(places.values(), key=lambda group: -max(len(rows[place].ids) for place in group))
        found: dict[int, tuple[float, bool]] = {}
        for start in range(0, len(groups), _AT_ONCE):
            part = groups[start : start + _AT_ONCE]
            scores = score_groups(self._states, [[rows[place] for place in group] for group in part])
            for group, its in zip(part, scores, strict=True):
                for place, score in zip(group, its, strict=True):
                    row = rows[place]
                    wanted = row.ids[row.start : row.end]
                    found[place] = (-score.nats * len(wanted), list(score.greedy) == wanted)
        return [found[place] for place in range(len(rows))]

    def _row(self, context: str, continuation: str) -> PromptRow:
        """Context and continuation encoded together; a prompt that is too long loses its beginning."""
        if context in self._rendered:
            ids = [*self._rendered[context], *self._tokenizer.encode(continuation)]
            start = len(self._rendered[context])
        else:
            stem = context.rstrip()  # blanks belong to the next word's token
            ids = self._with_bos(context + continuation)
            start = min(len(self._with_bos(stem)), len(ids) - 1)
        dropped = max(0, len(ids) - 1 - self._context)  # the last token is read, not run
        return PromptRow(ids[dropped:], max(1, start - dropped), len(ids) - dropped)

    def _windows(self, text: str) -> Iterator[PromptRow]:
        """Windows of the context that do not overlap, but the last is as long as the others."""
        ids = self._with_bos(text)
        for done in range(0, len(ids) - 1, self._context):
            end = min(done + self._context, len(ids) - 1)
            first = max(0, end - self._context)
            yield PromptRow(ids[first : end + 1], done + 1 - first, end + 1 - first)

    def _with_bos(self, text: str) -> list[int]:
        ids = self._rendered.get(text) or self._encode(text)
        return ids if ids[:1] == [self._tokenizer.bos] else [self._tokenizer.bos, *ids]

    def _encode(self, text: str) -> list[int]:
        if not self._chat:
            return self._tokenizer.encode(text)
        ids: list[int] = []
        for piece in filter(None, _SPECIAL.split(text)):
            ids += (
                [self._tokenizer.special(piece)] if piece in SPECIAL_TOKENS else self._tokenizer.encode(piece)
            )
        return ids

    def _params(self, settings: dict[str, Any]) -> SamplingParams:
        """A task's generation settings. Without `do_sample` the answer is greedy, whatever the temperature."""
        until = settings.get("until") or ()
        room = max(1, self._context - 1)
        return SamplingParams(
            temperature=float(settings.get("temperature", 1.0)) if settings.get("do_sample") else 0.0,
            top_k=settings.get("top_k"),
            top_p=float(settings.get("top_p", 1.0)),
            seed=settings.get("seed", 0),
            max_new_tokens=min(room, int(settings.get("max_gen_toks", _MAX_NEW_TOKENS))),
            stop=tuple(filter(None, [until] if isinstance(until, str) else until)),
        )


def _last(messages: Sequence[Message]) -> str:
    return messages[-1]["content"]


def _before(text: str, stops: Sequence[str]) -> str:
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]
