"""Sinusoids against their closed form."""

from __future__ import annotations

import math

import torch

from stillmotion.nn.embedding import EmbeddingMLP, sinusoid


def test_cosines_come_first_and_frequencies_fall_from_one() -> None:
    values = [0.0, 1.0, 0.02, 127.0, -1.5]
    waves = sinusoid(torch.tensor(values), 8)
    for row, value in zip(waves.tolist(), values, strict=True):
        angles = [value * 10000 ** (-i / 4) for i in range(4)]
        expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        assert max(abs(a - b) for a, b in zip(row, expected, strict=True)) < 2e-6


def test_another_period_an_odd_width_and_integers() -> None:
    waves = sinusoid(torch.tensor([[2, 3]]), 5, max_period=16.0)
    assert waves.shape == (1, 2, 5) and waves.dtype == torch.float32
    expected = [math.cos(3), math.cos(3 / 4), math.sin(3), math.sin(3 / 4), 0.0]
    torch.testing.assert_close(waves[0, 1], torch.tensor(expected))


def test_a_low_precision_value_still_becomes_a_float32_wave() -> None:
    assert sinusoid(torch.tensor([6.0], dtype=torch.float16), 4).dtype == torch.float32


def test_the_mlp_is_linear_silu_linear() -> None:
    mlp = EmbeddingMLP(3, 5, 2)
    x = torch.randn(4, 3)
    hidden = x @ mlp.linear_1.weight.T + mlp.linear_1.bias
    expected = (hidden * hidden.sigmoid()) @ mlp.linear_2.weight.T + mlp.linear_2.bias
    torch.testing.assert_close(mlp(x), expected)
