"""Tiny pictures of every frame, straight from the decoder's planes."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from ..evaluation.opencv import cv2
from ..media.scan import Sight

LUMA_PX = (48, 27)  # width and height, whatever the shape of the frame
CHROMA_PX = (24, 14)
LUMA_BYTES, CHROMA_BYTES = LUMA_PX[0] * LUMA_PX[1], CHROMA_PX[0] * CHROMA_PX[1]
GREY = 128  # no colour
# ITU-R BT.601: black is 16 and white 235 where the range is limited.
FULL_RANGE = np.clip((np.arange(256) - 16) * (255 / 219), 0, 255).round().astype(np.uint8)


def shrink(plane: UInt8[np.ndarray, "h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2"]:
    """A plane averaged down to `size`, width and height.

    Pixels are averaged two by two, which OpenCV does in vector instructions, until they are two to four times as many
    as wanted each way; of tall planes only every so manyth row is read, for memory is what takes the time. OpenCV's
    area interpolation takes 50 times as long.
    """
    halvings, step = _reduction(plane.shape, size)
    return _shrunk(plane[::step], size, halvings)


def shrink_pair(
    one: UInt8[np.ndarray, "h w"], other: UInt8[np.ndarray, "h w"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h3 w2"]:
    """Two planes of one shape as by `shrink`, one upon the other: in half of the calls, where no row is left over."""
    halvings, step = _reduction(one.shape, size)
    rows = -(-len(one) // step)
    if rows % (1 << halvings) or rows >> halvings < size[1]:
        return np.concatenate([shrink(_packed(each), size) for each in (one, other)])
    return _shrunk(np.concatenate([one[::step], other[::step]]), (size[0], 2 * size[1]), halvings)


def _reduction(shape: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """How often a plane is halved, and that every so manyth row of it is read."""
    halvings = max(0, (shape[1] // size[0]).bit_length() - 2)
    return halvings, max(1, shape[0] // (size[1] << halvings))


def _shrunk(plane: UInt8[np.ndarray, "h w"], size: tuple[int, int], halvings: int) -> UInt8[np.ndarray, "h2 w2"]:
    for _ in range(halvings):
        rows, columns = plane.shape[0] // 2, plane.shape[1] // 2
        if rows < size[1]:
            plane = cv2.resize(plane, (columns, plane.shape[0]), interpolation=cv2.INTER_AREA)
        else:
            plane = cv2.resize(plane[: rows * 2, : columns * 2], (columns, rows), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)


def thumbnail(sight: Sight) -> UInt8[np.ndarray, " n"]:
    """Brightness, blue and red of one frame as a row of LUMA_BYTES + 2 CHROMA_BYTES; brightness has full range."""
    row = np.empty(LUMA_BYTES + 2 * CHROMA_BYTES, np.uint8)
    luma = shrink(sight.luma, LUMA_PX)
    row[:LUMA_BYTES] = (luma if sight.is_full_range else cv2.LUT(luma, FULL_RANGE)).ravel()
    if sight.blue is None or sight.red is None:
        row[LUMA_BYTES:] = GREY
        return row
    row[LUMA_BYTES:] = shrink_pair(sight.blue, sight.red, CHROMA_PX).ravel()
    return row


def sketches(rows: UInt8[np.ndarray, "n bytes"]) -> UInt8[np.ndarray, "n 72"]:
    """Brightness in 9 rows of 8 cells of each of these thumbnails."""
    # One upon the other, they are one tall picture whose cells are whole.
    tall = np.ascontiguousarray(rows[:, :LUMA_BYTES]).reshape(-1, LUMA_PX[0])
    return cv2.resize(tall, (8, 9 * len(rows)), interpolation=cv2.INTER_AREA).reshape(len(rows), 72)


def _packed(plane: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """The same plane with its pixels side by side, which OpenCV wants; where blue and red interleave it is copied."""
    return plane if plane.strides[1] == 1 else np.ascontiguousarray(plane)
