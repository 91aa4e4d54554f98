"""Invariants of fine-tuning's rows at any context and batch, against a plain implementation without packing."""

from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from nanochat.batches.loader import sft_loader
from nanochat.conversations.rendering import render_conversations
from nanochat.model.loss import IGNORE
from nanochat.runtime import Runtime
from nanochat.tokenizer.tokenizer import Tokenizer

TEXTS = st.text("abc ", min_size=1, max_size=90)
TOOL = st.tuples(TEXTS, TEXTS, TEXTS)
EXCHANGES = st.lists(st.tuples(TEXTS, st.one_of(TEXTS, TOOL)), min_size=1, max_size=4)
CONTEXTS = st.sampled_from((64, 65, 100, 256, 1000, 4096))

Exchange = tuple[str, str | tuple[str, str, str]]


def conversation(exchanges: list[Exchange]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for question, answer in exchanges:
        content: Any = answer
        if isinstance(answer, tuple):
            kinds = ("python", "python_output", "text")
            content = [{"type": kind, "text": text} for kind, text in zip(kinds, answer, strict=True)]
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": content}]
    return {"messages": messages}


def plain(exchanges: list[Exchange], tokenizer: Tokenizer, context: int) -> list[tuple[int, bool]]:
    """(id, whether it is learnt), written without the chat format's code: BOS and the turns that fit."""
    special = tokenizer.special
    tokens = [(tokenizer.bos, False)]
    for question, answer in exchanges:
        turn = [(special("<|user_start|>"), False), *((byte, False) for byte in question.encode())]
        turn += [(special("<|user_end|>"), False), (special("<|assistant_start|>"), False)]
        if isinstance(answer, tuple):
            code, output, answer = answer
            turn += [(special("<|python_start|>"), True), *((byte, True) for byte in code.encode())]
            turn += [(special("<|python_end|>"), True), (special("<|output_start|>"), False)]
            turn += [*((byte, False) for byte in output.encode()), (special("<|output_end|>"), False)]
        turn += [*((byte, True) for byte in answer.encode()), (special("<|assistant_end|>"), True)]
        if len(tokens) + len(turn) > context + 1:
            return tokens if len(tokens) > 1 else (tokens + turn)[: context + 1]
        tokens += turn
    return tokens


def nats(table: Tensor, inputs: Tensor, targets: Tensor) -> tuple[float, int]:
    """The loss of a model that sees the last token only, so that packing must not change it; and the targets."""
    total = cross_entropy(
        table[inputs].flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    return total.item(), int((targets != IGNORE).sum())


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(EXCHANGES, min_size=1, max_size=12), CONTEXTS, st.integers(1, 5), st.integers(1, 3))
def test_rows_teach_what_a_plain_implementation_teaches(
    tokenizer: Tokenizer,
    runtime: Callable[..., Runtime],
    chats: list[list[Exchange]],
    context: int,
    step_rows: int,
    micro_rows: int,
) -> None:
    expected = [plain(chat, tokenizer, context) for chat in chats]
    expected = [tokens for tokens in expected if any(learnt for _, learnt in tokens)]
    settings = {"step_rows": step_rows, "micro_rows": micro_rows, "max_seq_len": context, "seed": 0}
    conversations = [conversation(chat) for chat in chats]
    if not expected:
        with pytest.raises(ValueError, match="anything to learn"):
            sft_loader(
                render_conversations(conversations, tokenizer, context), tokenizer, runtime(), **settings
            )
        return
    loader = sft_loader(
        render_conversations(conversations, tokenizer, context), tokenizer, runtime(), **settings
    )
    assert loader.rows_per_epoch is not None
    batches = [batch for step, _ in islice(loader, -(-loader.rows_per_epoch // step_rows)) for batch in step]
    report = loader.report()
    loader.close()

    inputs = torch.cat([batch.inputs_BT for batch in batches])
    targets = torch.cat([batch.targets_BT for batch in batches])
    assert (targets != IGNORE).any(dim=1).all()  # of every row, those of the next epoch too
    epoch_inputs, epoch_targets = inputs[: loader.rows_per_epoch], targets[: loader.rows_per_epoch]

    laid = [
        [tokenizer.bos, *found]
        for row, aims in zip(epoch_inputs.tolist(), epoch_targets.tolist(), strict=True)
        for found in pieces([*row, aims[-1] if aims[-1] != IGNORE else -1], tokenizer.bos)
    ]
    for tokens in expected:  # no conversation that fits is cut
        if len(tokens) <= context:
            assert [token for token, _ in tokens] in [each[: len(tokens)] for each in laid]

    table = torch.randn(
        tokenizer.vocab_size, tokenizer.vocab_size, generator=torch.Generator().manual_seed(0)
    )
    table = table.double()
    loss, count = nats(table, epoch_inputs, epoch_targets)
    wanted = [
        nats(
            table,
            torch.tensor([token for token, _ in tokens[:-1]]),
            torch.tensor([token if learnt else IGNORE for token, learnt in tokens[1:]]),
        )
        for tokens in expected
    ]
    assert count == sum(number for _, number in wanted)
    assert loss / count == pytest.approx(sum(each for each, _ in wanted) / count, abs=1e-5)
    assert report.epochs >= 1


def pieces(row: list[int], bos: int) -> list[list[int]]:
    """The row's conversations, each without its BOS."""
    found: list[list[int]] = []
    for token in row:
        if token == bos:
            found.append([])
        elif found:
            found[-1].append(token)
    return found
