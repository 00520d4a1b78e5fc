"""A visible jump between two frames, such as decoding in chunks leaves, and from the last frame to the first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, UInt8

from .opencv import cv2
from .steps import Step, check_frames, follow, in_frame

NEIGHBOURS = 3  # pairs on either side that a pair is held against
FLOOR_LEVELS = 1.0  # added to both sides of a ratio, so that rounding and compression make no seam


@dataclasses.dataclass(frozen=True, slots=True)
class Seam:
    """The strongest jump: its size against its neighbours, and the frame, counted from 0, that it leads to."""

    ratio: float
    frame: int


def seam(frames: UInt8[np.ndarray, "t h w 3"], steps: Sequence[Step] | None = None) -> Seam:
    """The pair of neighbouring frames that differs most from the pairs around it.

    The difference is taken twice: along the motion, as the median over pixels (tints, texture), which what is
    uncovered does not change; and in place, as the root mean square (jumps of position). The ratio is to the median of
    NEIGHBOURS pairs on either side, the larger of the two. 1 to 1.5 is a smooth video.
    `steps` are those of `follow`, if they are at hand. Raises UsageError for fewer than three frames.
    """
    check_frames(frames, at_least=3)
    steps = follow(frames) if steps is None else steps
    followed = np.array([_change(step) for step in steps])
    in_place = np.array([_difference(step.first, step.second) for step in steps])
    ratios = np.maximum(_ratios(followed), _ratios(in_place))
    strongest = int(ratios.argmax())
    return Seam(float(ratios[strongest]), strongest + 1)


def loop_seam(frames: UInt8[np.ndarray, "t h w 3"]) -> float:
    """The jump from the last frame to the first, as a ratio of the median pair of neighbours: about 1 loops unseen.

    Root mean square differences in place. Raises UsageError for fewer than two frames.
    """
    check_frames(frames)
    usual = float(np.median([_difference(a, b) for a, b in pairwise(frames)]))
    return (_difference(frames[-1], frames[0]) + FLOOR_LEVELS) / (usual + FLOOR_LEVELS)


def _change(step: Step) -> float:
    """The median over pixels of the colours' root mean square change along the motion, in levels of 255."""
    inside = in_frame(step.forward)
    return math.sqrt(np.median(step.change[inside] if inside.any() else step.change))


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(cv2.norm(a, b, cv2.NORM_L2) / math.sqrt(a.size))


def _ratios(differences: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Each difference over the median of those around it."""
    count = len(differences)
    around = [
        [differences[j] for j in range(max(0, i - NEIGHBOURS), min(count, i + NEIGHBOURS + 1)) if j != i]
        for i in range(count)
    ]
    return np.array(
        [(own + FLOOR_LEVELS) / (np.median(near) + FLOOR_LEVELS) for own, near in zip(differences, around, strict=True)]
    )
