"""Transformer blocks within each frame and across frames, and the layer that alternates them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .attention import Attention, FeedForward
from .embedding import EmbeddingMLP, sinusoid
from .mix import Mix
from .resnet import GROUPS

NORM_EPS = 1e-6  # of the transformers' GroupNorm, in both parents


def attend_context(
    attention: Attention, norm: nn.Module, x: Float[Tensor, "b r n d"], context: Float[Tensor, "b m e"]
) -> Float[Tensor, "b #r #n d"]:
    """Cross-attention of every row of a video to that video's context.

    With one context token the result is the same vector for every query, so neither norm nor queries are computed.
    """
    if context.shape[1] == 1:
        return attention.of_one_token(context)[:, None]
    rows = context[:, None].expand(-1, x.shape[1], -1, -1)
    return attention(norm(x), rows)


class SpatialTransformerBlock(nn.Module):
    """Self-attention within a frame, cross-attention to the context, feed-forward; each added to its input."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, heads, context_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x: Float[Tensor, "b t n d"], context: Float[Tensor, "b m e"]) -> Float[Tensor, "b t n d"]:
        x = x + self.attn1(self.norm1(x))
        x = x + attend_context(self.attn2, self.norm2, x, context)
        return x + self.ff(self.norm3(x))


class TemporalTransformerBlock(nn.Module):
    """The same across frames: every pixel attends over its own history, with one more feed-forward in front."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(width)
        self.ff_in = FeedForward(width)
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, heads, context_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x: Float[Tensor, "b t n d"], context: Float[Tensor, "b m e"]) -> Float[Tensor, "b t n d"]:
        x = x.transpose(1, 2)  # b n t d: one row per pixel
        x = x + self.ff_in(self.norm_in(x))
        x = x + self.attn1(self.norm1(x))
        x = x + attend_context(self.attn2, self.norm2, x, context)
        x = x + self.ff(self.norm3(x))
        return x.transpose(1, 2)


class SpatialTransformer(nn.Module):
    """Transformer blocks within each frame, as in Stable Diffusion 2."""

    def __init__(self, channels: int, heads: int, context_width: int, depth: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, eps=NORM_EPS)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            SpatialTransformerBlock(channels, heads, context_width) for _ in range(depth)
        )
        self.proj_out = nn.Linear(channels, channels)

    def forward(
        self,
        x: Float[Tensor, "b t c h w"],
        context: Float[Tensor, "b m e"],
        images_only: Bool[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b t c h w"]:
        """`images_only` changes nothing here: every frame stands alone."""
        tokens = self.proj_in(to_tokens(self.norm, x))
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + to_frames(self.proj_out(tokens), x)


class SpatioTemporalTransformer(nn.Module):
    """Transformer blocks within each frame, each followed by one across frames and their blend."""

    def __init__(self, channels: int, heads: int, context_width: int, depth: int) -> None:
        super().__init__()
        self.channels = channels
        self.norm = nn.GroupNorm(GROUPS, channels, eps=NORM_EPS)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            SpatialTransformerBlock(channels, heads, context_width) for _ in range(depth)
        )
        self.temporal_transformer_blocks = nn.ModuleList(
            TemporalTransformerBlock(channels, heads, context_width) for _ in range(depth)
        )
        self.time_pos_embed = EmbeddingMLP(channels, 4 * channels, channels)
        self.time_mixer = Mix(0.5)
        self.proj_out = nn.Linear(channels, channels)

    def forward(
        self,
        x: Float[Tensor, "b t c h w"],
        context: Float[Tensor, "b m e"],
        images_only: Bool[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b t c h w"]:
        tokens = self.proj_in(to_tokens(self.norm, x))
        index = torch.arange(x.shape[1], device=x.device)
        position = self.time_pos_embed(sinusoid(index, self.channels).to(tokens.dtype))[None, :, None]
        for spatial_block, temporal_block in zip(
            self.transformer_blocks, self.temporal_transformer_blocks, strict=True
        ):
            tokens = spatial_block(tokens, context)
            tokens = self.time_mixer(tokens, temporal_block(tokens + position, context), images_only)
        return x + to_frames(self.proj_out(tokens), x)


def to_tokens(norm: nn.Module, x: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t n c"]:
    """Normalise each frame and lay its pixels out as tokens, row by row."""
    return norm(x.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, x.shape[:2])


def to_frames(tokens: Float[Tensor, "b t n c"], like: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
    """Undo `to_tokens` for frames of the height and width of `like`."""
    return tokens.transpose(2, 3).unflatten(3, like.shape[-2:])
