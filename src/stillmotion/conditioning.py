"""What the U-Net is told: an image, its latents, and three numbers; and how training hides them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .models.autoencoder import Autoencoder, Moments
from .models.image_encoder import ImageEncoder, clip_pixels


@dataclasses.dataclass(frozen=True, slots=True)
class Condition:
    """Everything that steers one batch of videos."""

    # Tokens for cross-attention: the image's CLIP embedding.
    context: Float[Tensor, "b n d"]
    # The mean latents of the noised image, unscaled, the same for every frame.
    image_latents: Float[Tensor, "b 1 c h w"]
    # fps - 1, motion bucket, noise augmentation: as the released weights were trained to read them.
    numbers: Float[Tensor, "b k"]

    def unconditional(self) -> Condition:
        """The same without the image: its embedding and its latents are zero, the numbers stay."""
        return dataclasses.replace(
            self, context=torch.zeros_like(self.context), image_latents=torch.zeros_like(self.image_latents)
        )

    def both_branches(self) -> Condition:
        """One batch for guidance: the unconditional rows, then these."""
        nothing = self.unconditional()
        return Condition(
            torch.cat([nothing.context, self.context]),
            torch.cat([nothing.image_latents, self.image_latents]),
            torch.cat([nothing.numbers, self.numbers]),
        )

    def beside(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c2 h w"]:
        """The U-Net's input: noisy latents with the image latents behind them on the channel axis."""
        image = self.image_latents.to(latents.dtype).expand(-1, latents.shape[1], -1, -1, -1)
        return torch.cat([latents, image], dim=2)

    def to(self, device: torch.device, dtype: torch.dtype) -> Condition:
        """On another device, its tensors but for the numbers in another precision."""
        return Condition(self.context.to(device, dtype), self.image_latents.to(device, dtype), self.numbers.to(device))


def embed_image(encoder: ImageEncoder, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 d"]:
    """The projected CLIP embedding of clean images in [-1, 1], as one context token."""
    pixels = clip_pixels(images.float()).to(encoder.visual_projection.weight.dtype)
    return encoder(pixels).image_embeds[:, None]


def image_latents(
    autoencoder: Autoencoder,
    images: Float[Tensor, "b c h w"],
    noise_aug: float | Float[Tensor, " b"],
    noise: Float[Tensor, "b c h w"],
    encode: Callable[[Float[Tensor, "b 1 c h w"]], Moments] | None = None,
) -> Float[Tensor, "b 1 c2 h2 w2"]:
    """Mean latents of images in [-1, 1] with `noise` times `noise_aug` added to their pixels; not scaled.

    encode: another way through the autoencoder than its own.
    """
    strength = torch.as_tensor(noise_aug, dtype=images.dtype, device=images.device).reshape(-1, 1, 1, 1)
    noised = images + strength * noise.to(images)
    return (encode or autoencoder.encode)(noised[:, None].to(autoencoder.quant_conv.weight.dtype)).mean


def micro_conditions(
    fps: float | Float[Tensor, " b"],
    motion_bucket: float | Float[Tensor, " b"],
    noise_aug: float | Float[Tensor, " b"],
    batch: int,
) -> Float[Tensor, "b k"]:
    """The three numbers of a batch from the true frame rate: the network was trained on the rate less one."""
    columns = [torch.as_tensor(v, dtype=torch.float32) for v in (fps, motion_bucket, noise_aug)]
    columns[0] = columns[0] - 1
    return torch.stack([column.expand(batch) for column in columns], dim=1)


def drop_conditions(condition: Condition, draws: Float[Tensor, " b"], probability: float) -> Condition:
    """Hide the image from some samples of a training batch, by uniform `draws` in [0, 1).

    With `probability` p each: the embedding alone, the latents alone, and both. Source: InstructPix2Pix's scheme as
    the public SVD fine-tunes use it.
    """
    hides_context: Bool[Tensor, " b"] = (draws < probability) | ((draws >= 2 * probability) & (draws < 3 * probability))
    hides_latents: Bool[Tensor, " b"] = (draws >= probability) & (draws < 3 * probability)
    return dataclasses.replace(
        condition,
        context=condition.context.masked_fill(hides_context[:, None, None], 0),
        image_latents=condition.image_latents.masked_fill(hides_latents[:, None, None, None, None], 0),
    )
