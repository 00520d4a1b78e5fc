"""Numbers as vectors: sinusoids of a noise level, a frame index or a scalar condition, and the MLP behind them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoid(values: Shaped[Tensor, "..."], width: int, max_period: float = 10000.0) -> Float[Tensor, "... d"]:
    """Cosines, then sines, of each value at `width // 2` frequencies falling from 1 to 1 / max_period, in float32.

    Source: Vaswani 2017, section 3.5, in the order that Stable Diffusion's checkpoints were trained with.
    """
    half = width // 2
    # The product before the quotient, as both parents have it: at width 320 the other order rounds differently.
    exponents = -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=values.device) / half
    angles = values.float()[..., None] * torch.exp(exponents)
    waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(waves, (0, 1)) if width % 2 else waves


class EmbeddingMLP(nn.Module):
    """Linear, SiLU, linear."""

    def __init__(self, in_width: int, hidden_width: int, out_width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_width, hidden_width)
        self.linear_2 = nn.Linear(hidden_width, out_width)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... e"]:
        return self.linear_2(F.silu(self.linear_1(x)))
