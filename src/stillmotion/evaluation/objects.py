"""Bright objects of known colour, found again in later frames: whether a video keeps what it was given."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, UInt8

from .opencv import cv2

# An object is found when the area of its colour is within these multiples of its area in the given image.
AREA_RANGE = (0.35, 2.5)


@dataclasses.dataclass(frozen=True, slots=True)
class Tolerance:
    """A pixel has an object's colour when its chroma points within this angle of it and is at least as long."""

    angle_degrees: float = 25.0
    # Share of the length of the object's own chroma.
    share: float = 0.40


USUAL = Tolerance()


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """An object in one frame: its area in pixels and its centre (x, y) in pixels."""

    area: float
    centre: tuple[float, float]


def colour_mask(
    frame: UInt8[np.ndarray, "h w 3"], colour: tuple[float, float, float], tolerance: Tolerance = USUAL
) -> Bool[np.ndarray, "h w"]:
    """Pixels whose chroma (CIELAB a, b) has the hue of `colour` (RGB in [0, 1]) and enough of its strength."""
    lab = cv2.cvtColor(np.ascontiguousarray(frame).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    wanted = cv2.cvtColor(np.array([[colour]], np.float32), cv2.COLOR_RGB2LAB)[0, 0, 1:]
    length = float(np.linalg.norm(wanted))
    along = lab[..., 1:] @ (wanted / length)
    chroma = np.linalg.norm(lab[..., 1:], axis=-1)
    return (along > chroma * np.cos(np.radians(tolerance.angle_degrees))) & (chroma > tolerance.share * length)


def find(
    frame: UInt8[np.ndarray, "h w 3"], colour: tuple[float, float, float], tolerance: Tolerance = USUAL
) -> Seen | None:
    """The largest connected patch of a colour, or None where there is none."""
    count, _, stats, centres = cv2.connectedComponentsWithStats(colour_mask(frame, colour, tolerance).astype(np.uint8))
    if count < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    x, y = centres[largest]
    return Seen(float(stats[largest, cv2.CC_STAT_AREA]), (float(x), float(y)))


def found_share(
    given: UInt8[np.ndarray, "h w 3"],
    video: UInt8[np.ndarray, "t h w 3"],
    colour: tuple[float, float, float],
    tolerance: Tolerance = USUAL,
) -> float | None:
    """The share of frames in which the object of this colour is there with about its given area.

    None where the given image does not show it well enough to look for (fewer than 12 pixels).
    """
    first = find(given, colour, tolerance)
    if first is None or first.area < 12:
        return None
    low, high = AREA_RANGE
    seen = [find(frame, colour, tolerance) for frame in video]
    return float(np.mean([s is not None and low * first.area <= s.area <= high * first.area for s in seen]))
