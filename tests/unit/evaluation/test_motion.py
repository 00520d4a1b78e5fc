"""Measured motion against motion that was put in."""

from __future__ import annotations

import numpy as np
import pytest

from stillmotion.errors import UsageError
from stillmotion.evaluation.motion import flow, psnr, speed
from stillmotion.training.toys import texture


def panned(step_px: int, frames: int = 4) -> np.ndarray:
    """A texture that moves `step_px` to the right from frame to frame."""
    canvas = (texture(7, 160).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    return np.stack([canvas[20:100, 60 - i * step_px : 140 - i * step_px] for i in range(frames)])


@pytest.mark.parametrize("step_px", [0, 1, 3, 6])
def test_a_pan_is_measured_as_what_it_is(step_px: int) -> None:
    middle = flow(panned(step_px))[:, 20:-20, 20:-20]
    assert np.median(middle[..., 0]) == pytest.approx(step_px, abs=0.15)
    assert np.median(middle[..., 1]) == pytest.approx(0, abs=0.15)


def test_speed_is_in_frame_heights_a_second() -> None:
    assert speed(panned(4), fps=10) == pytest.approx(4 / 80 * 10, rel=0.15)


def test_one_frame_has_no_motion_to_measure() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        flow(panned(0, frames=1))


def test_psnr_of_a_known_error() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    assert psnr(image, image + 5) == pytest.approx(10 * np.log10(255**2 / 25))
    assert psnr(image, image) == float("inf")
