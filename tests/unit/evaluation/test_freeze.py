"""Still clips, also noisy and compressed ones, against clips that move, also slowly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stillmotion.errors import UsageError
from stillmotion.evaluation.freeze import FROZEN, held_share, is_frozen, wander
from stillmotion.media.video import read_video, write_video

pytestmark = pytest.mark.slow  # the whole file takes many seconds

FRAMES = 14


def compressed(frames: np.ndarray, folder: Path) -> np.ndarray:
    write_video(folder / "clip.mp4", frames, 8, overwrite=True)
    return read_video(folder / "clip.mp4").frames


def spoiled(frames: np.ndarray, folder: Path) -> list[np.ndarray]:
    """The clip clean, with grain of 2, 4 and 8 levels, with flicker, compressed, and compressed with grain."""
    rng = np.random.default_rng(0)
    grains = [np.clip(frames + rng.normal(0, g, frames.shape), 0, 255).astype(np.uint8) for g in (2, 4, 8)]
    light = 1 + rng.normal(0, 0.03, (len(frames), 1, 1, 1))
    flickering = np.clip(frames * light, 0, 255).astype(np.uint8)
    return [frames, *grains, flickering, compressed(frames, folder), compressed(grains[1], folder)]


def test_still_clips_are_told_from_moving_ones(
    pan_clip: Callable[..., np.ndarray], scenes: list[np.ndarray], tmp_path: Path
) -> None:
    still = [pan_clip(name, 0, 0, FRAMES) for name in ("chelsea", "rocket")]
    still += [np.repeat(scene[:1], FRAMES, 0) for scene in scenes]
    # Quarter of a pixel a frame is the slowest: 4 % of the height in 14 frames.
    moving = [pan_clip(name, *way, FRAMES) for name in ("chelsea", "rocket") for way in ((0.25, 0), (0, 0.25), (1, 1))]
    moving += scenes
    low = np.array([wander(each) for clip in still for each in spoiled(clip, tmp_path)])
    high = np.array([wander(each) for clip in moving for each in spoiled(clip, tmp_path)])
    auc = (high[:, None] > low).mean() + 0.5 * (high[:, None] == low).mean()
    print(f"static AUC {auc:.4f}, still up to {low.max():.5f}, moving from {high.min():.5f}")
    assert auc >= 0.99
    assert np.mean(low < FROZEN) >= 0.95 and np.mean(high >= FROZEN) >= 0.95


def test_motion_that_comes_back_is_motion(pan_clip: Callable[..., np.ndarray]) -> None:
    there = pan_clip("chelsea", 1, 0, 7)
    assert not is_frozen(np.concatenate([there, there[::-1]]))


def test_wander_is_in_heights(pan_clip: Callable[..., np.ndarray]) -> None:
    # The middles of two halves of two frames lie 1 px apart; flat blocks, without a way to tell, lower the mean.
    assert 0.5 / 80 < wander(pan_clip("chelsea", 1, 0, 2)) < 1.1 / 80


def test_held_frames_are_counted(pan_clip: Callable[..., np.ndarray]) -> None:
    frames = pan_clip("chelsea", 2, 0, 5)
    assert held_share(frames) == 0
    assert held_share(frames.repeat(2, 0)) == pytest.approx(5 / 9)


def test_one_frame_is_frozen_and_none_is_refused() -> None:
    assert is_frozen(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(UsageError, match="at least one frame"):
        is_frozen(np.zeros((0, 8, 8, 3), np.uint8))
    with pytest.raises(UsageError, match="at least 2"):
        held_share(np.zeros((1, 8, 8, 3), np.uint8))
