"""SSIM against its closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from stillmotion.errors import UsageError
from stillmotion.evaluation.fidelity import ssim


def test_equal_images_have_one() -> None:
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    assert ssim(image, image) == pytest.approx(1)


def test_flat_images_differ_by_their_means_alone() -> None:
    a, b = np.full((16, 16, 3), 100, np.uint8), np.full((16, 16, 3), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), rel=1e-6)


def test_one_window_is_what_wang_writes() -> None:
    rng = np.random.default_rng(3)
    a, b = (np.repeat(rng.integers(0, 255, (11, 11, 1), np.uint8), 3, -1) for _ in range(2))
    line = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    x, y = a[..., 0].astype(float), b[..., 0].astype(float)
    mx, my = (weights * x).sum(), (weights * y).sum()
    vx, vy, cov = ((weights * p * q).sum() for p, q in ((x - mx, x - mx), (y - my, y - my), (x - mx, y - my)))
    c1, c2 = 2.55**2, 7.65**2
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim(a, b) == pytest.approx(expected, rel=1e-6)


def test_what_cannot_be_compared_is_refused() -> None:
    image = np.zeros((12, 12, 3), np.uint8)
    with pytest.raises(UsageError, match="expected equal"):
        ssim(image, image[:11])
    with pytest.raises(UsageError, match="at least 11x11"):
        ssim(image[:8], image[:8])
