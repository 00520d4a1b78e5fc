"""What changes around every frame, in some ninety numbers, from thumbnails alone.

A frame is compared with those before and after it at several distances, so that one pass sees fast and slow changes.
All comparisons are of whole blocks of frames at once; nothing here loops over pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from ..evaluation.opencv import cv2
from .thumbnails import CHROMA_PX, LUMA_BYTES, LUMA_PX

HALO = 28  # frames on each side that the features of a frame look at
# Pairs that stand on both sides of the boundary before a frame: the k-th frame before it, and the (k-1)-th after. Slow
# changes are looked at every second or fourth frame only: (k, every so many frames).
STRADDLES = ((1, 1), (2, 1), (3, 2), (5, 2), (9, 4), (17, 4))
# Distances at which a frame is compared with the mixture of the one before and the one after, and how often.
REACHES = ((3, 1), (6, 2), (12, 4), (24, 4))
HISTOGRAMS = ((1, 1), (3, 1), (9, 2), (17, 4))
PROFILES = ((1, 1), (3, 2))
BINS = 16
SHIFTS = 4  # largest shift of the profiles, in cells
PIECE = 96  # frames, a multiple of every step above
TINY = 1.0  # levels of 255: differences below are noise
# Comparisons are of brightness in 24x14 cells, and of blue and red in 12x7 each.
WIDE, HIGH = CHROMA_PX
LUMA = WIDE * HIGH
COLOUR = LUMA // 4
CELLS = LUMA + 2 * COLOUR
SQUARE = np.ones((3, 3), np.uint8)

Cells = Float[np.ndarray, "n c"]
Column = Float[np.ndarray, " n"]


def _margins() -> Float[np.ndarray, "luma w+h"]:
    """A matrix by which the brightness of cells becomes its sums over columns, and then over lines."""
    cells = np.arange(LUMA)
    places = np.concatenate([np.arange(WIDE), np.arange(HIGH)])
    of_cell = np.concatenate([np.repeat(cells[:, None] % WIDE, WIDE, 1), np.repeat(cells[:, None] // WIDE, HIGH, 1)], 1)
    return (of_cell == places).astype(np.float32)


def _inner() -> Float[np.ndarray, " luma"]:
    """Weights of the mean over all cells of brightness but those at the edges."""
    inner = np.zeros((HIGH, WIDE), np.float32)
    inner[1:-1, 1:-1] = 1 / ((HIGH - 2) * (WIDE - 2))
    return inner.ravel()


MARGINS, INNER = _margins(), _inner()


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    """What is known of every frame of a block by itself."""

    cells: Cells  # brightness, blue, red
    high: Cells  # the highest brightness of each cell and its eight neighbours
    low: Cells
    mean: Column  # of brightness
    deviation: Column
    histogram: Float[np.ndarray, "n bins"]  # cumulative
    columns: Float[np.ndarray, "n w"]  # mean brightness of each
    lines: Float[np.ndarray, "n h"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Piece:
    """So many frames of a block, the first at a place."""

    first: int
    frames: int

    def rows(self, shift: int, step: int = 1, beyond: int = 0) -> slice:
        """The middle one of every `step` frames, each replaced by the one `shift` later, and `beyond` more."""
        start = self.first + shift + step // 2
        return slice(start, start + self.frames + beyond, step)

    def spread(self, columns: Sequence[Column], step: int) -> Float[np.ndarray, "n k"]:
        """Columns of every `step`-th frame as columns of each."""
        found = np.stack(columns, 1).astype(np.float32, copy=False)
        return found if step == 1 else np.repeat(found, step, axis=0)[: self.frames]


def features(rows: UInt8[np.ndarray, "n bytes"]) -> Float[np.ndarray, "m f"]:
    """The features of frames HALO to n - HALO - 1 of so many thumbnails, as logarithms and ratios."""
    known = _known(rows)
    # In pieces, which stay in the processor's cache.
    stop = len(rows) - HALO
    pieces = [_Piece(first, min(PIECE, stop - first)) for first in range(HALO, stop, PIECE)]
    return np.concatenate([_features(rows, known, piece) for piece in pieces])


def _features(rows: UInt8[np.ndarray, "n bytes"], known: _Known, piece: _Piece) -> Float[np.ndarray, "m f"]:
    groups = [_levels(known, piece), _steps(rows[piece.first - 1 : piece.first + piece.frames, :LUMA_BYTES])]
    groups += [_straddle(known, piece, *each) for each in STRADDLES]
    groups += [_histogram(known, piece, *each) for each in HISTOGRAMS]
    for profile in (known.columns, known.lines):
        groups += [_shift(profile, piece, *each) for each in PROFILES]
    groups += [_mixture(known, piece, *each) for each in REACHES]
    return np.concatenate(groups, axis=1)


def _known(rows: UInt8[np.ndarray, "n bytes"]) -> _Known:
    cells = np.empty((len(rows), CELLS), np.float32)
    _halve(rows[:, :LUMA_BYTES].reshape(-1, LUMA_PX[1], LUMA_PX[0]), cells[:, :LUMA].reshape(-1, HIGH, WIDE))
    colour = np.ascontiguousarray(rows[:, LUMA_BYTES:]).reshape(-1, WIDE)
    halved = cv2.resize(colour, (WIDE // 2, len(colour) // 2), interpolation=cv2.INTER_AREA)
    cells[:, LUMA:] = halved.reshape(len(rows), -1)
    luma = np.ascontiguousarray(cells[:, :LUMA])
    # Frames stand on one another here; what looks into another's cells is at an edge, where INNER is 0.
    tall = luma.reshape(-1, WIDE)
    high, low = (change(tall, SQUARE).reshape(luma.shape) for change in (cv2.dilate, cv2.erode))
    sums = luma @ MARGINS
    columns, lines = sums[:, :WIDE] / HIGH, sums[:, WIDE:] / WIDE
    mean = columns.mean(axis=1)
    deviation = np.sqrt(np.maximum(_dot(luma, luma) / LUMA - mean * mean, 0))
    return _Known(cells, high, low, mean, deviation, _cumulative(luma), columns, lines)


def _halve(fine: UInt8[np.ndarray, "n h w"], halved: Float[np.ndarray, "n h2 w2"]) -> None:
    """Means of two by two; the last row, which is odd, stands alone."""
    pairs = fine[:, :, 0::2].astype(np.uint16) + fine[:, :, 1::2]
    np.multiply(pairs[:, 0:-1:2] + pairs[:, 1::2], np.float32(0.25), out=halved[:, :-1])
    np.multiply(pairs[:, -1], np.float32(0.5), out=halved[:, -1])


def _dot(one: Cells, other: Cells) -> Column:
    return np.einsum("nc,nc->n", one, other)


def _levels(known: _Known, piece: _Piece) -> Float[np.ndarray, "m 4"]:
    """Brightness, contrast, colour and distance from one flat colour."""
    here = piece.rows(0)
    luma, colours = known.cells[here, :LUMA], known.cells[here, LUMA:]
    colour = np.abs(colours - 128).mean(axis=1)
    extent = luma.max(axis=1) - luma.min(axis=1)
    columns = [known.mean[here] / 64, np.log1p(known.deviation[here]), np.log1p(colour), np.log1p(extent)]
    return piece.spread(columns, 1)


def _steps(rows: UInt8[np.ndarray, "n c"]) -> Float[np.ndarray, "m 4"]:
    """The step from the frame before, cell by cell: how large, how concentrated, how much of the picture."""
    step = cv2.absdiff(rows[1:], rows[:-1])
    share = np.count_nonzero(step > 12, axis=1) / LUMA_BYTES
    peak = step.max(axis=1)
    step = step.astype(np.float32)
    mean = step.mean(axis=1)
    root = np.sqrt(_dot(step, step) / LUMA_BYTES)
    return np.stack([np.log1p(mean), root / (mean + TINY), share, np.log1p(peak)], 1).astype(np.float32)


def _straddle(known: _Known, piece: _Piece, distance: int, step: int) -> Float[np.ndarray, "m 3"]:
    """Differences across the boundary: plain, in colour, and beyond what a move of one cell explains."""
    old, new = piece.rows(-distance, step), piece.rows(distance - 1, step)
    change = known.cells[new] - known.cells[old]
    np.abs(change, out=change)
    luma = known.cells[new, :LUMA]
    beyond = luma - known.high[old]
    np.maximum(beyond, known.low[old] - luma, out=beyond)
    np.maximum(beyond, 0, out=beyond)
    means = (change[:, :LUMA].mean(axis=1), change[:, LUMA:].mean(axis=1), beyond @ INNER)
    return piece.spread([np.log1p(each) for each in means], step)


def _cumulative(luma: Cells) -> Float[np.ndarray, "n bins"]:
    """The cumulative histogram of brightness of every frame, by every second cell."""
    count = len(luma)
    cells = luma[:, ::2].astype(np.int32) >> 4
    cells += np.arange(count, dtype=np.int32)[:, None] * BINS
    histogram = np.bincount(cells.ravel(), minlength=count * BINS).reshape(count, BINS)
    return histogram.cumsum(axis=1, dtype=np.float32) / cells.shape[1]


def _histogram(known: _Known, piece: _Piece, distance: int, step: int) -> Float[np.ndarray, "m 1"]:
    """The distance between cumulative histograms across the boundary, which motion leaves alone."""
    total = known.histogram
    change = np.abs(total[piece.rows(distance - 1, step)] - total[piece.rows(-distance, step)])
    return piece.spread([np.sqrt(change.sum(axis=1))], step)


def _shift(profile: Float[np.ndarray, "n c"], piece: _Piece, distance: int, step: int) -> Float[np.ndarray, "m 3"]:
    """How well the best shift of the whole picture explains a change, along rows or columns, and how far it is."""
    later = profile[piece.rows(distance - 1, step), SHIFTS : profile.shape[1] - SHIFTS]
    earlier = profile[piece.rows(-distance, step)]
    windows = np.lib.stride_tricks.sliding_window_view(earlier, later.shape[1], axis=1)
    costs = np.abs(windows - later[:, None]).mean(axis=2)
    best = costs.min(axis=1)
    moved = np.abs(costs.argmin(axis=1) - SHIFTS) / SHIFTS
    return piece.spread([np.log1p(best), best / (costs[:, SHIFTS] + TINY), moved], step)


def _mixture(known: _Known, piece: _Piece, reach: int, step: int) -> Float[np.ndarray, "m 11"]:
    """Whether a frame is a mixture of the one `reach` before and the one after, everywhere alike or place by place."""
    places = piece.rows(-reach, step, 2 * reach)
    frames, apart = known.cells[places], reach // step
    count = len(frames) - 2 * apart
    # The way from each frame to the one `reach` later: first to this frame, then from it.
    ways = frames[apart:] - frames[:-apart]
    lengths = np.abs(ways)
    to_before, to_after = ways[:count], ways[apart:]
    near_before, near_after = lengths[:count], lengths[apart:]
    length, square = lengths.mean(axis=1), _dot(ways, ways)
    change = to_before + to_after
    np.abs(change, out=change)
    scale = change.mean(axis=1) + TINY
    # A dissolve is linear: twice the middle is the sum of the ends.
    bend = to_before - to_after
    np.abs(bend, out=bend)
    either = np.minimum(near_before, near_after).mean(axis=1) / scale
    excess = (length[:count] + length[apart:]) / scale - 1
    cross = _dot(to_before, to_after)
    product = square[:count] + cross
    along = product / (product + square[apart:] + cross + TINY)
    residual = np.sqrt(np.maximum(square[:count] - along * product, 0) / CELLS) / scale
    # A wipe has come to some places and not to others: the share by which each place has changed differs.
    share = near_before[:, :LUMA] - near_after[:, :LUMA]
    shares, weights = share @ MARGINS, change[:, :LUMA] @ MARGINS
    columns = shares[:, :WIDE] / (weights[:, :WIDE] + HIGH * TINY)
    lines = shares[:, WIDE:] / (weights[:, WIDE:] + WIDE * TINY)
    extent = np.abs(share, out=share).sum(axis=1) / (weights[:, :WIDE].sum(axis=1) + LUMA * TINY)
    mean, deviation = known.mean[places], known.deviation[places]
    first, last = deviation[:count], deviation[2 * apart :]
    dip = np.minimum(2 * deviation[apart : apart + count] / (first + last + TINY), 3)
    product = _dot(frames[:count, :LUMA], frames[2 * apart :, :LUMA]) / LUMA - mean[:count] * mean[2 * apart :]
    alike = product / (first * last + TINY)
    fits = [np.log1p(scale), bend.mean(axis=1) / scale, either, excess, np.clip(along, -1, 2), residual]
    return piece.spread([*fits, columns.std(axis=1), lines.std(axis=1), extent, dip, alike], step)
