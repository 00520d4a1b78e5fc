"""The U-Net that denoises latents: spatio-temporal for video, spatial for single images, by configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..config import check_sizes, config
from ..errors import UsageError
from ..nn.attention import FeedForward
from ..nn.embedding import EmbeddingMLP, sinusoid
from ..nn.mix import Mix
from ..nn.regions import region
from ..nn.resample import Downsample, Upsample
from ..nn.resnet import GROUPS, ResnetBlock, SpatioTemporalResnet
from ..nn.transformer import SpatialTransformer, SpatioTemporalTransformer

ORIGINAL_EPS = 1e-5  # of every resnet norm in the code that trained the released weights
DIFFUSERS_EPS = 1e-6  # what diffusers uses in its attention levels and in its whole upward path


@config
class UNetConfig:
    """Shape of the U-Net; the defaults are the released Stable Video Diffusion, 1,524,623,082 parameters."""

    # Noisy latents beside the latents of the conditioning image, and the prediction.
    in_channels: int = 8
    out_channels: int = 4
    # One entry a level, from full resolution down.
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    has_attention: tuple[bool, ...] = (True, True, True, False)
    heads: tuple[int, ...] = (5, 10, 20, 20)
    layers: tuple[int, ...] = (2, 2, 2, 2)
    transformer_depth: tuple[int, ...] = (1, 1, 1, 1)
    context_width: tuple[int, ...] = (1024, 1024, 1024, 1024)
    # Each scalar condition becomes a sinusoid of this width; there are `numbers` of them.
    number_width: int = 256
    numbers: int = 3
    # False makes the image model: the same layers without those that look across frames.
    is_temporal: bool = True
    # The number of frames and the latent size that the weights were trained at; the network takes any.
    frames: int = 14
    sample_size: int = 96
    # GroupNorm epsilons of the resnets: the original's, or those of diffusers for bit-level comparison.
    norm_eps: Literal["original", "diffusers"] = "original"

    def __post_init__(self) -> None:
        check_sizes(self, ("in_channels", "out_channels", "channels", "heads", "layers", "transformer_depth"))
        check_sizes(self, ("context_width", "number_width", "numbers", "frames", "sample_size"))
        levels = len(self.channels)
        for name in ("has_attention", "heads", "layers", "transformer_depth", "context_width"):
            if len(getattr(self, name)) != levels:
                raise UsageError(f"{name} has {len(getattr(self, name))} entries; expected one a level, {levels}.")
        for channels, heads in zip(self.channels, self.heads, strict=True):
            if channels % GROUPS or channels % heads:
                raise UsageError(
                    f"a level has {channels} channels and {heads} heads; "
                    f"expected a multiple of {GROUPS} and of the heads."
                )

    def resnet_eps(self, stage: Literal["down", "mid", "up"], has_attention: bool) -> float:
        """Epsilon of the resnet norms at one place of the network."""
        if self.norm_eps == "original" or stage == "mid" or (stage == "down" and not has_attention):
            return ORIGINAL_EPS
        return DIFFUSERS_EPS


class DownLevel(nn.Module):
    """Residual blocks, each with a transformer where the level has attention, then a halving but at the last level."""

    def __init__(self, cfg: UNetConfig, level: int) -> None:
        super().__init__()
        out_channels = cfg.channels[level]
        first = cfg.channels[max(level - 1, 0)]
        eps = cfg.resnet_eps("down", cfg.has_attention[level])
        inputs = [first] + [out_channels] * (cfg.layers[level] - 1)
        self.resnets = nn.ModuleList(_resnet(cfg, width, out_channels, eps) for width in inputs)
        if cfg.has_attention[level]:
            self.attentions = nn.ModuleList(_transformer(cfg, level) for _ in inputs)
        if level < len(cfg.channels) - 1:
            self.downsamplers = nn.ModuleList([Downsample(out_channels, pads_all_sides=True)])


class MidLevel(nn.Module):
    """Residual block, transformer, residual block at the smallest size."""

    def __init__(self, cfg: UNetConfig) -> None:
        super().__init__()
        width, eps = cfg.channels[-1], cfg.resnet_eps("mid", True)
        self.resnets = nn.ModuleList(_resnet(cfg, width, width, eps) for _ in range(2))
        self.attentions = nn.ModuleList([_transformer(cfg, len(cfg.channels) - 1)])


class UpLevel(nn.Module):
    """As on the way down, with one block more, each taking one skip connection beside its input."""

    def __init__(self, cfg: UNetConfig, level: int) -> None:
        super().__init__()
        top = len(cfg.channels) - 1
        out_channels = cfg.channels[level]
        below = cfg.channels[min(level + 1, top)]
        above = cfg.channels[max(level - 1, 0)]
        blocks = cfg.layers[level] + 1
        eps = cfg.resnet_eps("up", cfg.has_attention[level])
        inputs = [below] + [out_channels] * (blocks - 1)
        skips = [out_channels] * (blocks - 1) + [above]
        self.resnets = nn.ModuleList(
            _resnet(cfg, width + skip, out_channels, eps) for width, skip in zip(inputs, skips, strict=True)
        )
        if cfg.has_attention[level]:
            self.attentions = nn.ModuleList(_transformer(cfg, level) for _ in inputs)
        if level > 0:
            self.upsamplers = nn.ModuleList([Upsample(out_channels)])


class UNet(nn.Module):
    """Predicts the denoising target of noisy latents, given the conditioning image's latents beside them."""

    def __init__(self, cfg: UNetConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.gradient_checkpointing = False
        width = cfg.channels[0]
        self.conv_in = nn.Conv2d(cfg.in_channels, width, 3, padding=1)
        self.time_embedding = EmbeddingMLP(width, 4 * width, 4 * width)
        self.add_embedding = EmbeddingMLP(cfg.numbers * cfg.number_width, 4 * width, 4 * width)
        levels = range(len(cfg.channels))
        self.down_blocks = nn.ModuleList(DownLevel(cfg, level) for level in levels)
        self.mid_block = MidLevel(cfg)
        self.up_blocks = nn.ModuleList(UpLevel(cfg, level) for level in reversed(levels))
        self.conv_norm_out = nn.GroupNorm(GROUPS, width, eps=ORIGINAL_EPS)
        self.conv_out = nn.Conv2d(width, cfg.out_channels, 3, padding=1)

    def forward(
        self,
        x: Float[Tensor, "b t c h w"],
        c_noise: Float[Tensor, " b"],
        context: Float[Tensor, "b n d"],
        numbers: Float[Tensor, "b k"],
        images_only: Bool[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b t c2 h w"]:
        """Predict from scaled noisy latents with image latents behind them on the channel axis.

        c_noise: the noise level as the network was trained to read it (0.25 ln sigma for SVD).
        context: tokens for cross-attention, one set a video. numbers: the scalar conditions, fps - 1 first.
        images_only: frames that must not look at their neighbours. Any height and width of at least one pixel work.
        """
        embedding = self.embed(c_noise, numbers, x.dtype)
        skips = [self.conv_in(x.flatten(0, 1)).unflatten(0, x.shape[:2])]
        for level in self.down_blocks:
            skips += self._down(cast(DownLevel, level), skips[-1], embedding, context, images_only)
        h = self._run(self.mid_block.resnets[0], skips[-1], embedding, images_only)
        h = self._run(self.mid_block.attentions[0], h, context, images_only)
        h = self._run(self.mid_block.resnets[1], h, embedding, images_only)
        for level in self.up_blocks:
            h = self._up(cast(UpLevel, level), h, skips, embedding, context, images_only)
        h = self.conv_out(F.silu(self.conv_norm_out(h.flatten(0, 1))))
        return h.unflatten(0, x.shape[:2])

    def embed(
        self, c_noise: Float[Tensor, " b"], numbers: Float[Tensor, "b k"], dtype: torch.dtype
    ) -> Float[Tensor, "b e"]:
        """The embedding that every residual block receives: noise level plus scalar conditions."""
        noise = self.time_embedding(sinusoid(c_noise, self.cfg.channels[0]).to(dtype))
        waves = sinusoid(numbers, self.cfg.number_width).flatten(1)
        return noise + self.add_embedding(waves.to(dtype))

    def _down(
        self, level: DownLevel, h: Tensor, embedding: Tensor, context: Tensor, images_only: Tensor | None
    ) -> list[Tensor]:
        outputs = []
        for i, resnet in enumerate(level.resnets):
            h = self._run(resnet, h, embedding, images_only)
            if "attentions" in level._modules:
                h = self._run(level.attentions[i], h, context, images_only)
            outputs.append(h)
        if "downsamplers" in level._modules:
            outputs.append(level.downsamplers[0](h))
        return outputs

    def _up(
        self,
        level: UpLevel,
        h: Tensor,
        skips: list[Tensor],
        embedding: Tensor,
        context: Tensor,
        images_only: Tensor | None,
    ) -> Tensor:
        for i, resnet in enumerate(level.resnets):
            h = self._run(resnet, torch.cat([h, skips.pop()], dim=2), embedding, images_only)
            if "attentions" in level._modules:
                h = self._run(level.attentions[i], h, context, images_only)
        if "upsamplers" in level._modules:
            # An odd size was rounded up on the way down, so the skip tells the size to return to.
            h = level.upsamplers[0](h, tuple(skips[-1].shape[-2:]))
        return h

    def _run(self, block: Callable[..., Tensor], h: Tensor, *inputs: Tensor | None) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, h, *inputs, use_reentrant=False)
        return _called(h, block, *inputs)

    def zero_last_layers(self) -> None:
        """Start a training from blocks that add nothing: zero the last layer of each, as the original did."""
        for name, module in self.named_modules():
            if name.endswith(("conv2", "proj_out", "conv_out")):
                for parameter in module.parameters():
                    nn.init.zeros_(parameter)


def set_forward_chunking(network: nn.Module, chunk_size: int | None, axis: int = 0) -> None:
    """Bound the memory of every feed-forward by slices of `chunk_size` along rows (0) or tokens (1); None undoes it.

    In temporal blocks the tokens are the frames and the rows the pixels. The result does not change.
    Raises UsageError for a size below 1 or another axis.
    """
    if axis not in (0, 1):
        raise UsageError(f"the chunk axis is {axis}; expected 0 (rows) or 1 (tokens).")
    if chunk_size is not None and chunk_size < 1:
        raise UsageError(f"the chunk size is {chunk_size}; expected at least 1.")
    for module in network.modules():
        if isinstance(module, FeedForward):
            module.chunk_size, module.chunk_axis = chunk_size, axis


def set_forward_slices(network: nn.Module, slices: int | None) -> None:
    """Bound the memory of every feed-forward by cutting its rows into `slices`; None undoes it.

    Unlike `set_forward_chunking`, one number suits spatial and temporal blocks, and every level. The result does not
    change. Raises UsageError below 1.
    """
    if slices is not None and slices < 1:
        raise UsageError(f"the number of slices is {slices}; expected at least 1.")
    for module in network.modules():
        if isinstance(module, FeedForward):
            module.slices = slices


@region(channels=2)
def _called(h: Float[Tensor, "b t c h w"], block: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    return block(h, *inputs)


def _resnet(cfg: UNetConfig, in_channels: int, out_channels: int, eps: float) -> nn.Module:
    embedding_width = 4 * cfg.channels[0]
    if not cfg.is_temporal:
        return ResnetBlock(in_channels, out_channels, embedding_width, eps)
    return SpatioTemporalResnet(in_channels, out_channels, embedding_width, eps, eps, Mix(0.5))


def _transformer(cfg: UNetConfig, level: int) -> nn.Module:
    kind = SpatioTemporalTransformer if cfg.is_temporal else SpatialTransformer
    return kind(cfg.channels[level], cfg.heads[level], cfg.context_width[level], cfg.transformer_depth[level])
