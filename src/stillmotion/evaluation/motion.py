"""How much moves: dense optical flow between neighbouring frames."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from ..errors import UsageError


def flow(frames: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "t2 h w 2"]:
    """Displacement in pixels, right and down, of every pixel from each frame to the next.

    Dense inverse search at its medium preset. Source: Kroeger 2016. Raises UsageError for fewer than two frames.
    """
    if len(frames) < 2:
        raise UsageError(f"the video has {len(frames)} frame(s); expected at least 2 to measure motion.")
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    fields = [method.calc(a, b, np.zeros((*a.shape, 2), np.float32)) for a, b in pairwise(grey)]
    return np.stack(fields)


def speed(frames: UInt8[np.ndarray, "t h w 3"], fps: float) -> float:
    """Mean length of the flow in frame heights a second: the scale that motion buckets are made of."""
    lengths = np.linalg.norm(flow(frames), axis=-1)
    return float(lengths.mean() / frames.shape[1] * fps)


def psnr(first: UInt8[np.ndarray, "..."], second: UInt8[np.ndarray, "..."]) -> float:
    """Peak signal-to-noise ratio in decibels of two images or videos; infinite where they are equal."""
    error = np.square(first.astype(np.float64) - second.astype(np.float64)).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
