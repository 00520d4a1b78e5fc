"""An exponential moving average of weights: what is sampled from, while the raw weights train."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Ema:
    """Averages of every parameter of the given modules, named `module.parameter`."""

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self.averages = {name: p.detach().clone() for name, p in named_parameters(modules).items()}

    @torch.no_grad()
    def update(self, modules: Mapping[str, nn.Module], step: int) -> None:
        """Move towards the current weights; early steps move faster, so that the start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        parameters = named_parameters(modules)
        current = [parameters[name] for name in self.averages]
        torch._foreach_lerp_(list(self.averages.values()), current, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]


def named_parameters(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Every parameter of several modules under `module.parameter`."""
    return {f"{name}.{key}": p for name, module in modules.items() for key, p in module.named_parameters()}
