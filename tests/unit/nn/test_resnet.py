"""Residual blocks: the norms' reach, the embedding, and the blend of space and time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from stillmotion.nn.mix import Mix
from stillmotion.nn.resnet import ResnetBlock, SpatioTemporalResnet, TemporalResnetBlock


@pytest.mark.parametrize("out_channels", [32, 64])
def test_the_frame_wise_block_written_out(out_channels: int, redraw: Callable[..., None]) -> None:
    block = ResnetBlock(32, out_channels, 8, 1e-5)
    redraw(block)
    x, embedding = torch.randn(2, 3, 32, 4, 4), torch.randn(2, 8)
    found = block(x, embedding)
    for video in range(2):
        assert block.time_emb_proj is not None
        frames = x[video]
        h = block.conv1(F.silu(F.group_norm(frames, 32, block.norm1.weight, block.norm1.bias, 1e-5)))
        h = h + block.time_emb_proj(F.silu(embedding[video]))[None, :, None, None]
        h = block.conv2(F.silu(F.group_norm(h, 32, block.norm2.weight, block.norm2.bias, 1e-5)))
        shortcut = frames if out_channels == 32 else F.conv2d(frames, *block.conv_shortcut.parameters())  # type: ignore[union-attr]
        torch.testing.assert_close(found[video], shortcut + h, rtol=1e-5, atol=1e-5)


def test_the_epsilon_is_the_one_given() -> None:
    block = ResnetBlock(32, 32, None, 0.5)
    assert block.norm1.eps == block.norm2.eps == 0.5 and block.time_emb_proj is None and block.conv_shortcut is None


def test_the_temporal_norm_pools_its_statistics_over_the_clip(redraw: Callable[..., None]) -> None:
    block = TemporalResnetBlock(32, 8, 1e-5)
    redraw(block)
    x, embedding = torch.randn(2, 4, 32, 3, 3), torch.randn(2, 8)
    x[:, 3] *= 5
    found = block(x, embedding)
    assert block.time_emb_proj is not None

    def norm(h: torch.Tensor, layer: torch.nn.GroupNorm) -> torch.Tensor:
        mean = h.mean(dim=(1, 3, 4), keepdim=True)  # one channel a group
        deviation = (h.var(dim=(1, 3, 4), keepdim=True, correction=0) + 1e-5).sqrt()
        return (h - mean) / deviation * layer.weight[None, None, :, None, None] + layer.bias[None, None, :, None, None]

    def convolve(h: torch.Tensor, layer: torch.nn.Conv3d) -> torch.Tensor:
        weight = layer.weight[..., 0, 0]
        padded = F.pad(h, (0, 0, 0, 0, 0, 0, 1, 1))
        taps = [torch.einsum("oc,btchw->btohw", weight[:, :, k], padded[:, k : k + 4]) for k in range(3)]
        return sum(taps) + layer.bias[None, None, :, None, None]  # type: ignore[index,return-value]

    h = convolve(F.silu(norm(x, block.norm1)), block.conv1)
    h = h + block.time_emb_proj(F.silu(embedding))[:, None, :, None, None]
    h = convolve(F.silu(norm(h, block.norm2)), block.conv2)
    torch.testing.assert_close(found, x + h, rtol=1e-4, atol=1e-4)


def test_the_temporal_block_takes_one_frame(redraw: Callable[..., None]) -> None:
    block = TemporalResnetBlock(32, None, 1e-5)
    redraw(block)
    assert block(torch.randn(1, 1, 32, 2, 2)).shape == (1, 1, 32, 2, 2)


def test_space_and_time_are_blended_and_marked_frames_stand_alone(redraw: Callable[..., None]) -> None:
    block = SpatioTemporalResnet(32, 64, 8, 1e-5, 1e-6, Mix(0.5))
    redraw(block)
    assert block.temporal_res_block.norm1.eps == 1e-6 and block.spatial_res_block.norm1.eps == 1e-5
    x, embedding = torch.randn(2, 3, 32, 4, 4), torch.randn(2, 8)
    spatial = block.spatial_res_block(x, embedding)
    temporal = block.temporal_res_block(spatial, embedding)
    alpha = block.time_mixer.mix_factor.sigmoid()
    torch.testing.assert_close(block(x, embedding), alpha * spatial + (1 - alpha) * temporal)
    alone = torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(block(x, embedding, alone), spatial)
