"""The arithmetic of both optimisers as functions of tensors. S stacked matrices, R rows, C columns."""

import torch
from torch import Tensor
from torch.optim.adamw import adamw

# Odd polynomials a·x + b·x³ + c·x⁵ that, applied in turn, move singular values in (0, 1] to 1: the optimal ones of
# Polar Express (arXiv:2505.16932, l = 1e-3, five steps), with its safety factor of 2 % against rounding.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
_CUSHION = 1.02
_TINY = 1e-12


def orthogonalise(matrices_SRC: Tensor, iterations: int, dtype: torch.dtype) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly (singular values near 1), in the input's dtype.

    `iterations`: polynomials applied, at most five. `dtype`: of the matrix products; bf16 where that is fast. The
    result is contiguous.
    """
    x = matrices_SRC.to(dtype)
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT.contiguous()  # also faster products
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * _CUSHION + _TINY)
    for a, b, c in POLAR_EXPRESS[:iterations]:
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT.contiguous() if tall else x).to(matrices_SRC.dtype)


def equilibrate_rows(matrices_SRC: Tensor) -> Tensor:
    """The matrices with every row scaled to the mean row norm, so that no row dominates the orthogonalisation."""
    norms_SR1 = matrices_SRC.norm(dim=-1, keepdim=True)
    return matrices_SRC * (norms_SR1.mean(dim=-2, keepdim=True) / (norms_SR1 + _TINY))


def nesterov(gradients: Tensor, momentum_buffer: Tensor, momentum: float) -> Tensor:
    """Update the buffer (a moving average of gradients) in place; returns the look-ahead direction."""
    momentum_buffer.lerp_(gradients, 1 - momentum)
    return gradients.lerp(momentum_buffer, momentum)


def normalise_neurons(updates_SRC: Tensor, second_moment_SR1: Tensor, beta2: float) -> Tensor:
    """NorMuon (arXiv:2510.05491): divide each neuron by its running RMS, then restore each matrix's Frobenius norm.

    Updates the second moment in place. It has one entry per neuron of the longer side: the rows of a tall matrix,
    shape (S, R, 1), or the columns of a wide one, shape (S, 1, C).
    """
    reduced = -1 if second_moment_SR1.size(-1) == 1 else -2
    second_moment_SR1.lerp_(updates_SRC.square().mean(dim=reduced, keepdim=True), 1 - beta2)
    before = updates_SRC.norm(dim=(-2, -1), keepdim=True)
    updates_SRC = updates_SRC / (second_moment_SR1.sqrt() + 1e-10)
    return updates_SRC * (before / (updates_SRC.norm(dim=(-2, -1), keepdim=True) + _TINY))


def cautious_step(weights: Tensor, updates: Tensor, lr: float, weight_decay: float) -> None:
    """weights -= lr · (update + decay · weights where update and weight agree in sign) (arXiv:2411.16085), in place."""
    if weight_decay:
        agree = (updates * weights) > 0
        updates = updates + weight_decay * weights * agree
    weights.add_(updates, alpha=-lr)


def adamw_step(
    weights: Tensor,
    gradients: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """One AdamW step (arXiv:1711.05101) in place, without decay: Muon's matrices alone decay. `step` counts from 1."""
    first_moment.lerp_(gradients, 1 - beta1)
    second_moment.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
    denominator = (second_moment / (1 - beta2**step)).sqrt_().add_(eps)
    weights.addcdiv_(first_moment, denominator, value=-lr / (1 - beta1**step))


def fused_adamw_step(
    weights: Tensor,
    gradients: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """The same by PyTorch's fused kernel, which reads and writes each tensor once."""
    # On a CPU that kernel takes the layout of the gradients for that of the weights.
    adamw(
        *([weights], [gradients.contiguous()], [first_moment], [second_moment], []),
        [torch.full((), step - 1.0, device=weights.device)],
        fused=True,
        amsgrad=False,
        maximize=False,
        beta1=beta1,
        beta2=beta2,
        lr=lr,
        weight_decay=0.0,
        eps=eps,
    )
