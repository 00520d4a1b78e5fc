"""The autoencoder: frame-wise encoder, and a decoder that is frame-wise too or looks across frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import check_sizes, config
from ..errors import UsageError
from ..events import Progress, Watch, unwatched
from ..nn.attention import FrameAttention
from ..nn.mix import Mix
from ..nn.resample import Downsample, Upsample
from ..nn.resnet import GROUPS, ResnetBlock, SpatioTemporalResnet

EPS = 1e-6  # of every frame-wise norm here, in both parents
TEMPORAL_EPS = 1e-5  # of the norms that pool over frames


@config
class AutoencoderConfig:
    """Shape of the autoencoder; the defaults are the released one, 97,742,847 parameters with the temporal decoder."""

    image_channels: int = 3
    latent_channels: int = 4
    # One entry a level, from full resolution down; each level but the last halves height and width.
    channels: tuple[int, ...] = (128, 256, 512, 512)
    # Residual blocks a level on the way down; the decoder has one more.
    layers: int = 2
    decoder: Literal["temporal", "image"] = "temporal"
    # Latents times this have a standard deviation near 1, which is what the U-Net is trained on.
    scaling_factor: float = 0.18215
    # The image size that the weights were trained at; any multiple of the downsampling works.
    sample_size: int = 768
    # Whether float16 overflows in these weights, so that they run in float32 instead.
    force_upcast: bool = True

    def __post_init__(self) -> None:
        check_sizes(self, ("image_channels", "latent_channels", "channels", "layers", "sample_size"))
        if not 0 < self.scaling_factor < math.inf:
            raise UsageError(f"the scaling factor is {self.scaling_factor}; expected a finite one above 0.")
        if any(width % GROUPS for width in self.channels):
            raise UsageError(f"the autoencoder's channels are {self.channels}; expected multiples of {GROUPS}.")

    @property
    def downsampling(self) -> int:
        """Image pixels per latent pixel, along each side."""
        return 2 ** (len(self.channels) - 1)


class Moments:
    """The Gaussian that the encoder gives for each latent: mean and clamped log-variance."""

    def __init__(self, moments: Float[Tensor, "b t c2 h w"]) -> None:
        self.mean, logvar = moments.chunk(2, dim=2)
        self.logvar = logvar.clamp(-30.0, 20.0)

    def sample(self, noise: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        """The latents that unit `noise` picks."""
        return self.mean + (0.5 * self.logvar).exp() * noise

    def kl(self) -> Float[Tensor, " b"]:
        """Divergence from the unit Gaussian in nats, summed over each sample's latents."""
        terms = self.mean.square() + self.logvar.exp() - 1 - self.logvar
        return 0.5 * terms.flatten(1).sum(1)


class EncoderLevel(nn.Module):
    """Frame-wise residual blocks, then a halving but at the last level."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, halves: bool) -> None:
        super().__init__()
        inputs = [in_channels] + [out_channels] * (layers - 1)
        self.resnets = nn.ModuleList(ResnetBlock(width, out_channels, None, EPS) for width in inputs)
        if halves:
            self.downsamplers = nn.ModuleList([Downsample(out_channels, pads_all_sides=False)])

    def forward(self, h: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c2 h2 w2"]:
        for resnet in self.resnets:
            h = resnet(h)
        return self.downsamplers[0](h) if "downsamplers" in self._modules else h


class EncoderMiddle(nn.Module):
    """Residual block, attention over the frame's pixels, residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([FrameAttention(width, EPS)])
        self.resnets = nn.ModuleList(ResnetBlock(width, width, None, EPS) for _ in range(2))

    def forward(self, h: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        return self.resnets[1](self.attentions[0](self.resnets[0](h)))


class Encoder(nn.Module):
    """Images to the moments of their latents, before quant_conv."""

    def __init__(self, cfg: AutoencoderConfig) -> None:
        super().__init__()
        widths = cfg.channels
        self.conv_in = nn.Conv2d(cfg.image_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            EncoderLevel(widths[max(i - 1, 0)], width, cfg.layers, halves=i < len(widths) - 1)
            for i, width in enumerate(widths)
        )
        self.mid_block = EncoderMiddle(widths[-1])
        self.conv_norm_out = nn.GroupNorm(GROUPS, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * cfg.latent_channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c2 h2 w2"]:
        h = self.conv_in(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        for level in self.down_blocks:
            h = level(h)
        h = self.mid_block(h).flatten(0, 1)
        return self.conv_out(F.silu(self.conv_norm_out(h))).unflatten(0, x.shape[:2])


class DecoderMiddle(nn.Module):
    """Residual blocks with one attention over the frame's pixels after the first."""

    def __init__(self, cfg: AutoencoderConfig) -> None:
        super().__init__()
        width = cfg.channels[-1]
        # The temporal decoder of diffusers counts its middle blocks by `layers`, the image decoder has two.
        blocks = cfg.layers if cfg.decoder == "temporal" else 2
        self.attentions = nn.ModuleList([FrameAttention(width, EPS)])
        self.resnets = nn.ModuleList(_decoder_resnet(cfg, width, width) for _ in range(blocks))

    def forward(self, h: Float[Tensor, "b t c h w"], images_only: Tensor | None) -> Float[Tensor, "b t c h w"]:
        h = self.resnets[0](h, None, images_only)
        for resnet in self.resnets[1:2]:  # diffusers pairs blocks with its one attention, and runs no third
            h = resnet(self.attentions[0](h), None, images_only)
        return h


class DecoderLevel(nn.Module):
    """Residual blocks, then a doubling but at full resolution."""

    def __init__(self, cfg: AutoencoderConfig, in_channels: int, out_channels: int, doubles: bool) -> None:
        super().__init__()
        inputs = [in_channels] + [out_channels] * cfg.layers
        self.resnets = nn.ModuleList(_decoder_resnet(cfg, width, out_channels) for width in inputs)
        if doubles:
            self.upsamplers = nn.ModuleList([Upsample(out_channels)])

    def forward(self, h: Float[Tensor, "b t c h w"], images_only: Tensor | None) -> Float[Tensor, "b t c2 h2 w2"]:
        for resnet in self.resnets:
            h = resnet(h, None, images_only)
        return self.upsamplers[0](h) if "upsamplers" in self._modules else h


class Decoder(nn.Module):
    """Latents to frames. The temporal one ends with a convolution over neighbouring frames."""

    def __init__(self, cfg: AutoencoderConfig) -> None:
        super().__init__()
        widths = cfg.channels[::-1]
        self.conv_in = nn.Conv2d(cfg.latent_channels, widths[0], 3, padding=1)
        self.mid_block = DecoderMiddle(cfg)
        self.up_blocks = nn.ModuleList(
            DecoderLevel(cfg, widths[max(i - 1, 0)], width, doubles=i < len(widths) - 1)
            for i, width in enumerate(widths)
        )
        self.conv_norm_out = nn.GroupNorm(GROUPS, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], cfg.image_channels, 3, padding=1)
        if cfg.decoder == "temporal":
            image_channels = cfg.image_channels
            self.time_conv_out = nn.Conv3d(image_channels, image_channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(
        self, z: Float[Tensor, "b t c h w"], images_only: Bool[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b t c2 h2 w2"]:
        h = self.conv_in(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        h = self.mid_block(h, images_only)
        for level in self.up_blocks:
            h = level(h, images_only)
        h = self.conv_out(F.silu(self.conv_norm_out(h.flatten(0, 1)))).unflatten(0, z.shape[:2])
        if "time_conv_out" in self._modules:
            h = self.time_conv_out(h.transpose(1, 2)).transpose(1, 2)
        return h


class Autoencoder(nn.Module):
    """Frames in [-1, 1] to latents and back. Latents here are unscaled: `cfg.scaling_factor` is the caller's."""

    def __init__(self, cfg: AutoencoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.encoder = Encoder(cfg)
        self.decoder = Decoder(cfg)
        self.quant_conv = nn.Conv2d(2 * cfg.latent_channels, 2 * cfg.latent_channels, 1)
        if cfg.decoder == "image":
            self.post_quant_conv = nn.Conv2d(cfg.latent_channels, cfg.latent_channels, 1)

    def encode(self, frames: Float[Tensor, "b t c h w"]) -> Moments:
        """The distribution of the latents of `frames`; height and width are multiples of `cfg.downsampling`."""
        moments = self.quant_conv(self.encoder(frames).flatten(0, 1))
        return Moments(moments.unflatten(0, frames.shape[:2]))

    def decode(
        self, latents: Float[Tensor, "b t c h w"], images_only: Bool[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b t c2 h2 w2"]:
        """Frames of unscaled `latents`, near [-1, 1] but not clamped. All frames given are decoded together."""
        if "post_quant_conv" in self._modules:
            latents = self.post_quant_conv(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
        return self.decoder(latents, images_only)

    def forward(self, frames: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        """Reconstruct frames through the mean of their latents."""
        return self.decode(self.encode(frames).mean)


def decode_in_chunks(
    decode: Callable[[Tensor], Tensor],
    latents: Float[Tensor, "b t c h w"],
    frames_at_once: int,
    watch: Watch = unwatched,
) -> Float[Tensor, "b t c2 h2 w2"]:
    """Decode `frames_at_once` frames at a time, each chunk for itself and never across videos, as the parents do.

    decode: such as Autoencoder.decode: latents `1 t c h w` to frames. The temporal decoder's norms and convolutions
    see only the chunk, so a smaller one changes the pixels.
    """
    total, videos = latents.shape[0] * latents.shape[1], []
    watch(Progress("decode", 0, total))
    for index, video in enumerate(latents):
        chunks = []
        for first in range(0, len(video), frames_at_once):
            chunks.append(decode(video[None, first : first + frames_at_once]))
            done = index * len(video) + min(first + frames_at_once, len(video))
            watch(Progress("decode", done, total))
        videos.append(torch.cat(chunks, dim=1))
    return torch.cat(videos)


def _decoder_resnet(cfg: AutoencoderConfig, in_channels: int, out_channels: int) -> nn.Module:
    if cfg.decoder == "image":
        return ResnetBlock(in_channels, out_channels, None, EPS)
    mix = Mix(0.0, weighs_temporal=True)
    return SpatioTemporalResnet(in_channels, out_channels, None, EPS, TEMPORAL_EPS, mix)
