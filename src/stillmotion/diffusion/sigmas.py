"""Noise levels: which ones a generation visits, and how training draws them."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..config import CHOICE, config
from ..errors import UsageError

MAX_STEPS = 1000
MAX_SIGMA = 1e18  # its square still is a float32
# Sabour 2024 (Align Your Steps), published for ten steps of Stable Video Diffusion; sampling goes to 0 from the last
# but one, and other counts interpolate all eleven.
AYS_SVD = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)
# Stable Diffusion's training noise: the square roots of beta rise linearly between these.
DDPM_BETA_START, DDPM_BETA_END, DDPM_STEPS = 0.00085, 0.012, 1000


@config
class Karras:
    """Dense at low noise. Source: Karras 2022, equation 5."""

    kind: Literal["karras"] = "karras"
    sigma_min: float = 0.002
    sigma_max: float = 700.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (0 < self.sigma_min <= self.sigma_max <= MAX_SIGMA and 0 < self.rho < math.inf):
            raise UsageError(
                f"sigma runs from {self.sigma_max} to {self.sigma_min} with rho {self.rho}; "
                "expected finite positive numbers, the first sigma the larger."
            )


@config
class AlignYourSteps:
    """The ten levels optimised for SVD, interpolated in the logarithm for other counts."""

    kind: Literal["ays"] = "ays"


@config
class DDPM:
    """The training levels of Stable Diffusion at even indices."""

    kind: Literal["ddpm"] = "ddpm"


@config
class Levels:
    """Exactly these levels, falling; a last 0 is added where it is missing."""

    kind: Literal["levels"] = "levels"
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        check_levels(self.values)


Schedule = Annotated[Karras | AlignYourSteps | DDPM | Levels, CHOICE]


def schedule(cfg: Karras | AlignYourSteps | DDPM | Levels, steps: int) -> Float[Tensor, " n"]:
    """`steps` falling noise levels and a final 0; a list of levels brings its own count.

    Raises UsageError for a count outside 1 to 1000.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise UsageError(f"steps is {steps}; expected 1 to {MAX_STEPS}.")
    if isinstance(cfg, Levels):
        levels = torch.tensor(cfg.values, dtype=torch.float64)
        levels = levels[:-1] if cfg.values[-1] == 0 else levels
    elif isinstance(cfg, Karras):
        levels = _karras(cfg, steps)
    elif isinstance(cfg, AlignYourSteps):
        levels = _log_linear(torch.tensor(AYS_SVD, dtype=torch.float64), steps + 1)[:-1]
    else:
        levels = ddpm_table()[_even_indices(steps)].flip(0)
    return torch.cat([levels, torch.zeros(1, dtype=levels.dtype)]).float()


def check_levels(values: tuple[float, ...]) -> None:
    """Raise UsageError unless the levels are positive but for a last 0, at most MAX_SIGMA, and strictly falling."""
    body = values[:-1] if values and values[-1] == 0 else values
    falls = all(a > b for a, b in itertools.pairwise(body))
    if not body or not falls or not all(0 < v <= MAX_SIGMA for v in body):
        expected = f"strictly falling positive numbers up to {MAX_SIGMA:g}, at most the last 0"
        raise UsageError(f"sigmas are {list(values)}; expected {expected}.")


def ddpm_table() -> Float[Tensor, " n"]:
    """The thousand noise levels that Stable Diffusion was trained at, rising."""
    betas = torch.linspace(DDPM_BETA_START**0.5, DDPM_BETA_END**0.5, DDPM_STEPS, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, dim=0)
    return ((1 - kept) / kept).sqrt()


def draw_log_normal(mean: float, deviation: float, draws: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Training noise levels whose logarithm is normal, from unit `draws`. Source: Karras 2022, table 1."""
    return torch.exp(mean + deviation * draws)


def _karras(cfg: Karras, steps: int) -> Tensor:
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    high, low = cfg.sigma_max ** (1 / cfg.rho), cfg.sigma_min ** (1 / cfg.rho)
    return (high + ramp * (low - high)) ** cfg.rho


def _log_linear(levels: Tensor, count: int) -> Tensor:
    if count == len(levels):
        return levels
    position = torch.linspace(0, len(levels) - 1, count, dtype=torch.float64)
    low = position.floor().long().clamp(max=len(levels) - 2)
    share = position - low
    logs = levels.log()
    return torch.exp(logs[low] * (1 - share) + logs[low + 1] * share)


def _even_indices(steps: int) -> Tensor:
    """Indices from the last training step down, evenly spaced and without the end, then turned to rise.

    Rounded as numpy's linspace rounds, which the original takes.
    """
    stride = (DDPM_STEPS - 1) / steps
    return torch.tensor([int(DDPM_STEPS - 1 - i * stride) for i in range(steps)]).flip(0)
