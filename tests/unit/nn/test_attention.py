"""Attention written out by hand, the exact savings, and slices that change nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from stillmotion.nn.attention import GEGLU, Attention, FeedForward, FrameAttention


def attention_by_hand(attention: Attention, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    q, k, v = attention.to_q(x), attention.to_k(context), attention.to_v(context)
    outputs = []
    for head in range(attention.heads):
        part = slice(head * q.shape[-1] // attention.heads, (head + 1) * q.shape[-1] // attention.heads)
        weights = (q[..., part] @ k[..., part].mT / (part.stop - part.start) ** 0.5).softmax(-1)
        outputs.append(weights @ v[..., part])
    return attention.to_out[0](torch.cat(outputs, dim=-1))


@pytest.mark.parametrize("heads", [1, 3])
def test_attention_is_the_textbook_formula(heads: int) -> None:
    attention = Attention(12, heads, 7).double()
    x, context = torch.randn(2, 3, 5, 12).double(), torch.randn(2, 3, 4, 7).double()
    torch.testing.assert_close(attention(x, context), attention_by_hand(attention, x, context))
    own = Attention(12, heads).double()
    torch.testing.assert_close(own(x), attention_by_hand(own, x, x))


def test_the_scores_are_never_held_all_at_once() -> None:
    """With more than four axes torch falls back to a product of all queries with all keys, without a word."""
    attention, x = Attention(32, 2), torch.randn(2, 3, 600, 32)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as recorded:
        attention(x)
    called = {event.name for event in recorded.events() or ()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in called
    assert "aten::_scaled_dot_product_attention_math" not in called


def test_more_rows_than_a_kernel_takes_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    attention, x = Attention(12, 3), torch.randn(7, 4, 12)
    whole = attention(x)
    monkeypatch.setattr("stillmotion.nn.attention.MAX_ROWS", 3)
    assert torch.equal(attention(x), whole)


def test_one_token_needs_no_queries_in_float64() -> None:
    attention = Attention(16, 4, 10).double()
    x, context = torch.randn(2, 9, 16).double(), torch.randn(2, 1, 10).double()
    one = attention.of_one_token(context).expand(-1, 9, -1)
    torch.testing.assert_close(one, attention(x, context), rtol=0, atol=1e-14)


def test_the_gate_is_the_second_half() -> None:
    gated = GEGLU(3, 5)
    x = torch.randn(2, 3)
    value, gate = (x @ gated.proj.weight.T + gated.proj.bias).split(5, dim=1)
    torch.testing.assert_close(gated(x), value * nn.functional.gelu(gate))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("size", [1, 3, 4, 100])
@pytest.mark.parametrize("shape", [(7, 5, 8), (2, 3, 5, 8)])
def test_slices_of_the_feed_forward_change_nothing(axis: int, size: int, shape: tuple[int, ...]) -> None:
    feed_forward = FeedForward(8).double()
    x = torch.randn(shape).double()
    whole = feed_forward(x)
    seen: list[int] = []
    feed_forward.net[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[axis]))
    feed_forward.chunk_size, feed_forward.chunk_axis = size, axis
    torch.testing.assert_close(feed_forward(x), whole, rtol=1e-13, atol=1e-13)
    length = x.flatten(0, -3).shape[axis]
    assert max(seen) == min(size, length) and sum(seen) == length


def test_frame_attention_is_added_frame_by_frame(redraw: Callable[..., None]) -> None:
    attention = FrameAttention(32, 1e-6)
    redraw(attention)
    x = torch.randn(2, 3, 32, 2, 5)
    whole = attention(x)
    frame = x[1, 2]
    tokens = (
        nn.functional.group_norm(frame[None], 32, attention.group_norm.weight, attention.group_norm.bias, 1e-6)[0]
        .flatten(1)
        .T
    )
    weights = (attention.to_q(tokens) @ attention.to_k(tokens).T / 32**0.5).softmax(-1)
    expected = frame + attention.to_out[0](weights @ attention.to_v(tokens)).T.reshape(32, 2, 5)
    torch.testing.assert_close(whole[1, 2], expected, rtol=1e-5, atol=1e-5)
