"""A chat that has outgrown the context goes on: the oldest turns are left out, whole."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from nanochat.tokenizer.chat_format import Message


def fit_messages(
    messages: Sequence[Message], length: Callable[[Sequence[Message]], int], limit: int
) -> list[Message]:
    """The messages that are kept so that `length(kept) <= limit`.

    A turn is a user's message with the reply to it; a system message belongs to the first. All turns are
    kept if they fit; else the first (it often says what the chat is about) and as many of the latest as fit;
    else the system message and the last turn.

    Args:
        messages: a chat that ends with the user's message to be answered.
        length: tokens of the prompt made of some messages; leaving a turn out must not make it longer.
        limit: the most tokens a prompt may have.

    Raises ValueError when not even the last message fits.
    """
    if length(messages) <= limit:
        return list(messages)
    starts = [at for at, message in enumerate(messages) if message["role"] == "user"]
    first = messages[: starts[1]] if len(starts) > 1 else messages
    shorter = [[*first, *messages[start:]] for start in starts[2:]]
    shorter.append([*messages[: starts[0]], *messages[starts[-1] :]])
    fits = bisect_left(shorter, True, key=lambda kept: length(kept) <= limit)
    if fits == len(shorter):
        raise ValueError(
            f"the message takes {length(shorter[-1])} tokens, but only {limit} fit beside an answer: shorten it"
        )
    return shorter[fits]
