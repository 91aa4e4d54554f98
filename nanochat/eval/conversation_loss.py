"""Loss on held-out conversations: mean nats of the assistant's tokens."""

import numpy as np
import torch

from nanochat.conversations.rendering import RenderedConversations
from nanochat.eval.batching import length_batches, pad_right
from nanochat.model.gpt import GPT
from nanochat.model.loss import IGNORE
from nanochat.runtime import Runtime


@torch.inference_mode()
def mean_loss(
    model: GPT, conversations: RenderedConversations, runtime: Runtime, *, batch_tokens: int
) -> float:
    """Nats per supervised token over all conversations, each cut to the context; split across processes."""
    processes, max_seq_len = runtime.processes, model.config.max_seq_len
    begins, ends = conversations.offsets[:-1], conversations.offsets[1:]
    ends = np.minimum(ends, begins + max_seq_len + 1)
    mine = range(processes.rank, len(conversations), processes.world_size)
    total = torch.zeros(2, dtype=torch.float64)
    with processes.together("loss on held-out conversations"):
        for batch in length_batches([int(ends[i] - begins[i]) - 1 for i in mine], batch_tokens):
            spans = [slice(begins[mine[i]], ends[mine[i]]) for i in batch]
            inputs = [conversations.ids[span][:-1].tolist() for span in spans]
            targets = [
                np.where(conversations.mask[span], conversations.ids[span].astype(np.int64), IGNORE)[
                    1:
                ].tolist()
                for span in spans
            ]
            inputs_BT = pad_right(inputs, 0, runtime.device)
            targets_BT = pad_right(targets, IGNORE, runtime.device)
            nats = model.token_losses(model(inputs_BT), targets_BT).cpu().double().sum()
            total += torch.stack((nats, (targets_BT != IGNORE).sum().cpu().double()))
    nats, count = torch.tensor(processes.gather(total.tolist()), dtype=torch.float64).sum(dim=0).tolist()
    return nats / count
