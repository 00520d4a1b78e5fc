"""Dead leaves: pure functions of a seed, in range, and with the edges of photographs."""

from __future__ import annotations

import numpy as np
import torch

from stillmotion.training.leaves import dead_leaves


def test_a_picture_is_a_pure_function_of_its_seed() -> None:
    assert torch.equal(dead_leaves(3, 64, 40), dead_leaves(3, 64, 40))
    assert not torch.equal(dead_leaves(3, 64, 40), dead_leaves(4, 64, 40))


def test_shape_and_range() -> None:
    for seed in range(8):
        picture = dead_leaves(seed, 48, 32)
        assert picture.shape == (3, 32, 48)
        assert picture.dtype == torch.float32
        assert -1 <= picture.min() < picture.max() <= 1


def test_the_power_spectrum_falls_as_that_of_photographs() -> None:
    """Field 1987: the power of natural images falls with about the square of the frequency."""
    size = 96
    power = np.mean(
        [np.abs(np.fft.fft2(dead_leaves(seed, size, size).mean(0).numpy())) ** 2 for seed in range(12)], axis=0
    )
    across = np.fft.fftfreq(size) * size
    frequency = np.hypot(*np.meshgrid(across, across))
    rings = [power[(frequency >= low) & (frequency < 2 * low)].mean() for low in (2, 4, 8, 16)]
    slope = np.polyfit(np.log([3, 6, 12, 24]), np.log(rings), 1)[0]
    assert -3.2 < slope < -1.6
