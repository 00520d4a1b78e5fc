"""What one picture is like: sharp, dark, colourful, in blocks, between black bars. From the decoder's planes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from ..evaluation.opencv import cv2
from ..media.scan import Sight

Plane = UInt8[np.ndarray, "h w"]
Chroma = UInt8[np.ndarray, "2 h w"]

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
    top, bottom = _ends(_dark_lines(luma[:, 2 :: max(1, luma.shape[1] // 160)], limit, axis=1))
    if top + bottom >= luma.shape[0]:
        return np.nan, np.nan, np.nan, np.nan
    inside = luma[top : luma.shape[0] - bottom]
    left, right = _ends(_dark_lines(inside[:: max(1, inside.shape[0] // 90)], limit, axis=0))
    shares = (top / luma.shape[0], right / luma.shape[1], bottom / luma.shape[0], left / luma.shape[1])
    above, beyond, below, before = (share if share <= LONGEST_BAR else 0.0 for share in shares)
    return above, beyond, below, before


def _is_dark(line: UInt8[np.ndarray, " n"], limit: int) -> bool:
    return bool(np.count_nonzero(line > limit) <= BRIGHT_SHARE * line.size)


def _dark_lines(luma: Plane, limit: int, axis: int) -> np.ndarray:
    # numpy counts along an axis two to four times as slowly.
    bright = cv2.reduce((luma > limit).view(np.uint8), axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
    return bright.ravel() <= BRIGHT_SHARE * luma.shape[axis]


def _ends(dark: np.ndarray) -> tuple[int, int]:
    """How many are dark from the start, and from the end."""
    light = np.flatnonzero(~dark)
    return (int(light[0]), len(dark) - 1 - int(light[-1])) if len(light) else (len(dark), 0)


def brightness(smalls: UInt8[np.ndarray, "n h w"], is_full_range: Bool[np.ndarray, " n"]) -> Float32[np.ndarray, "n 2"]:
    """Mean and standard deviation of each picture in levels of full range."""
    measures = np.stack([smalls.mean((1, 2)), smalls.std((1, 2))], 1)
    limited = (measures - (LIMITED_BLACK, 0)) * LIMITED
    return np.where(is_full_range[:, None], measures, limited).astype(np.float32)


def chroma(sight: Sight) -> Chroma | None:
    """Some of a picture's blue and red, copied; None for grey video."""
    if sight.blue is None or sight.red is None:
        return None
    return np.stack([_thinned(sight.blue), _thinned(sight.red)])


def colour(pictures: Sequence[Chroma | None]) -> Float32[np.ndarray, "n 2"]:
    """Mean distance from grey in levels, and colourfulness, of each picture's chroma; both 0 for grey video.

    Source of the second: Hasler and Süsstrunk 2003, equation 3, where brightness cancels.
    """
    found = np.zeros((len(pictures), 2), np.float32)
    shapes = [None if each is None else each.shape for each in pictures]
    for shape in set(shapes) - {None}:
        places = [place for place, each in enumerate(shapes) if each == shape]
        levels = np.stack([cast(Chroma, pictures[place]) for place in places]).astype(np.float32) - NEUTRAL
        blue, red = levels.reshape(len(places), 2, -1).transpose(1, 0, 2)
        # ITU-R BT.601: red - green, and yellow - blue.
        differences = np.stack([2.116 * red + 0.344 * blue, 0.344 * red - 1.944 * blue])
        mean, spread = (np.hypot(*measure(differences, axis=2)) for measure in (np.mean, np.std))
        found[places] = np.stack([np.hypot(blue, red).mean(1), spread + 0.3 * mean], 1)
    return found


def _thinned(plane: Plane) -> Plane:
    height, width = plane.shape
    return plane[:: max(1, height // CHROMA_LINES), :: max(1, width // CHROMA_LINES)]
