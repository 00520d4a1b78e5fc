"""What changes along the motion although it should not: brightness that flutters, pixels that are repainted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import UInt8

from .opencv import cv2
from .steps import Search, Step, along, check_frames, follow, in_frame, is_followed, luma

PATCHES = 8  # local flicker is that of patches of an eighth of the shorter side


def brightness_flicker(frames: UInt8[np.ndarray, "t h w 3"]) -> float:
    """Flutter of the whole picture's brightness: root mean square second difference of the mean luma, in levels of 255.

    A steady fade has none. Raises UsageError for fewer than three frames.
    """
    check_frames(frames, at_least=3)
    means = np.array([luma(frame).mean() for frame in frames])
    return float(np.sqrt(np.mean(np.square(np.diff(means, 2)))))


def local_flicker(frames: UInt8[np.ndarray, "t h w 3"], steps: Sequence[Step] | None = None) -> float:
    """Flutter of patches' brightness along the motion: root mean square second difference, in levels of 255.

    Each pixel of a frame is compared with where it came from and where it goes, at the size of the search. `steps` are
    those of `follow`, if they are at hand. Raises UsageError for fewer than three frames.
    """
    check_frames(frames, at_least=3)
    steps = follow(frames) if steps is None else steps
    searches = [step.search for step in steps]
    side = max(1, min(searches[0].before.shape) // PATCHES)
    squares = [np.square(_flutter(before, after, side)).mean() for before, after in pairwise(searches)]
    return float(np.sqrt(np.mean(squares)))


def warping_error(frames: UInt8[np.ndarray, "t h w 3"], steps: Sequence[Step] | None = None) -> float:
    """Root mean square change of pixels along the motion, in levels of 255, over those that can be followed back.

    Grain, shimmer and repainted texture raise it; motion, and what is uncovered, does not. Source: Lai 2018,
    section 4.1, with colours in levels. Raises UsageError for fewer than two frames.
    """
    check_frames(frames)
    steps = follow(frames) if steps is None else steps
    return float(np.sqrt(np.mean([_repainted(step) for step in steps])))


def _repainted(step: Step) -> float:
    if is_followed(step):
        return float(step.change[step.followed].mean())
    return float(np.square(step.second.astype(np.float32) - step.first).mean())


def _flutter(before: Search, after: Search, side: int) -> np.ndarray:
    """Means over patches of y(t + 1) - 2 y(t) + y(t - 1) at the pixels of frame t that are followed both ways."""
    back, forth = (before.backward, after.forward)
    here, past, future = (each.astype(np.float32) for each in (after.before, before.before, after.after))
    bend = along(future, forth) + along(past, back) - 2 * here
    seen = (after.followed & in_frame(back)).astype(np.float32)
    share = cv2.boxFilter(seen, -1, (side, side), borderType=cv2.BORDER_REPLICATE)
    total = cv2.boxFilter(bend * seen, -1, (side, side), borderType=cv2.BORDER_REPLICATE)
    patches = (slice(side // 2, None, side), slice(side // 2, None, side))
    known = share[patches] >= 0.5
    if not known.any():
        return np.array([float(future.mean() + past.mean() - 2 * here.mean())])
    return total[patches][known] / share[patches][known]
