"""What creeps away over a video: sharpness and colour, followed along the motion so that a pan changes neither."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from .opencv import cv2
from .steps import Step, along, check_frames, compared, follow, luma

SHARPNESS_FLOOR = 0.25  # squared levels a pixel: the gradients of rounding to 8 bits
SMOOTHING_PX = 2.0  # so that reading between pixels does not change the energy


def sharpness_drift(frames: UInt8[np.ndarray, "t h w 3"], steps: Sequence[Step] | None = None) -> float:
    """Sharpness at the end as a ratio of that at the start: 1 is steady, 0.5 has lost half of its gradient energy.

    The product over the steps of the ratio of mean squared gradients, at the pixels that can be followed. `steps` are
    those of `follow`, if they are at hand. Raises UsageError for fewer than two frames.
    """
    check_frames(frames)
    steps = follow(frames) if steps is None else steps
    total, first = 0.0, _energy(frames[0])
    for step in steps:
        second = _energy(step.second)
        total += _log_ratio(step, first, second)
        first = second
    return float(np.exp(total))


def colour_drift(frames: UInt8[np.ndarray, "t h w 3"], steps: Sequence[Step] | None = None) -> float:
    """How far the mean colour goes from start to end, as a distance in CIELAB: about 2 is just seen.

    The changes of the steps, at the pixels that can be followed, are added up as vectors, so that flutter cancels and
    a steady tint does not. CIELAB under D65, CIE 1976 distance. Raises UsageError for fewer than two frames.
    """
    check_frames(frames)
    steps = follow(frames) if steps is None else steps
    total, first = np.zeros(3), _lab(frames[0])
    for step in steps:
        second = _lab(step.second)
        total += _tint(step, first, second)
        first = second
    return float(np.linalg.norm(total))


def _log_ratio(step: Step, first: Float[np.ndarray, "h w"], second: Float[np.ndarray, "h w"]) -> float:
    displacement, pixels = compared(step)
    mask = pixels.astype(np.uint8)
    before, after = cv2.mean(first, mask)[0], cv2.mean(along(second, displacement), mask)[0]
    return float(np.log((after + SHARPNESS_FLOOR) / (before + SHARPNESS_FLOOR)))


def _energy(frame: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """Squared gradient of the luma in squared levels a pixel, by differences of neighbours."""
    grey = luma(frame).astype(np.float32)
    right = np.diff(grey, axis=1, append=grey[:, -1:])
    down = np.diff(grey, axis=0, append=grey[-1:])
    return cv2.GaussianBlur(right * right + down * down, (0, 0), SMOOTHING_PX)


def _tint(step: Step, first: Float[np.ndarray, "h w 3"], second: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "3"]:
    displacement, pixels = compared(step)
    mask = pixels.astype(np.uint8)
    return np.subtract(cv2.mean(along(second, displacement), mask), cv2.mean(first, mask))[:3]


def _lab(frame: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    return cv2.cvtColor(np.ascontiguousarray(frame).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
