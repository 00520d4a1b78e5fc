"""The optimiser and its learning rate over a run."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW

from .config import OptimizerConfig


def adamw(cfg: OptimizerConfig, modules: Iterable[nn.Module]) -> AdamW:
    """AdamW over the parameters that want a gradient; vectors and scalars (norms, biases, blends) do not decay."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": cfg.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=cfg.lr, betas=cfg.betas)


def learning_rate(cfg: OptimizerConfig, step: int, steps: int) -> float:
    """The rate at `step` of `steps`: a linear rise, a plateau, a linear fall to zero."""
    rise = min(1.0, (step + 1) / max(1, cfg.warmup_steps))
    descent_steps = cfg.descent * steps
    fall = min(1.0, (steps - step) / descent_steps) if descent_steps > 0 else 1.0
    return cfg.lr * rise * fall
