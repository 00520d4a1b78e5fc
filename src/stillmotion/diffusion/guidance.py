"""Guidance: how far each frame moves from the unconditional to the conditional estimate, and beyond."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..config import CHOICE, config
from ..errors import UsageError
from .precondition import Denoise

# The conditional and the unconditional estimate of the same latents.
Branches = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@config
class Unguided:
    """The conditional estimate alone."""

    kind: Literal["none"] = "none"


@config
class Constant:
    """The same scale for every frame. Source: Ho 2022."""

    kind: Literal["constant"] = "constant"
    scale: float

    def __post_init__(self) -> None:
        _check(self.scale)


@config
class Linear:
    """From `low` at the first frame to `high` at the last: SVD's own."""

    kind: Literal["linear"] = "linear"
    low: float = 1.0
    high: float = 2.5

    def __post_init__(self) -> None:
        _check(self.low, self.high)


@config
class Triangle:
    """From `low` up to `high` in the middle and back, `periods` times: for videos that return to their start."""

    kind: Literal["triangle"] = "triangle"
    low: float = 1.0
    high: float = 2.5
    periods: int = 1

    def __post_init__(self) -> None:
        _check(self.low, self.high)
        if self.periods < 1:
            raise UsageError(f"the triangle has {self.periods} periods; expected at least 1.")


@config
class Trapezoid:
    """A rise to `high` over the first `edge` share of the frames, a plateau, and a fall over the last."""

    kind: Literal["trapezoid"] = "trapezoid"
    low: float = 1.0
    high: float = 2.5
    edge: float = 0.1

    def __post_init__(self) -> None:
        _check(self.low, self.high)
        if not 0 < self.edge <= 0.5:
            raise UsageError(f"the trapezoid's edge is {self.edge}; expected a share of the frames in (0, 0.5].")


Guider = Annotated[Unguided | Constant | Linear | Triangle | Trapezoid, CHOICE]


def scales(cfg: Unguided | Constant | Linear | Triangle | Trapezoid, frames: int) -> Float[Tensor, " t"]:
    """The guidance scale of each frame."""
    if isinstance(cfg, Unguided):
        return torch.ones(frames)
    if isinstance(cfg, Constant):
        return torch.full((frames,), cfg.scale)
    if isinstance(cfg, Linear):
        return torch.linspace(cfg.low, cfg.high, frames)
    position = torch.linspace(0, 1, frames)
    if isinstance(cfg, Triangle):
        phase = position * cfg.periods
        rise = 2 * (phase - torch.floor(phase + 0.5)).abs()
    else:
        rise = (torch.minimum(position, 1 - position) / cfg.edge).clamp(max=1)
    return cfg.low + rise * (cfg.high - cfg.low)


def guided(branches: Branches, conditional: Denoise, scale: Float[Tensor, " t"]) -> Denoise:
    """A denoiser of `b t ...` that moves frame t from the unconditional estimate by `scale[t]` of the difference.

    Where every scale is 1 the unconditional branch cannot matter, and `conditional` runs alone.
    """
    if bool((scale == 1).all()):
        return conditional

    def denoise(x: Float[Tensor, "b t ..."], sigma: Float[Tensor, ""]) -> Float[Tensor, "b t ..."]:
        towards, base = branches(x, sigma)
        weight = scale.to(x).reshape(1, -1, *(1,) * (x.ndim - 2))
        return base + weight * (towards - base)

    return denoise


def _check(*scale: float) -> None:
    if not all(math.isfinite(value) for value in scale):
        raise UsageError(f"guidance is {', '.join(map(str, scale))}; expected finite numbers.")
