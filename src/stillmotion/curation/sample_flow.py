"""Motion between two moments half a second apart: dense flow of tiny pictures, coarse first."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from jaxtyping import Complex64, Float32, UInt8

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
Small = UInt8[np.ndarray, "h w"]


@dataclasses.dataclass(frozen=True, slots=True)
class Moved:
    """Motion from one picture to the next."""

    paper: float  # mean length in pixels of a picture of PAPER_PX
    field: Complex64[np.ndarray, "h w"]  # to the right and down, on GRID, in shorter sides
    texture: Float32[np.ndarray, "h w"]  # on GRID, in [0, 1]: how much there is to see motion by


def small_picture(luma: UInt8[np.ndarray, "h w"]) -> Small:
    """A brightness plane of FINE_PX on its shorter side."""
    height, width = luma.shape
    return shrink(luma, _size(width / height, FINE_PX))


def moved(before: Small, after: Small, aspect: float) -> Moved:
    """The flow between two small pictures, whose brightness and contrast may differ. `aspect` is that of the video."""
    after = _matched(before, after)
    size = _size(aspect, PAPER_PX)
    one, other = (cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in (before, after))
    paper = cv2.calcOpticalFlowFarneback(one, other, None, *PAPER, 0)  # type: ignore[call-overload]
    near = _nearer(one, other, paper, _shift(before, after) * (PAPER_PX / FINE_PX))
    start = cv2.resize(near, before.shape[::-1]) * np.float32(FINE_PX / PAPER_PX)
    fine = cv2.calcOpticalFlowFarneback(before, after, start, *FINE, cv2.OPTFLOW_USE_INITIAL_FLOW)
    scale = max(aspect, 1) / before.shape[1], max(1 / aspect, 1) / before.shape[0]
    field = cv2.resize(fine, GRID, interpolation=cv2.INTER_AREA) * np.array(scale, np.float32)
    return Moved(_mean_length(paper), field.view(np.complex64)[..., 0], _texture(before))


def _texture(picture: Small) -> Float32[np.ndarray, "h w"]:
    span = cv2.subtract(cv2.dilate(picture, SQUARE), cv2.erode(picture, SQUARE))
    over = cv2.min(cv2.subtract(span, GRAIN_LEVELS), TEXTURE_LEVELS).astype(np.float32)  # type: ignore[call-overload]
    return cv2.resize(over, GRID, interpolation=cv2.INTER_AREA) * np.float32(1 / TEXTURE_LEVELS)


def _shift(before: Small, after: Small) -> complex:
    """The one shift between two pictures, right and down, which is nonsense where there is none."""
    # Copies, for OpenCV lays the window over its own arguments where their sizes suit its transform.
    one, other = before.astype(np.float32), after.astype(np.float32)
    shift, _ = cv2.phaseCorrelate(one, other, _window(*before.shape))
    return complex(*shift)


def _nearer(before: Small, after: Small, flow: Field, shift: complex) -> Field:
    """The flow, or the one shift of the whole picture where that explains as much: it reaches further.

    What stands still as well as it moves is taken to stand: the flow's wide window carries the motion of a thing into
    its surroundings.
    """
    one, other = before.astype(np.float32), after.astype(np.float32)
    still, moving = (cv2.blur(each, (3, 3)) for each in (cv2.absdiff(one, other), _left(one, other, flow)))
    moves = still > moving + ALIKE_LEVELS
    everywhere = np.array((shift.real, shift.imag), np.float32)
    shared = tuple(_shared(size, by) for size, by in zip(before.shape, (shift.imag, shift.real), strict=True))
    shifted, mixed = _left(one, other, everywhere)[shared], np.where(moves, moving, still)[shared]
    if shifted.size * LEAST_SHARED >= before.size and float(shifted.mean()) <= float(mixed.mean()) + CLOSE_LEVELS:
        return np.full(flow.shape, everywhere, np.float32)
    return flow * moves[..., None]


def _shared(size: int, by: float) -> slice:
    """The places of the first picture that a shift leaves inside the second."""
    return slice(max(0, math.ceil(-by)), min(size, size - math.ceil(by)))


def _left(
    before: Float32[np.ndarray, "h w"], after: Float32[np.ndarray, "h w"], flow: Float32[np.ndarray, "..."]
) -> Float32[np.ndarray, "h w"]:
    """What a flow leaves unexplained, in levels."""
    x, y = cv2.split(_grid(*before.shape) + flow)
    return cv2.absdiff(before, cv2.remap(after, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


@functools.lru_cache(maxsize=8)
def _window(height: int, width: int) -> Float32[np.ndarray, "h w"]:
    return np.asarray(cv2.createHanningWindow((width, height), cv2.CV_32F), np.float32)


@functools.lru_cache(maxsize=8)
def _grid(height: int, width: int) -> Field:
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


def _size(aspect: float, shorter_px: int) -> tuple[int, int]:
    longer = round(shorter_px * min(LONGEST, max(aspect, 1 / aspect)))
    return (longer, shorter_px) if aspect >= 1 else (shorter_px, longer)


def _matched(before: Small, after: Small) -> Small:
    """The later picture in the light of the earlier one: a flicker is no motion."""
    (mean,), (spread,) = (each[:, 0].tolist() for each in cv2.meanStdDev(before))
    (other_mean,), (other_spread,) = (each[:, 0].tolist() for each in cv2.meanStdDev(after))
    gain = (spread + 1) / (other_spread + 1)
    return cv2.convertScaleAbs(after, alpha=gain, beta=mean - gain * other_mean)


def _mean_length(flow: Field) -> float:
    return cv2.mean(cv2.magnitude(*cv2.split(flow)))[0]
