"""The denoising loss."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def velocity_weight(sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The weight of the clean-signal error that makes the loss uniform in the predicted velocity."""
    return (sigma**2 + 1) / sigma**2


def denoising_loss(
    denoised: Float[Tensor, "b ..."], clean: Float[Tensor, "b ..."], weight: Float[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Weighted mean square error of the estimate, one weight a sample. Source: Karras 2022, equation 2."""
    error = (denoised - clean).square().flatten(1).mean(dim=1)
    return (weight * error).mean()
