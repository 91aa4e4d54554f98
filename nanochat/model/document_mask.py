"""Documents that share a row and are kept apart: where they begin, and what attention kernels need to know of it.

Shapes: B rows, T tokens. `starts_BT` is True where a document begins; each row begins with one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def document_starts(ids_BT: Tensor, bos: int) -> Tensor:
    """(B, T), True at each BOS; adjacent ones, which are padding, count as one document."""
    bos_BT = ids_BT == bos
    starts_BT = bos_BT & ~F.pad(bos_BT[:, :-1], (1, 0))
    starts_BT[:, 0] = True
    return starts_BT


def document_mask(starts_BT: Tensor, window: int) -> Tensor:
    """(B, 1, T, T), True where a query sees a key: within the window and in its own document."""
    document_BT = starts_BT.cumsum(dim=1)
    same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    return (same_BTT & band_mask(starts_BT.size(1), window, starts_BT.device))[:, None]


def document_bounds(starts_BT: Tensor, window: int) -> Tensor:
    """(documents + 1,), int32: the first token of each document in the flattened batch, and the end of the last."""
    import torch._dynamo  # slow to import

    bounds = F.pad(starts_BT.flatten().nonzero().flatten().int(), (0, 1), value=starts_BT.numel())
    torch._dynamo.mark_dynamic(bounds, 0)  # every batch has another number of documents: compile once for all
    return bounds


def band_mask(length: int, window: int, device: torch.device) -> Tensor:
    """(T, T), True where a query sees a key: itself and the `window` - 1 before it."""
    t = torch.arange(length, device=device)
    distance_TS = t[:, None] - t[None, :]
    return (distance_TS >= 0) & (distance_TS < window)
