"""Tiny pictures of every frame, straight from the decoder's planes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32, UInt8

from ..evaluation.opencv import cv2
from ..media.scan import Sight
from ..native import native

LUMA_PX = (48, 27)  # width and height, whatever the shape of the frame
CHROMA_PX = (24, 14)
LUMA_BYTES, CHROMA_BYTES = LUMA_PX[0] * LUMA_PX[1], CHROMA_PX[0] * CHROMA_PX[1]
GREY = 128  # no colour
SHARES = 2048  # of two pixels between which a third lies
PLANE = "Array(uint8, 2, 'A', readonly=True)"
Plane = UInt8[np.ndarray, "h w"]
Small = UInt8[np.ndarray, "h2 w2"]
Levels = UInt8[np.ndarray, "256"]
# ITU-R BT.601: black is 16 and white 235 where the range is limited.
AS_IS = np.arange(256, dtype=np.uint8)
FULL_RANGE = np.clip((np.arange(256) - 16) * (255 / 219), 0, 255).round().astype(np.uint8)


def shrink(plane: Plane, size: tuple[int, int]) -> Small:
    """A plane averaged down to `size`, width and height.

    Pixels are averaged two by two until they are two to four times as many as wanted each way; of tall planes only
    every so manyth row is read, for memory is what takes the time.
    """
    small = np.empty((size[1], size[0]), np.uint8)
    shrink_into(_packed(plane), small)
    return small


def thumbnail(sight: Sight) -> UInt8[np.ndarray, " n"]:
    """Brightness, blue and red of one frame as a row of LUMA_BYTES + 2 CHROMA_BYTES; brightness has full range."""
    row = np.empty(LUMA_BYTES + 2 * CHROMA_BYTES, np.uint8)
    levels = AS_IS if sight.is_full_range else FULL_RANGE
    if sight.blue is None or sight.red is None:
        row[LUMA_BYTES:] = GREY
        row[:LUMA_BYTES] = levels[shrink(sight.luma, LUMA_PX)].ravel()
    else:
        thumbnail_into(_packed(sight.luma), _packed(sight.blue), _packed(sight.red), levels, row)
    return row


@native(f"void({PLANE}, {PLANE}, {PLANE}, uint8[::1], uint8[::1])")
def thumbnail_into(luma: Plane, blue: Small, red: Small, levels: Levels, row: UInt8[np.ndarray, " n"]) -> None:
    """Three planes as by `shrink`, the first by way of a table: one call, for each is dear after a frame's decoding."""
    small = row[:LUMA_BYTES]
    shrink_into(luma, small.reshape(LUMA_PX[1], LUMA_PX[0]))
    for place in range(LUMA_BYTES):
        small[place] = levels[small[place]]
    chroma = row[LUMA_BYTES:].reshape(2, CHROMA_PX[1], CHROMA_PX[0])
    shrink_into(blue, chroma[0])
    shrink_into(red, chroma[1])


@native(f"void({PLANE}, uint8[:,::1])")
def shrink_into(plane: Plane, small: Small) -> None:
    """The loops of `shrink`."""
    if plane.strides[1] != 1:
        raise ValueError("pixels apart; expected them side by side")
    height, width = small.shape
    halvings = 0
    while plane.shape[1] // width >> halvings >= 4:
        halvings += 1
    step = max(1, plane.shape[0] // (height << halvings))
    fine = halved(plane, step, height) if halvings else np.ascontiguousarray(plane[::step])
    for _ in range(halvings - 1):
        fine = halved(fine, 1, height)
    interpolate(fine, small)


@native()
def halved(plane: Plane, step: int, least: int) -> Small:
    """Of half the width, and of half the height if at least so many rows remain; of every `step`-th row."""
    if plane.strides[1] != 1:
        raise ValueError("pixels apart; expected them side by side")
    rows, apart = (plane.shape[0] + step - 1) // step, 0  # 0: each row with itself
    if rows // 2 >= least:
        rows, apart = rows // 2, step
    small = np.empty((rows, plane.shape[1] // 2), np.uint8)
    for row in range(rows):
        one = row * (step + apart)
        other = one + apart
        for column in range(small.shape[1]):
            left, right = 2 * column, 2 * column + 1
            upper = np.int32(plane[one, left]) + plane[one, right]
            small[row, column] = (upper + plane[other, left] + plane[other, right] + 2) >> 2
    return small


@native()
def interpolate(fine: Plane, small: Small) -> None:
    """Between the two nearest pixels each way, where the centres of pixels spread evenly over both planes.

    With shares and roundings of OpenCV's vector instructions, by which the network of shots was trained.
    """
    tops, lowers = between(fine.shape[0], small.shape[0])
    lefts, laters = between(fine.shape[1], small.shape[1])
    upper, under = np.empty((2, small.shape[1]), np.int32)
    for row in range(small.shape[0]):
        top, lower = tops[row], lowers[row]
        below = min(top + 1, fine.shape[0] - 1)
        for column in range(small.shape[1]):
            left, later = lefts[column], laters[column]
            right = min(left + 1, fine.shape[1] - 1)
            upper[column] = (fine[top, left] * (SHARES - later) + fine[top, right] * later) >> 4
            under[column] = (fine[below, left] * (SHARES - later) + fine[below, right] * later) >> 4
        for column in range(small.shape[1]):
            mixed = (upper[column] * (SHARES - lower) >> 16) + (under[column] * lower >> 16)
            small[row, column] = (mixed + 2) >> 2


@native()
def between(among: int, of: int) -> tuple[Int32[np.ndarray, " of"], Int32[np.ndarray, " of"]]:
    """For each of so many places the first of the two nearest `among` others, and the share of the second."""
    firsts, shares = np.empty((2, of), np.int32)
    for place in range(of):
        exact = min(max((place + 0.5) * (among / of) - 0.5, 0.0), among - 1.0)
        firsts[place] = int(exact)
        shares[place] = round((exact - int(exact)) * SHARES)
    return firsts, shares


def sketches(rows: UInt8[np.ndarray, "n bytes"]) -> UInt8[np.ndarray, "n 72"]:
    """Brightness in 9 rows of 8 cells of each of these thumbnails."""
    # One upon the other, they are one tall picture whose cells are whole.
    tall = np.ascontiguousarray(rows[:, :LUMA_BYTES]).reshape(-1, LUMA_PX[0])
    return cv2.resize(tall, (8, 9 * len(rows)), interpolation=cv2.INTER_AREA).reshape(len(rows), 72)


def _packed(plane: Plane) -> Plane:
    """The same plane with its pixels side by side; where blue and red interleave it is copied."""
    # One pixel is contiguous to numpy whatever its strides.
    return plane if plane.strides[1] == 1 else plane.copy()
