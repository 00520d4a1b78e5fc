"""Transformers within frames and across them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from stillmotion.nn.attention import Attention
from stillmotion.nn.transformer import (
    SpatialTransformer,
    SpatioTemporalTransformer,
    TemporalTransformerBlock,
    attend_context,
    to_frames,
    to_tokens,
)


def test_one_context_token_skips_norm_and_queries_and_equals_the_full_path() -> None:
    attention, norm = Attention(8, 2, 6).double(), nn.LayerNorm(8).double()
    calls: list[str] = []
    norm.register_forward_hook(lambda *_: calls.append("norm"))
    attention.to_q.register_forward_hook(lambda *_: calls.append("queries"))
    x, context = torch.randn(2, 3, 5, 8).double(), torch.randn(2, 1, 6).double()
    short = attend_context(attention, norm, x, context)
    assert calls == [] and short.shape == (2, 1, 1, 8)
    full = attention(norm(x), context[:, None].expand(-1, 3, -1, -1))
    torch.testing.assert_close(short.expand_as(full), full, rtol=0, atol=1e-14)


def test_several_context_tokens_take_the_full_path() -> None:
    attention, norm = Attention(8, 2, 6).double(), nn.LayerNorm(8).double()
    x, context = torch.randn(2, 3, 5, 8).double(), torch.randn(2, 4, 6).double()
    full = attend_context(attention, norm, x, context)
    for video in range(2):
        for row in range(3):
            expected = attention(norm(x[video, row]), context[video])
            torch.testing.assert_close(full[video, row], expected)


def test_tokens_and_frames_are_inverse_and_normalised_frame_by_frame() -> None:
    x = torch.randn(2, 3, 32, 4, 5)
    assert torch.equal(to_frames(to_tokens(nn.Identity(), x), x), x)
    tokens = to_tokens(nn.GroupNorm(32, 32), x)
    assert tokens.shape == (2, 3, 20, 32)
    torch.testing.assert_close(tokens.mean(dim=2), torch.zeros(2, 3, 32), atol=1e-5, rtol=0)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_transformer_written_out(depth: int, redraw: Callable[..., None]) -> None:
    layer = SpatioTemporalTransformer(32, 2, 6, depth)
    redraw(layer)
    layer.double()
    x, context = torch.randn(2, 3, 32, 2, 3).double(), torch.randn(2, 1, 6).double()
    index = torch.arange(3.0)[:, None] * torch.exp(-torch.log(torch.tensor(1e4)) * torch.arange(16) / 16)
    position = layer.time_pos_embed(torch.cat([index.cos(), index.sin()], dim=1).double())
    tokens = layer.proj_in(layer.norm(x.flatten(0, 1)).flatten(2).mT).reshape(2, 3, 6, 32)
    alpha = layer.time_mixer.mix_factor.sigmoid()
    for spatial, temporal in zip(layer.transformer_blocks, layer.temporal_transformer_blocks, strict=True):
        tokens = tokens + spatial.attn1(spatial.norm1(tokens))
        tokens = tokens + spatial.attn2.to_out[0](spatial.attn2.to_v(context))[:, None]
        tokens = tokens + spatial.ff(spatial.norm3(tokens))
        history = (tokens + position[:, None]).transpose(1, 2)
        history = history + temporal.ff_in(temporal.norm_in(history))
        history = history + temporal.attn1(temporal.norm1(history))
        history = history + temporal.attn2.to_out[0](temporal.attn2.to_v(context))[:, None]
        history = history + temporal.ff(temporal.norm3(history))
        tokens = alpha * tokens + (1 - alpha) * history.transpose(1, 2)
    expected = x + layer.proj_out(tokens).mT.reshape(2, 3, 32, 2, 3)
    torch.testing.assert_close(layer(x, context), expected, rtol=1e-6, atol=1e-6)


def test_the_temporal_block_looks_only_along_each_pixel(redraw: Callable[..., None]) -> None:
    block = TemporalTransformerBlock(8, 2, 6)
    redraw(block)
    x, context = torch.randn(1, 4, 5, 8), torch.randn(1, 1, 6)
    changed = x.clone()
    changed[0, 2, 3] += torch.randn(8)
    moved = (block(changed, context) - block(x, context)).abs().amax(dim=(0, 3)) > 1e-6
    assert moved[:, 3].all() and not moved[:, [0, 1, 2, 4]].any()


def test_frames_marked_as_images_do_not_see_their_neighbours(redraw: Callable[..., None]) -> None:
    layer = SpatioTemporalTransformer(32, 2, 6, 1)
    redraw(layer)
    x, context = torch.randn(1, 3, 32, 2, 2), torch.randn(1, 1, 6)
    alone = torch.ones(1, 3, dtype=torch.bool)
    changed = x.clone()
    changed[0, 0] += torch.randn(32, 2, 2)
    isolated = (layer(changed, context, alone) - layer(x, context, alone)).abs().amax(dim=(0, 2, 3, 4))
    seen = (layer(changed, context) - layer(x, context)).abs().amax(dim=(0, 2, 3, 4))
    assert isolated[0] > 1e-3 and isolated[1:].tolist() == [0, 0]
    assert seen.min() > 1e-4


def test_the_spatial_transformer_is_the_same_without_time(redraw: Callable[..., None]) -> None:
    spatial, both = SpatialTransformer(32, 2, 6, 1), SpatioTemporalTransformer(32, 2, 6, 1)
    redraw(both)
    shared = {key: value for key, value in both.state_dict().items() if key in spatial.state_dict()}
    spatial.load_state_dict(shared)
    x, context = torch.randn(2, 3, 32, 2, 2), torch.randn(2, 4, 6)
    alone = torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(spatial(x, context), both(x, context, alone))
