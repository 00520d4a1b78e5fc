"""Planted defects are ranked as they were planted, in every scene; and clean video has next to none."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from stillmotion.errors import UsageError
from stillmotion.evaluation.drift import colour_drift, sharpness_drift
from stillmotion.evaluation.flicker import brightness_flicker, local_flicker, warping_error
from stillmotion.evaluation.seam import loop_seam, seam

pytestmark = pytest.mark.slow  # the whole file takes many seconds

Defect = Callable[[np.ndarray, float], np.ndarray]
STRENGTHS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)


def rounded(frames: np.ndarray) -> np.ndarray:
    return np.clip(np.round(frames), 0, 255).astype(np.uint8)


def brightness(frames: np.ndarray, strength: float) -> np.ndarray:
    signs = np.random.default_rng(0).permutation(np.resize([-1.0, 1.0], len(frames)))
    return rounded(frames + 2 * strength * signs[:, None, None, None])


def patches(frames: np.ndarray, strength: float) -> np.ndarray:
    """Patches go up and down, the mean of the picture does not."""
    board = np.kron(np.indices((4, 4)).sum(0) % 2 * 2 - 1, np.ones((20, 32)))[..., None]
    signs = np.random.default_rng(0).permutation(np.resize([-1.0, 1.0], len(frames)))
    return rounded(frames + strength * signs[:, None, None, None] * board)


def grain(frames: np.ndarray, strength: float) -> np.ndarray:
    return rounded(frames + 2 * strength * np.random.default_rng(0).normal(size=frames.shape))


def softening(frames: np.ndarray, strength: float) -> np.ndarray:
    last = len(frames) - 1
    sigmas = [1e-3 + 0.3 * strength * number / last for number in range(len(frames))]
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame, sigma in zip(frames, sigmas, strict=True)])


def tint(frames: np.ndarray, strength: float) -> np.ndarray:
    rise = np.linspace(0, 4 * strength, len(frames))[:, None, None, None]
    return rounded(frames + rise * np.array([1.0, 0.0, -1.0]))


def chunk(frames: np.ndarray, strength: float) -> np.ndarray:
    """From frame 6 on the picture is a little warmer and harder, as after a chunk decoded apart."""
    other = frames + 2 * strength * np.array([1.0, 0.5, -0.5]) + 0.02 * strength * (frames - 128.0)
    return rounded(np.where(np.arange(len(frames))[:, None, None, None] >= 6, other, frames))


def seam_ratio(frames: np.ndarray) -> float:
    return seam(frames).ratio


def lost_sharpness(frames: np.ndarray) -> float:
    return -sharpness_drift(frames)


@pytest.mark.parametrize(
    ("measure", "defect"),
    [
        (brightness_flicker, brightness),
        (local_flicker, patches),
        (warping_error, grain),
        (lost_sharpness, softening),
        (colour_drift, tint),
        (seam_ratio, chunk),
    ],
)
def test_planted_defects_keep_their_order(
    measure: Callable[[np.ndarray], float], defect: Defect, scenes: list[np.ndarray]
) -> None:
    assert len(scenes) == 3
    for frames in scenes:
        found = [measure(defect(frames, strength)) for strength in STRENGTHS]
        assert np.all(np.diff(found) > 0), found  # a Spearman correlation of 1


def test_the_seam_is_found_in_its_place(scenes: list[np.ndarray]) -> None:
    for frames in scenes:
        assert seam(frames).ratio < 1.5
        found = seam(chunk(frames, 5))
        assert found.frame == 6 and found.ratio > 1.5


def test_flicker_is_in_levels() -> None:
    frames = np.full((9, 24, 32, 3), 100, np.uint8)
    frames[1::2] += 10  # a second difference of 20 everywhere
    assert brightness_flicker(frames) == pytest.approx(20)
    assert local_flicker(frames) == pytest.approx(20, rel=0.01)


def test_a_steady_fade_is_no_flicker() -> None:
    frames = np.stack([np.full((24, 32, 3), 50 + 6 * number, np.uint8) for number in range(8)])
    assert brightness_flicker(frames) == pytest.approx(0, abs=1e-6)


def test_a_pan_has_no_defects(pan_clip: Callable[..., np.ndarray]) -> None:
    frames = pan_clip("chelsea", 2, 0, frames=8)
    assert local_flicker(frames) < 0.5
    assert warping_error(frames) < 2
    assert sharpness_drift(frames) == pytest.approx(1, abs=0.05)
    assert colour_drift(frames) < 1
    assert seam(frames).ratio < 1.3


def test_colour_drift_is_a_distance_in_cielab() -> None:
    frames = np.full((5, 24, 32, 3), 120, np.uint8)
    frames[-1] = (150, 120, 100)
    ends = cv2.cvtColor((frames[[0, -1], :1, 0] / 255).astype(np.float32), cv2.COLOR_RGB2LAB)[:, 0]
    assert colour_drift(frames) == pytest.approx(float(np.linalg.norm(ends[1] - ends[0])), rel=1e-3)


def test_a_loop_that_closes_is_told_from_one_that_jumps(pan_clip: Callable[..., np.ndarray]) -> None:
    frames = pan_clip("chelsea", 3, 0, frames=8)
    closed = np.concatenate([frames, frames[-2:0:-1]])
    assert loop_seam(closed) == pytest.approx(1, abs=0.2)
    assert loop_seam(frames) > 1.5


@pytest.mark.parametrize("measure", [brightness_flicker, local_flicker, seam])
def test_two_frames_do_not_flutter(measure: Callable[[np.ndarray], object]) -> None:
    with pytest.raises(UsageError, match="at least 3"):
        measure(np.zeros((2, 20, 20, 3), np.uint8))


def test_a_cut_is_survived(scenes: list[np.ndarray]) -> None:
    both = np.concatenate([scenes[0][:5], scenes[1][:5]])
    assert seam(both).frame == 5 and seam(both).ratio > 2
    assert colour_drift(both) > 5
