"""Samplers: each takes noise at `sigmas[0]` to clean latents at `sigmas[-1]`, asking only for `denoise(x, sigma)`.

All work in the precision of `x`. `after_step(i, x)` sees the latents after step i and returns those to go on with.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..config import CHOICE, config
from ..errors import UsageError
from .precondition import Denoise

AfterStep = Callable[[int, Tensor], Tensor]
# Fresh unit noise of the latents' shape, from one generator a sample.
DrawNoise = Callable[[], Tensor]


@config
class Euler:
    """First order, one model call a step; deterministic without churn."""

    kind: Literal["euler"] = "euler"
    # Total noise put back (S_churn), the range of sigma where it is, and its deviation. Source: Karras 2022.
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        _check_churn(self)


@config
class Heun:
    """Second order, two model calls a step but the last; churn as in Euler."""

    kind: Literal["heun"] = "heun"
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        _check_churn(self)


@config
class EulerAncestral:
    """Euler to a lower level, then fresh noise up to the next; `eta` 0 makes it Euler."""

    kind: Literal["euler-ancestral"] = "euler-ancestral"
    eta: float = 1.0
    noise: float = 1.0

    def __post_init__(self) -> None:
        _check_not_negative(eta=self.eta, noise=self.noise)


@config
class DPMPP2SAncestral:
    """Second order with a midpoint, two model calls a step, and fresh noise."""

    kind: Literal["dpmpp-2s-ancestral"] = "dpmpp-2s-ancestral"
    eta: float = 1.0
    noise: float = 1.0

    def __post_init__(self) -> None:
        _check_not_negative(eta=self.eta, noise=self.noise)


@config
class DPMPP2M:
    """Second order from the last two estimates, one model call a step."""

    kind: Literal["dpmpp-2m"] = "dpmpp-2m"


@config
class LMS:
    """Linear multistep of up to `order` past slopes, one model call a step."""

    kind: Literal["lms"] = "lms"
    order: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 8:
            raise UsageError(f"the multistep order is {self.order}; expected 1 to 8.")


def _check_churn(cfg: Euler | Heun) -> None:
    _check_not_negative(churn=cfg.churn, churn_min=cfg.churn_min, churn_noise=cfg.churn_noise)
    if not cfg.churn_max >= cfg.churn_min:
        raise UsageError(f"churn_max is {cfg.churn_max}; expected at least churn_min, {cfg.churn_min}.")


def _check_not_negative(**settings: float) -> None:
    for name, value in settings.items():
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(f"{name} is {value}; expected a number of at least 0.")


Sampler = Annotated[Euler | Heun | EulerAncestral | DPMPP2SAncestral | DPMPP2M | LMS, CHOICE]


def keep(step: int, x: Tensor) -> Tensor:
    """An AfterStep that changes nothing."""
    return x


def sample(
    cfg: Euler | Heun | EulerAncestral | DPMPP2SAncestral | DPMPP2M | LMS,
    denoise: Denoise,
    x: Float[Tensor, "b ..."],
    sigmas: Float[Tensor, " n"],
    draw_noise: DrawNoise,
    after_step: AfterStep = keep,
) -> Float[Tensor, "b ..."]:
    """Run the sampler that `cfg` names; `x` is noise already scaled to the first level."""
    match cfg:
        case Euler():
            return sample_euler(cfg, denoise, x, sigmas, draw_noise, after_step)
        case Heun():
            return sample_heun(cfg, denoise, x, sigmas, draw_noise, after_step)
        case EulerAncestral():
            return sample_euler_ancestral(cfg, denoise, x, sigmas, draw_noise, after_step)
        case DPMPP2SAncestral():
            return sample_dpmpp_2s_ancestral(cfg, denoise, x, sigmas, draw_noise, after_step)
        case DPMPP2M():
            return sample_dpmpp_2m(denoise, x, sigmas, after_step)
        case LMS():
            return sample_lms(cfg, denoise, x, sigmas, after_step)


def sample_euler(
    cfg: Euler, denoise: Denoise, x: Tensor, sigmas: Tensor, draw_noise: DrawNoise, after_step: AfterStep = keep
) -> Tensor:
    """Follow the probability-flow ODE with Euler's method. Source: Karras 2022, algorithm 2 without correction."""
    for i, (sigma, below) in enumerate(_intervals(sigmas)):
        x, sigma = _churned(cfg, x, sigma, len(sigmas) - 1, draw_noise)
        slope = (x - denoise(x, sigma)) / sigma
        x = after_step(i, x + (below - sigma) * slope)
    return x


def sample_heun(
    cfg: Heun, denoise: Denoise, x: Tensor, sigmas: Tensor, draw_noise: DrawNoise, after_step: AfterStep = keep
) -> Tensor:
    """Follow the probability-flow ODE with Heun's method. Source: Karras 2022, algorithm 2."""
    for i, (sigma, below) in enumerate(_intervals(sigmas)):
        x, sigma = _churned(cfg, x, sigma, len(sigmas) - 1, draw_noise)
        slope = (x - denoise(x, sigma)) / sigma
        moved = x + (below - sigma) * slope
        if below > 0:
            slope = (slope + (moved - denoise(moved, below)) / below) / 2
            moved = x + (below - sigma) * slope
        x = after_step(i, moved)
    return x


def sample_euler_ancestral(
    cfg: EulerAncestral,
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    draw_noise: DrawNoise,
    after_step: AfterStep = keep,
) -> Tensor:
    """Step below the next level and return to it with fresh noise. Source: k-diffusion, after Song 2020 (DDIM)."""
    for i, (sigma, below) in enumerate(_intervals(sigmas)):
        down, up = _ancestral_levels(sigma, below, cfg.eta)
        slope = (x - denoise(x, sigma)) / sigma
        x = x + (down - sigma) * slope
        if up > 0:
            x = x + cfg.noise * up * draw_noise()
        x = after_step(i, x)
    return x


def sample_dpmpp_2s_ancestral(
    cfg: DPMPP2SAncestral,
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    draw_noise: DrawNoise,
    after_step: AfterStep = keep,
) -> Tensor:
    """A midpoint step of the exponential integrator, then fresh noise. Source: Lu 2022, DPM-Solver++(2S)."""
    for i, (sigma, below) in enumerate(_intervals(sigmas)):
        down, up = _ancestral_levels(sigma, below, cfg.eta)
        estimate = denoise(x, sigma)
        if down > 0:
            middle = (sigma * down).sqrt()  # half the step in log sigma
            half = torch.lerp(estimate, x, (middle / sigma).to(x))
            estimate = denoise(half, middle)
        x = torch.lerp(estimate, x, (down / sigma).to(x))
        if up > 0:
            x = x + cfg.noise * up * draw_noise()
        x = after_step(i, x)
    return x


def sample_dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, after_step: AfterStep = keep) -> Tensor:
    """The exponential integrator on an estimate extrapolated from the last two. Source: Lu 2022, DPM-Solver++(2M)."""
    previous: Tensor | None = None
    step_before = torch.zeros(())
    for i, (sigma, below) in enumerate(_intervals(sigmas)):
        estimate = denoise(x, sigma)
        step = (sigma / below).log() if below > 0 else torch.tensor(math.inf)
        target = estimate
        if previous is not None and below > 0:
            ratio = step_before / step
            target = estimate + (estimate - previous) / (2 * ratio)
        x = after_step(i, torch.lerp(target, x, (below / sigma).to(x)))
        previous, step_before = estimate, step
    return x


def sample_lms(cfg: LMS, denoise: Denoise, x: Tensor, sigmas: Tensor, after_step: AfterStep = keep) -> Tensor:
    """Adams-Bashforth over uneven levels. Source: k-diffusion; the integrals here are exact, of polynomials."""
    slopes: list[Tensor] = []
    levels = sigmas.double().tolist()
    for i, (sigma, _) in enumerate(_intervals(sigmas)):
        slopes = [(x - denoise(x, sigma)) / sigma, *slopes][: cfg.order]
        weights = _lagrange_integrals(levels, i, len(slopes))
        x = after_step(i, x + sum(w * slope for w, slope in zip(weights, slopes, strict=True)))
    return x


def check_levels(sigmas: Float[Tensor, " n"]) -> None:
    """Raise UsageError unless a sampler can go from each level to the next."""
    falls = len(sigmas) > 1 and bool((sigmas.diff() < 0).all())
    if not falls or sigmas[-1] < 0 or sigmas[0] == torch.inf:
        raise UsageError(f"sigmas are {sigmas.tolist()}; expected two or more, finite, strictly falling to 0 or above.")


def _intervals(sigmas: Tensor) -> list[tuple[Tensor, Tensor]]:
    check_levels(sigmas.float())
    return list(itertools.pairwise(sigmas.float()))


def _churned(cfg: Euler | Heun, x: Tensor, sigma: Tensor, steps: int, draw_noise: DrawNoise) -> tuple[Tensor, Tensor]:
    """Raise the noise level a little before a step. Source: Karras 2022, algorithm 2, lines 4 to 6."""
    if cfg.churn <= 0 or not cfg.churn_min <= sigma <= cfg.churn_max:
        return x, sigma
    raised = sigma * (1 + min(cfg.churn / steps, math.sqrt(2) - 1))
    return x + (raised**2 - sigma**2).sqrt() * cfg.churn_noise * draw_noise(), raised


def _ancestral_levels(sigma: Tensor, below: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """The level to step down to and the deviation of the noise that returns from it to `below`."""
    up = torch.minimum(below, eta * (below**2 * (sigma**2 - below**2) / sigma**2).sqrt())
    return (below**2 - up**2).sqrt(), up


def _lagrange_integrals(levels: list[float], i: int, order: int) -> list[float]:
    """Integrals over [levels[i], levels[i + 1]] of the Lagrange polynomials through the last `order` levels."""
    nodes = [levels[i - j] for j in range(order)]
    start, end = levels[i], levels[i + 1]
    weights = []
    for j, node in enumerate(nodes):
        # Coefficients, highest power last, of the product of (s - other) / (node - other); shifted to s = start.
        coefficients = [1.0]
        for other in (n for k, n in enumerate(nodes) if k != j):
            shift, scale = start - other, node - other
            product = [0.0] * (len(coefficients) + 1)
            for power, value in enumerate(coefficients):
                product[power] += value * shift / scale
                product[power + 1] += value / scale
            coefficients = product
        length = end - start
        weights.append(sum(value * length ** (power + 1) / (power + 1) for power, value in enumerate(coefficients)))
    return weights
