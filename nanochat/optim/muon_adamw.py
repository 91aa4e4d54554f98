"""Muon for the blocks' matrices and AdamW for everything else, in one optimiser.

Muon (Keller Jordan, https://kellerjordan.github.io/posts/muon) with later additions: Polar Express, NorMuon, row
equilibration and cautious weight decay. Matrices of one shape are stacked and stepped together. With several processes
each steps its share of every stack and the results are gathered; AdamW is the same on every process.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nanochat.optim import kernels
from nanochat.optim.groups import LearningRates, Rule, rule_of
from nanochat.processes import Processes

_FUSED_ADAMW = frozenset({"cpu", "cuda"})
"""Devices on which PyTorch's fused AdamW has been tested."""


@dataclass(frozen=True)
class MuonOptions:
    """Parts of Muon that experiments may change."""

    iterations: int = 5
    """Polar Express steps, at most 5."""
    beta2: float = 0.9
    """Decay of NorMuon's second moment."""
    equilibrate: bool = True
    head_dim: int | None = None
    """Channels per head, to orthogonalise attention matrices head by head; None: as a whole."""
    dtype: torch.dtype = torch.float32
    """Dtype of the orthogonalisation's matmuls."""


@dataclass
class _AdamW:
    name: str
    weight: nn.Parameter
    rule: Rule
    first_moment: Tensor
    second_moment: Tensor


@dataclass
class _Stack:
    """Matrices of one shape and rule; this process owns `owned` of them, at most `share`, as every process does."""

    rule: Rule
    names: list[str]
    weights: list[nn.Parameter]
    share: int
    owned: range
    momentum_SRC: Tensor = field(init=False)
    second_moment_SR1: Tensor = field(init=False)

    def __post_init__(self) -> None:
        R, C = self.weights[0].shape
        S, device = len(self.owned), self.weights[0].device
        self.momentum_SRC = torch.zeros(S, R, C, device=device)
        self.second_moment_SR1 = torch.zeros((S, R, 1) if R >= C else (S, 1, C), device=device)


class MuonAdamW:
    """Steps a model's parameters by the table in nanochat.optim.groups.

    Gradients must already be summed over processes. `state_dict` does not depend on the number of processes and is a
    collective call if there are several.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        rates: LearningRates,
        options: MuonOptions,
        processes: Processes,
    ):
        self.rates, self.options, self.processes = rates, options, processes
        self.steps = 0
        self._adamw: list[_AdamW] = []
        by_shape: dict[tuple[Rule, torch.Size], list[tuple[str, nn.Parameter]]] = {}
        for name, weight in named_parameters:
            rule = rule_of(name)
            if rule.algorithm == "adamw":
                moments = torch.zeros_like(weight), torch.zeros_like(weight)
                self._adamw.append(_AdamW(name, weight, rule, *moments))
            else:
                by_shape.setdefault((rule, weight.shape), []).append((name, weight))
        self._stacks = []
        for (rule, _), members in by_shape.items():
            share = -(-len(members) // processes.world_size)
            first = min(processes.rank * share, len(members))
            owned = range(first, min(first + share, len(members)))
            names, weights = zip(*members, strict=True)
            self._stacks.append(_Stack(rule, list(names), list(weights), share, owned))

    @torch.no_grad()
    def step(self, lr: float, momentum: float, weight_decay: float) -> None:
        """Take a step. `lr` and `weight_decay` multiply the peak values; `momentum` is Muon's."""
        self.steps += 1
        for stack in self._stacks:
            self._step_stack(stack, lr, momentum, weight_decay)
        for entry in self._adamw:
            assert entry.weight.grad is not None, f"{entry.name} has no gradient"
            fused = entry.weight.device.type in _FUSED_ADAMW
            adamw_step = kernels.fused_adamw_step if fused else kernels.adamw_step
            adamw_step(
                entry.weight,
                entry.weight.grad,
                entry.first_moment,
                entry.second_moment,
                step=self.steps,
                lr=self._rate(entry.rule) * lr,
                beta1=entry.rule.beta1,
                beta2=entry.rule.beta2,
                eps=entry.rule.eps,
            )

    def _rate(self, rule: Rule) -> float:
        return getattr(self.rates, rule.rate) * rule.rate_factor

    def _step_stack(self, stack: _Stack, lr: float, momentum: float, weight_decay: float) -> None:
        owned = [stack.weights[i] for i in stack.owned]
        if owned:
            gradients_SRC = torch.stack([weight.grad for weight in owned])  # type: ignore[misc]
            updates_SRC = kernels.nesterov(gradients_SRC, stack.momentum_SRC, momentum)
            if self.options.equilibrate:
                updates_SRC = kernels.equilibrate_rows(updates_SRC)
            updates_SRC = self._orthogonalise(updates_SRC, stack.rule)
            updates_SRC = kernels.normalise_neurons(updates_SRC, stack.second_moment_SR1, self.options.beta2)
            R, C = updates_SRC.shape[-2:]
            shape_factor = max(1.0, R / C) ** 0.5
            decay = self.rates.weight_decay * weight_decay
            for weight, update in zip(owned, updates_SRC, strict=True):
                kernels.cautious_step(weight, update, self._rate(stack.rule) * lr * shape_factor, decay)
        if self.processes.world_size > 1:
            for weight, whole in zip(
                stack.weights, self._gather(stack, owned, stack.weights[0]), strict=True
            ):
                weight.copy_(whole)

    def _orthogonalise(self, matrices_SRC: Tensor, rule: Rule) -> Tensor:
        iterations, dtype, D = self.options.iterations, self.options.dtype, self.options.head_dim
        if rule.heads is None or D is None:
            return kernels.orthogonalise(matrices_SRC, iterations, dtype)
        by_row = matrices_SRC if rule.heads == "rows" else matrices_SRC.mT
        heads = by_row.unflatten(1, (-1, D)).flatten(0, 1)
        by_row = kernels.orthogonalise(heads, iterations, dtype).view(by_row.shape)
        return by_row if rule.heads == "rows" else by_row.mT.contiguous()

    def _gather(self, stack: _Stack, owned: Sequence[Tensor], like: Tensor) -> list[Tensor]:
        """One tensor per matrix, in the stack's order, from the processes that own them (a collective call)."""
        if self.processes.world_size == 1:
            return list(owned)
        mine = torch.zeros(stack.share, *like.shape, device=like.device)
        for slot, tensor in enumerate(owned):
            mine[slot] = tensor.detach()
        return list(self.processes.concatenate(mine)[: len(stack.names)])

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for weight in (*(e.weight for e in self._adamw), *(w for s in self._stacks for w in s.weights)):
            weight.grad = None

    def state_dict(self) -> dict:
        """Moments by parameter name, as plain tensors. A collective call if there are several processes."""
        state: dict[str, dict[str, Tensor]] = {
            e.name: {"first_moment": e.first_moment, "second_moment": e.second_moment} for e in self._adamw
        }
        for stack in self._stacks:
            second_like = stack.second_moment_SR1.new_empty(stack.second_moment_SR1.shape[1:])
            momentum = self._gather(stack, list(stack.momentum_SRC), stack.weights[0])
            second = self._gather(stack, list(stack.second_moment_SR1), second_like)
            for name, m, v in zip(stack.names, momentum, second, strict=True):
                state[name] = {"momentum": m, "second_moment": v}
        return {"steps": self.steps, "parameters": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`. Raises ValueError if it is damaged or belongs to another model."""
        parameters, steps = state.get("parameters"), state.get("steps")
        if not isinstance(parameters, dict) or type(steps) is not int or steps < 0:
            raise ValueError("the optimiser state is damaged: it lacks the parameters or the number of steps")
        mine = {e.name for e in self._adamw} | {name for stack in self._stacks for name in stack.names}
        if mine != set(parameters):
            differing = sorted(mine ^ set(parameters), key=str)[:4]
            raise ValueError(f"the optimiser state belongs to another model: parameters {differing} differ")
        for entry in self._adamw:
            _restore(entry.name, entry.first_moment, parameters, "first_moment")
            _restore(entry.name, entry.second_moment, parameters, "second_moment")
        for stack in self._stacks:
            for slot, i in enumerate(stack.owned):
                _restore(stack.names[i], stack.momentum_SRC[slot], parameters, "momentum")
                _restore(stack.names[i], stack.second_moment_SR1[slot], parameters, "second_moment")
        self.steps = steps


def _restore(name: str, target: Tensor, parameters: dict[str, Any], moment: str) -> None:
    """Copy a saved moment of the parameter `name` into `target`. Raises ValueError if it does not fit."""
    saved = parameters[name].get(moment) if isinstance(parameters[name], dict) else None
    if not isinstance(saved, Tensor) or saved.dtype != target.dtype or saved.layout != target.layout:
        raise ValueError(f"the optimiser state is damaged: {moment} of {name} is not a {target.dtype} tensor")
    if target.shape != saved.shape:
        raise ValueError(
            f"optimiser state of {name} has shape {tuple(saved.shape)}, expected {tuple(target.shape)}"
        )
    if saved.is_meta or not saved.isfinite().all():
        raise ValueError(
            f"the optimiser state is damaged: {moment} of {name} holds values that are not finite"
        )
    target.copy_(saved)
