"""Motion between moments half a second apart: dense flow of tiny pictures, coarse first."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Complex64, Complex128, Float32, Float64, UInt8

from ..evaluation.opencv import cv2
from .thumbnails import shrink

FINE_PX, PAPER_PX = 32, 16  # shorter sides
LONGEST = 4  # times the shorter side; what is longer is squeezed
GRID = (12, 7)  # cells across and down that a field is kept on
# Farneback's settings in video2dataset, which authors of the paper wrote: the pyramid's scale and levels, the window,
# iterations, and the size and spread of the polynomials.
PAPER = (0.5, 3, 15, 3, 5, 1.2)
# One level and one iteration, for the paper's flow has come near already: more changes nothing that is measured.
FINE = (0.5, 1, 11, 1, 5, 1.2)

ALIKE_LEVELS = 1.0  # differences that noise makes in so small a picture
CLOSE_LEVELS = 0.1
LEAST_SHARED = 3  # a shift must leave a third of the picture in sight
# Between the lightest and the darkest of nine pixels: what a sensor's noise makes, and what is clearly more.
GRAIN_LEVELS, TEXTURE_LEVELS = 5.0, 8.0
SQUARE = np.ones((3, 3), np.uint8)

Field = Float32[np.ndarray, "h w 2"]
Fields = Float32[np.ndarray, "n h w 2"]
Small = UInt8[np.ndarray, "h w"]
Smalls = UInt8[np.ndarray, "n h w"]


@dataclasses.dataclass(frozen=True, slots=True)
class Moved:
    """Motion from each of so many pictures to the next."""

    paper: Float32[np.ndarray, " n"]  # mean length in pixels of a picture of PAPER_PX
    field: Complex64[np.ndarray, "n h w"]  # to the right and down, on GRID, in shorter sides
    texture: Float32[np.ndarray, "n h w"]  # on GRID, in [0, 1]: how much there is to see motion by


def small_picture(luma: UInt8[np.ndarray, "h2 w2"]) -> Small:
    """A brightness plane of FINE_PX on its shorter side."""
    height, width = luma.shape
    return shrink(luma, _size(width / height, FINE_PX))


def moved(pictures: Smalls, aspect: float) -> Moved:
    """The flow between neighbours of two or more small pictures, whose brightness and contrast may differ.

    All pairs go through each operation together, one upon the other where OpenCV takes one picture at a time: a call
    costs more than what it computes. `aspect` is that of the video.
    """
    before, after = pictures[:-1], _matched(pictures)
    count, height, width = before.shape
    size = _size(aspect, PAPER_PX)
    one, other = (_resized(each, size) for each in (before, after))
    paper = np.stack([_farneback(*pair, None, *PAPER, 0) for pair in zip(one, other, strict=True)])
    near = _nearer(one, other, paper, _shifts(before, after) * (PAPER_PX / FINE_PX))
    scale = np.float32(FINE_PX / PAPER_PX)
    starts = (cv2.resize(each, (width, height)) * scale for each in near)
    given = zip(before, after, starts, strict=True)
    fine = np.stack([_farneback(*each, *FINE, cv2.OPTFLOW_USE_INITIAL_FLOW) for each in given])
    sides = np.array((max(aspect, 1) / width, max(1 / aspect, 1) / height), np.float32)
    field = _resized(fine, GRID) * sides
    lengths = cv2.magnitude(*cv2.split(paper.reshape(count, -1, 2))).mean(1, dtype=np.float64)
    return Moved(lengths.astype(np.float32), field.view(np.complex64)[..., 0], _texture(before))


def _farneback(*arguments: Any) -> Field:
    return cv2.calcOpticalFlowFarneback(*arguments)  # its stubs know no absent start


def _resized(pictures: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pictures averaged to `size`, width and height; one upon the other, no cell reaches over an edge."""
    count, height = pictures.shape[:2]
    tall = pictures.reshape(count * height, *pictures.shape[2:])
    small = cv2.resize(tall, (size[0], count * size[1]), interpolation=cv2.INTER_AREA)
    return small.reshape(count, size[1], *small.shape[1:])


def _framed(pictures: np.ndarray, mode: Literal["edge", "reflect"]) -> np.ndarray:
    """One upon the other, each with a line more above and below, so that windows of three see no other picture."""
    return np.pad(pictures, ((0, 0), (1, 1), (0, 0)), mode=mode).reshape(-1, pictures.shape[2])


def _unframed(tall: np.ndarray, like: np.ndarray) -> np.ndarray:
    return tall.reshape(len(like), like.shape[1] + 2, like.shape[2])[:, 1:-1]


def _texture(pictures: Smalls) -> Float32[np.ndarray, "n h2 w2"]:
    tall = _framed(pictures, "edge")
    span = _unframed(cv2.subtract(cv2.dilate(tall, SQUARE), cv2.erode(tall, SQUARE)), pictures).astype(np.float32)
    over = np.clip(span - np.float32(GRAIN_LEVELS), 0, TEXTURE_LEVELS)
    return _resized(over, GRID) * np.float32(1 / TEXTURE_LEVELS)


def _shifts(before: Smalls, after: Smalls) -> Complex128[np.ndarray, " n"]:
    """The one shift between each two pictures, right and down, which is nonsense where there is none."""
    # Copies, for OpenCV lays the window over its own arguments where their sizes suit its transform.
    pairs = zip(before.astype(np.float32), after.astype(np.float32), strict=True)
    window = _window(*before.shape[1:])
    return np.array([complex(*cv2.phaseCorrelate(*pair, window)[0]) for pair in pairs])


def _nearer(before: Smalls, after: Smalls, flow: Fields, shift: Complex128[np.ndarray, " n"]) -> Fields:
    """The flow, or the one shift of the whole picture where that explains as much: it reaches further.

    What stands still as well as it moves is taken to stand: the flow's wide window carries the motion of a thing into
    its surroundings.
    """
    one, other = before.astype(np.float32), after.astype(np.float32)
    still, moving = (_blurred(each) for each in (np.abs(one - other), _left(one, other, flow)))
    moves = still > moving + np.float32(ALIKE_LEVELS)
    everywhere = np.stack([np.real(shift), np.imag(shift)], -1).astype(np.float32)[:, None, None]
    shared = _shared(before.shape[1], np.imag(shift))[:, :, None] & _shared(before.shape[2], np.real(shift))[:, None]
    sizes = shared.sum((1, 2))
    shifted, mixed = (
        np.where(shared, each, 0).sum((1, 2)) / np.maximum(sizes, 1)
        for each in (_left(one, other, everywhere), np.where(moves, moving, still))
    )
    is_one = (sizes * LEAST_SHARED >= before[0].size) & (shifted <= mixed + CLOSE_LEVELS)
    return np.where(is_one[:, None, None, None], everywhere, flow * moves[..., None])


def _blurred(pictures: Float32[np.ndarray, "n h w"]) -> Float32[np.ndarray, "n h w"]:
    return _unframed(cv2.blur(_framed(pictures, "reflect"), (3, 3)), pictures)


def _shared(size: int, by: Float64[np.ndarray, " n"]) -> Bool[np.ndarray, "n size"]:
    """The places of the first picture that a shift leaves inside the second."""
    places = np.arange(size)
    return (places >= np.ceil(-by)[:, None]) & (places < size - np.ceil(by)[:, None])


def _left(
    before: Float32[np.ndarray, "n h w"], after: Float32[np.ndarray, "n h w"], flow: Float32[np.ndarray, "n ... 2"]
) -> Float32[np.ndarray, "n h w"]:
    """What a flow leaves unexplained, in levels."""
    count, height, width = before.shape
    places = _grid(height, width) + flow
    # Beyond its own edge a picture repeats; below it lies the next.
    tops = np.arange(count, dtype=np.float32)[:, None, None] * height
    x, y = np.ascontiguousarray(places[..., 0]), np.clip(places[..., 1], 0, height - 1) + tops
    maps = x.reshape(-1, width), y.reshape(-1, width)
    found = cv2.remap(after.reshape(-1, width), maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.abs(before - found.reshape(before.shape))


@functools.lru_cache(maxsize=8)
def _window(height: int, width: int) -> Float32[np.ndarray, "h w"]:
    return np.asarray(cv2.createHanningWindow((width, height), cv2.CV_32F), np.float32)


@functools.lru_cache(maxsize=8)
def _grid(height: int, width: int) -> Field:
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


def _size(aspect: float, shorter_px: int) -> tuple[int, int]:
    longer = round(shorter_px * min(LONGEST, max(aspect, 1 / aspect)))
    return (longer, shorter_px) if aspect >= 1 else (shorter_px, longer)


def _matched(pictures: Smalls) -> UInt8[np.ndarray, "n2 h w"]:
    """Each picture but the first in the light of the one before: a flicker is no motion."""
    means, spreads = (each.astype(np.float64) for each in (pictures.mean((1, 2)), pictures.std((1, 2))))
    gains = (spreads[:-1] + 1) / (spreads[1:] + 1)
    offsets = means[:-1] - gains * means[1:]
    given = zip(pictures[1:], gains.tolist(), offsets.tolist(), strict=True)
    return np.stack([cv2.convertScaleAbs(each, alpha=gain, beta=offset) for each, gain, offset in given])
