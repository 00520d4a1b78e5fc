"""Residual blocks: within each frame, across frames, and the blend of both."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from .mix import Mix

GROUPS = 32


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions within each frame, with the noise-level embedding added between them."""

    def __init__(self, in_channels: int, out_channels: int, embedding_width: int | None, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding_width, out_channels) if embedding_width else None
        self.norm2 = nn.GroupNorm(GROUPS, out_channels, eps=eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(
        self,
        x: Float[Tensor, "b t c h w"],
        embedding: Float[Tensor, "b e"] | None = None,
        images_only: Bool[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b t c2 h w"]:
        """`images_only` changes nothing here: every frame stands alone."""
        frames = x.shape[1]
        x = x.flatten(0, 1)
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time_emb_proj is not None and embedding is not None:
            shift = self.time_emb_proj(F.silu(embedding)).repeat_interleave(frames, dim=0)
            h = h + shift[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return (shortcut + h).unflatten(0, (-1, frames))


class TemporalResnetBlock(nn.Module):
    """Two convolutions over three neighbouring frames; the norms pool their statistics over the whole clip."""

    def __init__(self, channels: int, embedding_width: int | None, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels, eps=eps)
        self.conv1 = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        self.time_emb_proj = nn.Linear(embedding_width, channels) if embedding_width else None
        self.norm2 = nn.GroupNorm(GROUPS, channels, eps=eps)
        self.conv2 = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(
        self, x: Float[Tensor, "b t c h w"], embedding: Float[Tensor, "b e"] | None = None
    ) -> Float[Tensor, "b t c h w"]:
        video = x.transpose(1, 2)  # b c t h w, as Conv3d wants it
        h = self.conv1(F.silu(self.norm1(video)))
        if self.time_emb_proj is not None and embedding is not None:
            h = h + self.time_emb_proj(F.silu(embedding))[:, :, None, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return (video + h).transpose(1, 2)


class SpatioTemporalResnet(nn.Module):
    """A frame-wise residual block, a temporal one on its result, and their blend."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_width: int | None,
        eps: float,
        temporal_eps: float,
        mix: Mix,
    ) -> None:
        super().__init__()
        self.spatial_res_block = ResnetBlock(in_channels, out_channels, embedding_width, eps)
        self.temporal_res_block = TemporalResnetBlock(out_channels, embedding_width, temporal_eps)
        self.time_mixer = mix

    def forward(
        self,
        x: Float[Tensor, "b t c h w"],
        embedding: Float[Tensor, "b e"] | None = None,
        images_only: Bool[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b t c2 h w"]:
        spatial = self.spatial_res_block(x, embedding)
        temporal = self.temporal_res_block(spatial, embedding)
        return self.time_mixer(spatial, temporal, images_only)
