"""A chat longer than the context keeps its first turn and its latest ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.infer.window import fit_messages


def chat(turns: int, system: bool = False) -> list[dict]:
    messages = [{"role": "system", "content": "s"}] if system else []
    for turn in range(turns):
        messages += [{"role": "user", "content": f"q{turn}"}, {"role": "assistant", "content": f"a{turn}"}]
    return messages[:-1]


def texts(messages) -> str:
    return " ".join(message["content"] for message in messages)


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (8, "s q0 a0 q1 a1 q2 a2 q3"),
        (7, "s q0 a0 q2 a2 q3"),
        (6, "s q0 a0 q2 a2 q3"),
        (5, "s q0 a0 q3"),
        (4, "s q0 a0 q3"),
        (3, "s q3"),
        (2, "s q3"),
    ],
)
def test_the_oldest_turns_after_the_first_go_first(limit, kept):
    assert texts(fit_messages(chat(4, system=True), len, limit)) == kept


def test_a_last_message_that_does_not_fit_is_refused_with_both_figures():
    with pytest.raises(
        ValueError, match=r"system prompt and message have 2 tokens together; at most 1 fit beside"
    ):
        fit_messages(chat(4, system=True), len, 1)
    with pytest.raises(ValueError, match=r"^the message has 1 token, but at most 0 leave room .* shorten it"):
        fit_messages(chat(1), len, 0)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.booleans(), st.integers(1, 120))
def test_kept_messages_fit_are_in_order_and_are_as_many_as_possible(sizes, system, limit):
    messages = [message | {"size": size} for message, size in zip(chat(20, system), sizes, strict=False)]
    while messages[-1]["role"] != "user":
        messages.pop()
        if not messages:
            return

    def length(kept):
        return sum(message["size"] for message in kept)

    smallest = length(messages[-1:]) + (messages[0]["size"] if system and len(messages) > 1 else 0)
    if smallest > limit:
        with pytest.raises(ValueError, match="shorten"):
            fit_messages(messages, length, limit)
        return
    kept = fit_messages(messages, length, limit)
    assert length(kept) <= limit
    assert kept[-1] is messages[-1]
    positions = [messages.index(message) for message in kept]
    assert positions == sorted(positions)
    roles = [message["role"] for message in kept if message["role"] != "system"]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    dropped = [message for message in messages if message not in kept]
    if dropped and kept[: 2 + system] == messages[: 2 + system]:
        newest_dropped_turn = dropped[-2:]
        assert length(kept) + length(newest_dropped_turn) > limit
