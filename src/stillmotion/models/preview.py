"""Latents as small pictures, through a linear map that is fitted to the image at hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError

# Against latents of unit variance. Without it the map of a flat image is undetermined; from 0.001 to 0.01 the previews
# of photographs are equally good, within 0.1 dB.
RIDGE = 5e-3


@dataclasses.dataclass(frozen=True, slots=True)
class LatentRGB:
    """Pixels in [-1, 1] of scaled latents z, one a latent pixel: weight @ z + bias."""

    weight: Float[Tensor, "3 c"]
    bias: Float[Tensor, "3"]

    def pixels(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t 3 h w"]:
        """What the map makes of latents, in their device and precision; not clamped."""
        mapped = torch.einsum("kc,btchw->btkhw", self.weight.to(latents), latents)
        return mapped + self.bias.to(latents)[:, None, None]

    def frames(self, latents: Float[Tensor, "b t c h w"]) -> UInt8[np.ndarray, "b t h w 3"]:
        """The same as bytes on the CPU. Latents that are no numbers come out as some colour."""
        levels = (self.pixels(latents.float()) * 127.5 + 127.5).nan_to_num(127.5).clamp(0, 255).round()
        return levels.to(torch.uint8).movedim(2, -1).cpu().numpy()


def fit_latent_rgb(latents: Float[Tensor, "n c h w"], images: Float[Tensor, "n 3 h2 w2"]) -> LatentRGB:
    """The map that takes scaled `latents` nearest to their `images` in [-1, 1], each averaged over a latent pixel.

    Ridge regression in closed form, in float64 on the CPU. Two images need no decoder and a model no stored numbers: a
    map of its own image shows a video better than one of many images would. Raises UsageError where the number of
    latents and images differs, or an image does not fill its latents evenly.
    """
    (n, channels, height, width), size = latents.shape, images.shape
    if size[0] != n or size[1] != 3 or size[2] % height or size[3] % width or not latents.numel():
        raise UsageError(
            f"latents {tuple(latents.shape)} were given with images {tuple(size)}; expected RGB images of as many "
            "whole multiples of their height and width."
        )
    averaged = F.adaptive_avg_pool2d(images.float().cpu(), (height, width))
    inputs = latents.detach().cpu().double().movedim(1, -1).reshape(-1, channels)
    targets = averaged.double().movedim(1, -1).reshape(-1, 3)
    middle, bias = inputs.mean(0), targets.mean(0)
    inputs, targets = inputs - middle, targets - bias
    covariance = inputs.T @ inputs / len(inputs) + RIDGE * torch.eye(channels, dtype=torch.float64)
    weight = torch.linalg.solve(covariance, inputs.T @ targets / len(inputs)).T
    return LatentRGB(weight.float(), (bias - weight @ middle).float())
