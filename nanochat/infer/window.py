"""Fits a chat into the context by dropping its oldest turns."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from nanochat.console import counted
from nanochat.tokenizer.chat_format import Message


def fit_messages(
    messages: Sequence[Message], length: Callable[[Sequence[Message]], int], limit: int
) -> list[Message]:
    """The messages to keep so that `length(kept) <= limit`.

    A turn is a user message with its reply; a system message belongs to the first turn. All turns are kept if
    they fit; else the first (it often states the topic) and as many of the latest as fit; else the system message
    and the last turn.

    Args:
        messages: a chat that ends with a user message.
        length: number of tokens of the prompt for some messages; dropping a turn must not increase it.
        limit: maximum number of prompt tokens.

    Raises ValueError if not even the last message fits.
    """
    if length(messages) <= limit:
        return list(messages)
    starts = [at for at, message in enumerate(messages) if message["role"] == "user"]
    first = messages[: starts[1]] if len(starts) > 1 else messages
    shorter = [[*first, *messages[start:]] for start in starts[2:]]
    shorter.append([*messages[: starts[0]], *messages[starts[-1] :]])
    fits = bisect_left(shorter, True, key=lambda kept: length(kept) <= limit)
    if fits == len(shorter):
        tokens = length(shorter[-1])
        if starts[0]:
            raise ValueError(
                f"system prompt and message have {tokens:,} tokens together; at most {limit:,} fit beside an answer: "
                "shorten them"
            )
        raise ValueError(
            f"the message has {counted(tokens, 'token')}, but at most {limit:,} leave room for an answer: shorten it"
        )
    return shorter[fits]
