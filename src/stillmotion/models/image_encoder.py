"""The CLIP image encoder, thin over transformers, and its antialiased input."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ..config import check_sizes, config
from ..errors import UsageError

INPUT_SIZE = 224  # both parents resize to this whatever the tower's configuration says
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training images, per channel in [0, 1]
STD = (0.26862954, 0.26130258, 0.27577711)


@config
class ImageEncoderConfig:
    """Shape of the vision tower; the defaults are CLIP ViT-H/14, 632,076,800 parameters."""

    width: int = 1280
    mlp_width: int = 5120
    layers: int = 32
    heads: int = 16
    patch_size: int = 14
    image_size: int = INPUT_SIZE
    # The width of the embedding, which the U-Net takes as its context.
    projection_width: int = 1024
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_sizes(self, ("width", "mlp_width", "layers", "heads", "patch_size", "image_size", "projection_width"))
        if self.width % self.heads or self.patch_size > self.image_size:
            raise UsageError(
                f"the image encoder has the width {self.width} with {self.heads} heads, and patches of "
                f"{self.patch_size} in an image of {self.image_size}; expected a multiple of the heads, and a patch "
                "that fits."
            )


def build_image_encoder(cfg: ImageEncoderConfig) -> CLIPVisionModelWithProjection:
    """A vision tower of this shape with fresh weights, on the default device (meta works)."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=cfg.width,
            intermediate_size=cfg.mlp_width,
            num_hidden_layers=cfg.layers,
            num_attention_heads=cfg.heads,
            patch_size=cfg.patch_size,
            image_size=cfg.image_size,
            projection_dim=cfg.projection_width,
            hidden_act=cfg.activation,
            layer_norm_eps=cfg.norm_eps,
        )
    ).eval()


def clip_pixels(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 224 224"]:
    """Images in [-1, 1], of any size, as CLIP's normalised input: blurred against aliasing, squashed, normalised.

    The blur's width follows the shrink factor, the resize is bicubic with aligned corners and not clamped: the
    input that the released weights were trained with. Source: kornia's antialiased resize.
    """
    small = F.interpolate(_blur(images), size=(INPUT_SIZE, INPUT_SIZE), mode="bicubic", align_corners=True)
    mean = torch.tensor(MEAN, dtype=images.dtype, device=images.device)[:, None, None]
    std = torch.tensor(STD, dtype=images.dtype, device=images.device)[:, None, None]
    return ((small + 1) / 2 - mean) / std


def _blur(images: Tensor) -> Tensor:
    """Separable Gaussian with reflected borders; its deviation is half the shrink factor less one."""
    for axis in (2, 3):
        sigma = max((images.shape[axis] / INPUT_SIZE - 1) / 2, 0.001)
        taps = int(max(4 * sigma, 3)) | 1
        offsets = torch.arange(taps, dtype=images.dtype, device=images.device) - taps // 2
        kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).reshape([1, 1, taps, 1] if axis == 2 else [1, 1, 1, taps])
        half = taps // 2
        padding = (0, 0, half, half) if axis == 2 else (half, half, 0, 0)
        channels = images.shape[1]
        images = F.conv2d(_reflect(images, padding), kernel.expand(channels, 1, -1, -1), groups=channels)
    return images


def _reflect(images: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Reflected borders; an image too small to reflect from repeats its edge instead."""
    left, right, top, bottom = padding
    fits = max(left, right) < images.shape[3] and max(top, bottom) < images.shape[2]
    return F.pad(images, padding, mode="reflect" if fits else "replicate")
