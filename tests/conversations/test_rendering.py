"""Flat ids and mask against one rendered conversation after the other."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from nanochat.conversations.rendering import RenderedConversations, render_conversations
from nanochat.paths import Paths
from nanochat.processes import Processes
from nanochat.runtime import Runtime
from nanochat.tokenizer.chat_format import render
from nanochat.tokenizer.tokenizer import Tokenizer
from tests.test_processes import everywhere


def chat(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


CHATS = [chat(f"question {n}? " * (n % 5), f"answer {n}. " * (n % 3 + 1)) for n in range(40)]


@pytest.mark.parametrize("max_seq_len", [20, 1000])
def test_conversations_stay_whole_and_in_order_and_those_with_nothing_to_learn_go(
    tokenizer: Tokenizer, max_seq_len: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rendered = render_conversations(CHATS, tokenizer, max_seq_len)
    plain = [render(tokenizer, each) for each in CHATS]
    plain = [
        (ids, mask) for ids, mask in plain if any(mask[1 : max_seq_len + 1])
    ]  # of one turn: none is cut here
    assert rendered.ids.dtype == np.uint16
    assert [
        (rendered.ids[a:b].tolist(), rendered.mask[a:b].tolist()) for a, b in pairwise(rendered.offsets)
    ] == plain
    assert len(rendered) == len(plain)
    skipped = len(CHATS) - len(plain)
    assert (skipped > 0) == (max_seq_len == 20)
    assert (f"{skipped} of 40 conversations skipped" in capsys.readouterr().err) == (skipped > 0)


def test_a_long_conversation_is_cut_after_its_last_reply_that_fits(
    tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [message for n in range(3) for message in chat("q" * 5, f"answer {n}")["messages"]]
    whole, _ = render(tokenizer, {"messages": turns})
    ends = [len(render(tokenizer, {"messages": turns[:n]})[0]) for n in (2, 4, 6)]
    for max_seq_len in range(5, len(whole) + 2):
        if max_seq_len < 9:  # BOS, question in its tokens, the reply's first token
            with pytest.raises(ValueError, match="anything to learn"):
                render_conversations([{"messages": turns}], tokenizer, max_seq_len)
            continue
        rendered = render_conversations([{"messages": turns}], tokenizer, max_seq_len)
        fitting = [end for end in ends if end <= max_seq_len + 1]
        assert len(rendered.ids) == (fitting[-1] if fitting else len(whole))
        assert rendered.ids.tolist() == whole[: len(rendered.ids)]
        where = "1 after a turn" if fitting else "1 within a reply"
        assert (f"1 of 1 conversations cut to {max_seq_len} tokens: {where}" in capsys.readouterr().err) == (
            len(whole) > max_seq_len + 1
        )


def test_a_large_vocabulary_takes_four_bytes_an_id(tokenizer: Tokenizer) -> None:
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    ranks = {bytes([byte]): byte for byte in range(256)} | {pair: 256 + i for i, pair in enumerate(pairs)}
    assert render_conversations(CHATS, Tokenizer(ranks, r"[\s\S]"), 1000).ids.dtype == np.uint32


def test_nothing_to_learn_at_all_is_one_clear_line(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"^no conversation has anything to learn within 3 tokens[^\n]*$"):
        render_conversations(CHATS, tokenizer, 3)


def test_processes_render_their_shares_and_all_get_the_whole(tokenizer: Tokenizer, paths: Paths) -> None:
    alone = render_conversations(CHATS, tokenizer, 20)

    def render_as_one(processes: Processes) -> RenderedConversations:
        runtime = Runtime(processes, torch.device("cpu"), torch.float32, paths)
        return render_conversations(CHATS, tokenizer, 20, runtime)

    for rendered in everywhere(render_as_one):
        for part in ("ids", "mask", "offsets"):
            np.testing.assert_array_equal(getattr(rendered, part), getattr(alone, part))


def test_a_conversation_that_one_process_cannot_render_stops_all(tokenizer: Tokenizer, paths: Paths) -> None:
    chats = [*CHATS, {"messages": [{"role": "robot", "content": "beep"}]}]

    def render_as_one(processes: Processes) -> RenderedConversations:
        runtime = Runtime(processes, torch.device("cpu"), torch.float32, paths)
        return render_conversations(chats, tokenizer, 1000, runtime)

    outcomes = everywhere(render_as_one)
    assert all(isinstance(outcome, Exception) for outcome in outcomes)
    assert len({str(outcome).split(":")[-1] for outcome in outcomes}) == 1
