"""Measured motion against motion that was put in."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from stillmotion.errors import UsageError
from stillmotion.evaluation.motion import flow, motion, psnr, speed
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


@pytest.mark.parametrize("photograph", ["chelsea", "rocket"])
@pytest.mark.parametrize("step_px", [0.5, 1, 2, 3, 5])
@pytest.mark.parametrize("way", [(1, 0), (0, -1), (-1, 1)])
def test_a_pan_over_a_photograph_is_within_two_percent(
    pan_clip: Callable[..., np.ndarray], photograph: str, step_px: float, way: tuple[int, int]
) -> None:
    frames = pan_clip(photograph, step_px * way[0], step_px * way[1])
    true = step_px * math.hypot(*way)
    measured = motion(frames, fps=80)  # one pixel of 80 a frame is one height a second
    assert math.hypot(*measured.pan) == pytest.approx(true, rel=0.02)
    # Dense flow adds its own noise where a night sky is compressed: a twentieth of a pixel.
    assert measured.speed == pytest.approx(true, rel=0.02, abs=0.05)
    turned = (measured.direction - math.degrees(math.atan2(-way[1], way[0])) + 180) % 360 - 180
    noisy = (photograph, step_px) == ("rocket", 0.5)
    assert abs(turned) < (5 if noisy else 2)
    assert measured.agreement > (0.85 if noisy else 0.98)


@pytest.mark.parametrize("photograph", ["chelsea", "rocket"])
@pytest.mark.parametrize(("growth", "degrees"), [(1.02, 0), (0.97, 0), (1, 1), (1, -2.5), (1.03, 1.5)])
def test_zoom_and_roll_are_within_five_percent(
    turned_clip: Callable[..., np.ndarray], photograph: str, growth: float, degrees: float
) -> None:
    measured = motion(turned_clip(photograph, growth, degrees), fps=1)
    assert measured.zoom == pytest.approx(math.log(growth), rel=0.05, abs=0.0005)
    assert measured.roll == pytest.approx(degrees, rel=0.05, abs=0.03)


def test_an_object_is_told_from_the_camera(pan_clip: Callable[..., np.ndarray]) -> None:
    frames = pan_clip("chelsea", 2, 0)
    patch = np.random.default_rng(0).integers(0, 255, (6, 6, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    for number, frame in enumerate(frames):
        frame[20:44, 80 - 3 * number : 104 - 3 * number] = patch  # against the pan: 5 px a frame to the left of it
    measured = motion(frames, fps=80)
    assert measured.pan == pytest.approx((2, 0), abs=0.05)
    covered = 24 * 24 / (128 * 80)
    assert 0.7 * covered < measured.object_share < 2 * covered
    assert measured.object_speed == pytest.approx(5 * covered, rel=0.4)
    assert motion(pan_clip("chelsea", 2, 0), fps=80).object_share < 0.01


def test_nothing_moves_where_there_is_nothing_to_see() -> None:
    measured = motion(np.full((3, 40, 60, 3), 90, np.uint8), fps=10)
    assert (measured.speed, measured.agreement, measured.pan, measured.zoom) == (0, 0, (0, 0), 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 9), (17, 33)])
def test_any_size_is_measured(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, *size, 3), np.uint8)
    assert math.isfinite(motion(frames, fps=10).speed)
