"""What one picture is like: sharp, dark, colourful, in blocks, between black bars. From the decoder's planes."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32, UInt8

from ..evaluation.opencv import cv2
from ..media.scan import Sight

Plane = UInt8[np.ndarray, "h w"]

LIMITED = 255 / 219  # levels of full range in one of limited range; its black is 16. Source: ITU-R BT.601
BLACK, LIMITED_BLACK = 0, 16
DARK = 12  # levels above black that a bar's pixels stay below, for compression leaves some there
BRIGHT_SHARE = 0.01  # of a bar's pixels may be brighter
LONGEST_BAR = 0.45  # of the frame, on each side: more is a dark picture
BLOCK = 8  # pixels: what MPEG-2, MPEG-4, MJPEG and H.263 code together
LINES = 24  # rows that blocks are looked for in
CHROMA_LINES = 16
NEUTRAL = 128


def sharpness(luma: Plane, is_full_range: bool) -> float:
    """The variance of the Laplacian over the middle of the picture, in squared levels of full range."""
    height, width = luma.shape
    middle = luma[height * 7 // 20 : height - height * 7 // 20, width * 7 // 20 : width - width * 7 // 20]
    spread = cv2.meanStdDev(cv2.Laplacian(middle, cv2.CV_16S))[1]
    return float(spread[0, 0]) ** 2 * (1 if is_full_range else LIMITED**2)


def blockiness(luma: Plane) -> float:
    """How much larger steps between blocks of 8 pixels are than within them: 0 for none, 1 for twice as large.

    Along a few rows alone, for blocks have edges both ways, and columns are slow to read.
    """
    height, width = luma.shape
    count = (width - 1) // BLOCK * BLOCK
    if count < 4 * BLOCK:
        return 0.0
    rows = luma[height // LINES // 2 :: max(1, height // LINES)]
    steps = cv2.reduce(cv2.absdiff(rows[:, 1:], rows[:, :-1]), 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[0, :count]
    phases = steps.reshape(-1, BLOCK).sum(0)
    # Step 7 is from the last pixel of a block to the first of the next; 2 to 4 lie in its middle.
    within = float(phases[2:5].mean())
    return max(0.0, (float(phases[BLOCK - 1]) + len(rows)) / (within + len(rows)) - 1)


def bars(luma: Plane, is_full_range: bool) -> tuple[float, float, float, float]:
    """Black bars at the top, right, bottom and left as shares of the height and width; all NaN for a black picture."""
    limit = (BLACK if is_full_range else LIMITED_BLACK) + DARK
    if not any(_is_dark(line, limit) for line in (luma[0], luma[-1], luma[:, 0], luma[:, -1])):
        return 0.0, 0.0, 0.0, 0.0
    rows = luma[:, 2 :: max(1, luma.shape[1] // 160)]
    top, bottom = _ends((rows > limit).mean(1) <= BRIGHT_SHARE)
    if top + bottom >= luma.shape[0]:
        return np.nan, np.nan, np.nan, np.nan
    inside = luma[top : luma.shape[0] - bottom]
    columns = inside[:: max(1, inside.shape[0] // 90)]
    left, right = _ends((columns > limit).mean(0) <= BRIGHT_SHARE)
    shares = (top / luma.shape[0], right / luma.shape[1], bottom / luma.shape[0], left / luma.shape[1])
    above, beyond, below, before = (share if share <= LONGEST_BAR else 0.0 for share in shares)
    return above, beyond, below, before


def _is_dark(line: UInt8[np.ndarray, " n"], limit: int) -> bool:
    return bool(np.count_nonzero(line > limit) <= BRIGHT_SHARE * line.size)


def _ends(dark: np.ndarray) -> tuple[int, int]:
    """How many are dark from the start, and from the end."""
    light = np.flatnonzero(~dark)
    return (int(light[0]), len(dark) - 1 - int(light[-1])) if len(light) else (len(dark), 0)


def brightness(small: Plane, is_full_range: bool) -> tuple[float, float]:
    """Mean and standard deviation in levels of full range."""
    mean, spread = (float(each[0, 0]) for each in cv2.meanStdDev(small))
    return (mean, spread) if is_full_range else ((mean - LIMITED_BLACK) * LIMITED, spread * LIMITED)


def colour(sight: Sight) -> tuple[float, float]:
    """Mean distance from grey in levels, and colourfulness; both 0 for grey video.

    Source of the second: Hasler and Süsstrunk 2003, equation 3, where brightness cancels.
    """
    if sight.blue is None or sight.red is None:
        return 0.0, 0.0
    blue, red = (_thinned(plane) for plane in (sight.blue, sight.red))
    # ITU-R BT.601: red - green, and yellow - blue.
    difference = cv2.merge([2.116 * red + 0.344 * blue, 0.344 * red - 1.944 * blue])
    mean, spread = (each[:, 0].tolist() for each in cv2.meanStdDev(difference))
    return cv2.mean(cv2.magnitude(blue, red))[0], math.hypot(*spread) + 0.3 * math.hypot(*mean)


def _thinned(plane: Plane) -> Float32[np.ndarray, "h w"]:
    height, width = plane.shape
    some = plane[:: max(1, height // CHROMA_LINES), :: max(1, width // CHROMA_LINES)]
    return some.astype(np.float32) - NEUTRAL
