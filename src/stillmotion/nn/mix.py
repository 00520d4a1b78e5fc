"""The learned blend of a frame-wise result with one that looks across frames."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Mix(nn.Module):
    """One learned weight per block: alpha = sigmoid(mix_factor) is the share of the frame-wise result.

    The decoder of the autoencoder was trained with the opposite reading, alpha as the share of the temporal result;
    `weighs_temporal` selects it. Source: Blattmann 2023 (Align your Latents), equation 4.
    """

    def __init__(self, initial: float, weighs_temporal: bool = False) -> None:
        super().__init__()
        self.weighs_temporal = weighs_temporal
        self.mix_factor = nn.Parameter(torch.tensor([initial]))

    def forward(
        self,
        spatial: Float[Tensor, "b t ..."],
        temporal: Float[Tensor, "b t ..."],
        images_only: Bool[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b t ..."]:
        """Blend; frames marked in `images_only` keep the frame-wise result alone."""
        alpha = self.mix_factor.sigmoid().to(spatial.dtype)
        if self.weighs_temporal:
            alpha = 1 - alpha
        if images_only is not None:
            alpha = torch.where(images_only, torch.ones_like(alpha), alpha)
            alpha = alpha.reshape(*images_only.shape, *(1,) * (spatial.ndim - 2))
        return alpha * spatial + (1 - alpha) * temporal

    def extra_repr(self) -> str:
        return f"weighs_temporal={self.weighs_temporal}"
