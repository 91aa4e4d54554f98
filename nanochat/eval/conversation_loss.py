"""Loss on held-out conversations: mean nats of the tokens that the assistant should have written."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from nanochat.eval.batching import length_batches, pad_right
from nanochat.model.gpt import GPT
from nanochat.model.loss import IGNORE
from nanochat.runtime import Runtime
from nanochat.tokenizer.chat_format import render
from nanochat.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class RenderedConversation:
    """What the model reads, and what it should say next at each place (IGNORE where that is not its to say)."""

    inputs: list[int]
    targets: list[int]


def render_all(
    tokenizer: Tokenizer, conversations: Iterable[dict], max_seq_len: int
) -> list[RenderedConversation]:
    """Conversations cut to the context; those with nothing to learn in it are left out."""
    rendered = []
    for conversation in conversations:
        ids, mask = render(tokenizer, conversation)
        targets = [token if learn else IGNORE for token, learn in zip(ids[1:], mask[1:], strict=True)][
            :max_seq_len
        ]
        if any(target != IGNORE for target in targets):
            rendered.append(RenderedConversation(ids[:-1][:max_seq_len], targets))
    return rendered


@torch.inference_mode()
def mean_loss(
    model: GPT, conversations: list[RenderedConversation], runtime: Runtime, *, batch_tokens: int
) -> float:
    """Nats a supervised token, over all conversations; every process takes its share."""
    mine = conversations[runtime.rank :: runtime.world_size]
    total = torch.zeros(2, dtype=torch.float64)
    for batch in length_batches([len(c.inputs) for c in mine], batch_tokens):
        inputs_BT = pad_right([mine[i].inputs for i in batch], 0, runtime.device)
        targets_BT = pad_right([mine[i].targets for i in batch], IGNORE, runtime.device)
        nats = model.token_losses(model(inputs_BT), targets_BT).cpu().double().sum()
        total += torch.stack((nats, (targets_BT != IGNORE).sum().cpu().double()))
    if runtime.world_size > 1:
        total = runtime.all_reduce_sum(total.to(runtime.device))
    nats, count = total.tolist()
    return nats / count
