"""Halving and doubling the height and width of every frame."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2. The U-Net pads all four sides, the autoencoder only right and bottom."""

    def __init__(self, channels: int, pads_all_sides: bool) -> None:
        super().__init__()
        self.pads_all_sides = pads_all_sides
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if pads_all_sides else 0)

    def forward(self, x: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h2 w2"]:
        rows = x.flatten(0, 1)
        if not self.pads_all_sides:
            rows = F.pad(rows, (0, 1, 0, 1))
        return self.conv(rows).unflatten(0, x.shape[:2])

    def extra_repr(self) -> str:
        return f"pads_all_sides={self.pads_all_sides}"


class Upsample(nn.Module):
    """Nearest-neighbour enlargement, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "b t c h w"], size: tuple[int, int] | None = None
    ) -> Float[Tensor, "b t c h2 w2"]:
        """Double height and width, or reach `size` (height, width) where an odd size was halved on the way down."""
        target = size or (2 * x.shape[-2], 2 * x.shape[-1])
        rows = F.interpolate(x.flatten(0, 1), size=target, mode="nearest")
        return self.conv(rows).unflatten(0, x.shape[:2])
