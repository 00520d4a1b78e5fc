"""The optimiser and its learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW

from .config import OptimizerConfig

# A matrix whose shorter side is below this (the layers to and from pixels and latents) is left to AdamW.
SHORTEST_SIDE = 32
# The root mean square of an AdamW update, to which orthogonal updates are scaled, so that both share one rate.
# Source: Liu 2025, "Muon is scalable for LLM training", section 2.2.
UPDATE_RMS = 0.2
# Coefficients of the quintic that drives singular values towards 1. Source: Jordan 2024, "Muon".
QUINTIC = (3.4445, -4.7750, 2.0315)


def optimizer_of(cfg: OptimizerConfig, modules: Iterable[nn.Module]) -> AdamW:
    """The optimiser of what wants a gradient; vectors and scalars (norms, biases, blends) do not decay."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    whole = [p for p in parameters if p.ndim >= 2]
    orthogonal = [p for p in whole if cfg.kind == "muon" and min(p.flatten(1).shape) >= SHORTEST_SIDE]
    own = {id(p) for p in orthogonal}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in whole if id(p) not in own], "weight_decay": cfg.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if cfg.kind == "adamw":
        return AdamW(groups, lr=cfg.lr, betas=cfg.betas)
    groups.append({"params": orthogonal, "weight_decay": cfg.weight_decay, "momentum": cfg.momentum})
    return Muon(groups, lr=cfg.lr, betas=cfg.betas)


class Muon(AdamW):
    """AdamW, but for the groups with a `momentum`: their matrices move by their momentum made orthogonal.

    A convolution is the matrix of its output channels by all else. Source: Jordan 2024, "Muon: an optimizer for
    hidden layers in neural networks".
    """

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all parameters by their gradients; those of the matrices are dropped on the way."""
        for group in self.param_groups:
            if "momentum" in group:
                self._move_matrices(group)
        return super().step(closure)

    @torch.no_grad()
    def _move_matrices(self, group: dict[str, Any]) -> None:
        alike: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["average"] = torch.zeros_like(parameter)
            average = state["average"].lerp_(parameter.grad, 1 - group["momentum"])
            ahead = parameter.grad.lerp(average, group["momentum"]).flatten(1)  # Nesterov's look ahead
            alike.setdefault(ahead.shape, []).append((parameter, ahead))
            parameter.grad = None  # so that AdamW passes it over
        for shape, members in alike.items():
            updates = orthogonalized(torch.stack([ahead for _, ahead in members]))
            rate = group["lr"] * UPDATE_RMS * math.sqrt(max(shape))
            for (parameter, _), update in zip(members, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter).to(parameter.dtype), alpha=-rate)


def orthogonalized(matrices: Float[Tensor, "n r c"], rounds: int = 5) -> Float[Tensor, "n r c"]:
    """Matrices of the same singular vectors, with singular values between about 0.7 and 1.2, in bfloat16."""
    a, b, c = QUINTIC
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if is_tall else matrices).bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.mT if is_tall else x


def learning_rate(cfg: OptimizerConfig, step: int, steps: int) -> float:
    """The rate at `step` of `steps`: a linear rise, a plateau, a linear fall to zero."""
    rise = min(1.0, (step + 1) / max(1, cfg.warmup_steps))
    descent_steps = cfg.descent * steps
    fall = min(1.0, (steps - step) / descent_steps) if descent_steps > 0 else 1.0
    return cfg.lr * rise * fall
