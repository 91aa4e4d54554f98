"""The loss of held-out conversations against one forward for each."""

from collections.abc import Callable

import pytest
import torch

from nanochat.conversations.rendering import RenderedConversations, render_conversations
from nanochat.eval.conversation_loss import mean_loss
from nanochat.model.gpt import GPT
from nanochat.runtime import Runtime
from nanochat.tokenizer.chat_format import render
from nanochat.tokenizer.tokenizer import Tokenizer

CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"Which bird is number {n}? " * (n % 4)},
            {"role": "assistant", "content": f"The penguin, {n}. " * (1 + n % 3)},
        ]
    }
    for n in range(11)
]


@pytest.fixture
def rendered(model: GPT, tokenizer: Tokenizer) -> RenderedConversations:
    return render_conversations(CHATS, tokenizer, model.config.max_seq_len)


@torch.no_grad()
def plain_loss(model: GPT, tokenizer: Tokenizer) -> float:
    nats, count, context = 0.0, 0, model.config.max_seq_len
    for chat in CHATS:
        ids, mask = render(tokenizer, chat)
        logits = model.logits(model(torch.tensor([ids[:-1][:context]])))[0].double()
        for at, (target, learn) in enumerate(list(zip(ids[1:], mask[1:], strict=True))[:context]):
            if learn:
                nats -= logits[at].log_softmax(0)[target].item()
                count += 1
    return nats / count


@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_equals_one_conversation_at_a_time(
    model: GPT, tokenizer: Tokenizer, runtime: Runtime, rendered: RenderedConversations, batch_tokens: int
) -> None:
    assert max(rendered.offsets[1:] - rendered.offsets[:-1]) > model.config.max_seq_len + 1  # some are cut
    loss = mean_loss(model, rendered, runtime, batch_tokens=batch_tokens)
    assert loss == pytest.approx(plain_loss(model, tokenizer), rel=1e-5)


def test_the_shares_of_three_processes_make_the_whole(
    model: GPT, runtime: Runtime, members: Callable, rendered: RenderedConversations
) -> None:
    whole = mean_loss(model, rendered, runtime, batch_tokens=200)
    runtimes, sums = members(3)
    for member in runtimes:
        mean_loss(model, rendered, member, batch_tokens=200)
    nats, count = map(sum, zip(*sums, strict=True))
    assert nats / count == pytest.approx(whole, rel=1e-6)
