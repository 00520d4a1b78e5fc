"""What one picture is like: sharp, dark, colourful, in blocks, between black bars. From the decoder's planes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from ..media.scan import Sight
from ..native import native
from .thumbnails import PLANE, Plane, Small

Chroma = UInt8[np.ndarray, "2 h w"]

LIMITED = 255 / 219  # levels of full range in one of limited range; its black is 16. Source: ITU-R BT.601
BLACK, LIMITED_BLACK = 0, 16
DARK = 12  # levels above black that a bar's pixels stay below, for compression leaves some there
COLUMN_PX = 90  # pixels of a column that are looked at, or a few more
BRIGHT_SHARE = 0.01  # of a bar's pixels may be brighter
LONGEST_BAR = 0.45  # of the frame, on each side: more is a dark picture
BLOCK = 8  # pixels: what MPEG-2, MPEG-4, MJPEG and H.263 code together
LINES = 24  # rows that blocks are looked for in
CHROMA_LINES = 16
NEUTRAL = 128


def sharpness(luma: Plane, is_full_range: bool) -> float:
    """The variance of the Laplacian over the middle of the picture, in squared levels of full range."""
    return laplacian_variance(luma) * (1 if is_full_range else LIMITED**2)


@native(f"float64({PLANE})")
def laplacian_variance(luma: Plane) -> float:
    """Of the middle three tenths each way; 0 where there is no pixel with neighbours on all sides."""
    if luma.strides[1] != 1:
        raise ValueError("pixels apart; expected them side by side")
    top, left = max(0, luma.shape[0] * 7 // 20 - 1), max(0, luma.shape[1] * 7 // 20 - 1)
    # Counted from a pixel that is above and left of the first one: what may be below 0 is never a vector.
    part = luma[top : luma.shape[0] - top, left : luma.shape[1] - left]
    height, width = max(0, part.shape[0] - 2), max(0, part.shape[1] - 2)
    total = square = 0
    bends = np.empty(width, np.int16)
    for row in range(height):
        for column in range(width):
            around = np.int16(part[row, column + 1]) + part[row + 2, column + 1]
            beside = np.int16(part[row + 1, column]) + part[row + 1, column + 2]
            bends[column] = around + beside - 4 * np.int16(part[row + 1, column + 1])
        for column in range(width):  # apart from the loop above, which then is one of vectors
            total += bends[column]
            square += np.int32(bends[column]) * bends[column]
    count = height * width
    return square / count - (total / count) ** 2 if count else 0.0


@native(f"float64({PLANE})")
def blockiness(luma: Plane) -> float:
    """How much larger steps between blocks of 8 pixels are than within them: 0 for none, 1 for twice as large.

    Along a few rows alone, for blocks have edges both ways, and columns are slow to read.
    """
    if luma.strides[1] != 1:
        raise ValueError("pixels apart; expected them side by side")
    height, width = luma.shape
    count = (width - 1) // BLOCK * BLOCK
    if count < 4 * BLOCK:
        return 0.0
    steps, rows = np.zeros(count, np.int32), 0
    for row in range(height // LINES // 2, height, max(1, height // LINES)):
        rows += 1
        for column in range(count):
            one, other = luma[row, column], luma[row, column + 1]
            steps[column] += np.uint8(max(one, other) - min(one, other))
    phases = np.zeros(BLOCK, np.int64)
    for column in range(count):
        phases[column % BLOCK] += steps[column]
    # Step 7 is from the last pixel of a block to the first of the next; 2 to 4 lie in its middle.
    within = (phases[2] + phases[3] + phases[4]) / 3
    return max(0.0, (phases[BLOCK - 1] + rows) / (within + rows) - 1)


def bars(luma: Plane, is_full_range: bool) -> tuple[float, float, float, float]:
    """Black bars at the top, right, bottom and left as shares of the height and width; all NaN for a black picture."""
    height, width = luma.shape
    top, right, bottom, left = dark_edges(luma, (BLACK if is_full_range else LIMITED_BLACK) + DARK)
    if top == height:
        return np.nan, np.nan, np.nan, np.nan
    shares = (top / height, right / width, bottom / height, left / width)
    above, beyond, below, before = (share if share <= LONGEST_BAR else 0.0 for share in shares)
    return above, beyond, below, before


@native(f"UniTuple(int64, 4)({PLANE}, int64)")
def dark_edges(luma: Plane, limit: int) -> tuple[int, int, int, int]:
    """How many lines are dark at the top, right, bottom and left; those at the sides between the former two."""
    if luma.strides[1] != 1:
        raise ValueError("pixels apart; expected them side by side")
    height, width = luma.shape
    top = bottom = left = right = 0
    while top < height and is_dark(luma[top], limit):
        top += 1
    if top == height:
        return top, 0, 0, 0
    while is_dark(luma[height - 1 - bottom], limit):
        bottom += 1
    inside = luma[top : height - bottom : max(1, (height - top - bottom) // COLUMN_PX)]
    while left < width and is_dark(inside[:, left], limit):
        left += 1
    while right < width - left and is_dark(inside[:, width - 1 - right], limit):
        right += 1
    return top, right, bottom, left


@native()
def is_dark(line: UInt8[np.ndarray, " n"], limit: int) -> bool:
    """Whether next to no pixel is brighter."""
    bright = 0
    for place in range(line.size):
        bright += line[place] > limit
    return bright <= BRIGHT_SHARE * line.size


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


def _thinned(plane: Plane) -> Small:
    height, width = plane.shape
    return plane[:: max(1, height // CHROMA_LINES), :: max(1, width // CHROMA_LINES)]
