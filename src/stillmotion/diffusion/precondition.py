"""How a network's output becomes an estimate of the clean signal: scalings, continuous or quantised."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..config import CHOICE, config

# A network of scaled input and noise condition (one value a sample), with everything else already bound to it.
Network = Callable[[Float[Tensor, "b ..."], Float[Tensor, " b"]], Float[Tensor, "b ..."]]
# The estimate of the clean signal behind `x` at noise level sigma: what every sampler asks for.
Denoise = Callable[[Float[Tensor, "b ..."], Float[Tensor, ""]], Float[Tensor, "b ..."]]


@config
class EDM:
    """Karras 2022, table 1, last column."""

    kind: Literal["edm"] = "edm"
    sigma_data: float = 0.5


@config
class Eps:
    """The network predicts the noise, and reads sigma itself or its index in a table."""

    kind: Literal["eps"] = "eps"


@config
class V:
    """The network predicts the velocity, and reads sigma itself or its index in a table. Source: Salimans 2022."""

    kind: Literal["v"] = "v"


@config
class VWithEDMNoise:
    """Velocity, with EDM's noise condition: Stable Video Diffusion."""

    kind: Literal["v-edm"] = "v-edm"


Parameterisation = Annotated[EDM | Eps | V | VWithEDMNoise, CHOICE]


@dataclasses.dataclass(frozen=True, slots=True)
class Scalings:
    """D(x) = c_skip x + c_out F(c_in x, c_noise). Source: Karras 2022, equation 7."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def scalings(kind: EDM | Eps | V | VWithEDMNoise, sigma: Float[Tensor, "..."]) -> Scalings:
    """The four scalings at noise level `sigma`, in its precision."""
    one = torch.ones_like(sigma)
    if isinstance(kind, EDM):
        total = sigma**2 + kind.sigma_data**2
        c_out = sigma * kind.sigma_data / total.sqrt()
        return Scalings(kind.sigma_data**2 / total, c_out, total.rsqrt(), sigma.log() / 4)
    total = sigma**2 + 1
    if isinstance(kind, Eps):
        return Scalings(one, -sigma, total.rsqrt(), sigma)
    c_noise = sigma.log() / 4 if isinstance(kind, VWithEDMNoise) else sigma
    return Scalings(1 / total, -sigma / total.sqrt(), total.rsqrt(), c_noise)


def denoised(
    network: Network,
    kind: EDM | Eps | V | VWithEDMNoise,
    x: Float[Tensor, "b ..."],
    sigma: Float[Tensor, " b"],
    table: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, "b ..."]:
    """The clean signal behind `x`, whose samples carry noise of deviation `sigma`; all of it in float32.

    With a `table` of the noise levels that the network was trained at (any order), sigma is replaced by the nearest
    one and the network reads its index. Source: sgm's discrete denoiser.
    """
    sigma = sigma.float()
    index = None
    if table is not None:
        index = (sigma[:, None] - table.to(sigma)).abs().argmin(dim=1)
        sigma = table.to(sigma)[index]
    scale = scalings(kind, sigma)
    c_noise = scale.c_noise if index is None else index.float()
    shape = (-1, *(1,) * (x.ndim - 1))
    output = network(scale.c_in.reshape(shape) * x, c_noise).float()
    return scale.c_skip.reshape(shape) * x + scale.c_out.reshape(shape) * output
