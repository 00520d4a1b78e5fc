"""What changes around every frame, in some ninety numbers, from thumbnails alone.

A frame is compared with those before and after it at several distances, so that one pass sees fast and slow changes.
The comparisons are sums of whole numbers (see `shot_sums`); here they become logarithms and ratios.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int32, UInt8

from .shot_sums import (
    BINS,
    CELLS,
    COLOUR,
    HIGH,
    LUMA,
    QUARTERS,
    SHIFTS,
    WIDE,
    Cells,
    Lumas,
    Sums,
    add_cells,
    add_extremes,
    add_levels,
    add_mixtures,
    add_shifts,
    add_steps,
    add_straddles,
)
from .thumbnails import LUMA_BYTES

HALO = 28  # frames on each side that the features of a frame look at
# Pairs that stand on both sides of the boundary before a frame: the k-th frame before it, and the (k-1)-th after. Slow
# changes are looked at every second or fourth frame only: (k, every so many frames).
STRADDLES = ((1, 1), (2, 1), (3, 2), (5, 2), (9, 4), (17, 4))
# Distances at which a frame is compared with the mixture of the one before and the one after, and how often.
REACHES = ((3, 1), (6, 2), (12, 4), (24, 4))
HISTOGRAMS = ((1, 1), (3, 1), (9, 2), (17, 4))
PROFILES = ((1, 1), (3, 2))
TINY = 1.0  # levels of 255: differences below are noise
LARGE_LEVELS = 12  # a step that is more than noise
INNER = (WIDE - 2) * (HIGH - 2)

Rows = UInt8[np.ndarray, "n bytes"]
Column = Float[np.ndarray, " n"]
Features = Float[np.ndarray, "m f"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    """What is known of every frame of a block by itself."""

    cells: Cells
    high: Lumas
    low: Lumas
    columns: Int32[np.ndarray, "n w"]
    lines: Int32[np.ndarray, "n h"]
    histogram: Float[np.ndarray, "n bins"]  # cumulative
    mean: Column  # of brightness, in levels
    deviation: Column
    extent: Column
    colour: Column  # mean distance from grey


@dataclasses.dataclass(frozen=True, slots=True)
class _Block:
    """The frames of a block that have HALO more on either side."""

    frames: int

    def first(self, shift: int, step: int) -> int:
        """The place `shift` frames after the middle one of the first `step` frames."""
        return HALO + shift + step // 2

    def rows(self, shift: int, step: int) -> slice:
        """The middle one of every `step` frames, each replaced by the one `shift` later."""
        start = self.first(shift, step)
        return slice(start, start + self.frames, step)

    def room(self, sums: int, step: int) -> Sums:
        """An empty array for so many sums of every `step`-th frame."""
        return np.empty((-(-self.frames // step), sums), np.int32)

    def spread(self, columns: Sequence[Column], step: int) -> Features:
        """Columns of every `step`-th frame as columns of each."""
        found = np.stack(columns, 1).astype(np.float32, copy=False)
        return found if step == 1 else np.repeat(found, step, axis=0)[: self.frames]


def features(rows: Rows) -> Features:
    """The features of frames HALO to n - HALO - 1 of so many thumbnails, as logarithms and ratios."""
    rows = np.ascontiguousarray(rows)
    known, block = _known(rows), _Block(len(rows) - 2 * HALO)
    groups = [_levels(known, block), _steps(rows, block)]
    groups += [_straddle(known, block, *each) for each in STRADDLES]
    groups += [_histogram(known, block, *each) for each in HISTOGRAMS]
    for profile, across in ((known.columns, HIGH), (known.lines, WIDE)):
        groups += [_shift(profile, across, block, *each) for each in PROFILES]
    groups += [_mixture(known, block, *each) for each in REACHES]
    return np.concatenate(groups, axis=1)


def _known(rows: Rows) -> _Known:
    count = len(rows)
    cells, high, low = (np.empty((count, width), np.int16) for width in (CELLS, LUMA, LUMA))
    columns, lines, counts, sums = (np.empty((count, width), np.int32) for width in (WIDE, HIGH, BINS, 5))
    add_cells(rows, cells)
    add_extremes(cells, high, low)
    add_levels(cells, columns, lines, counts, sums)
    total, square, lowest, highest, colour = sums.T / QUARTERS
    mean = total / LUMA
    deviation = np.sqrt(np.maximum(square / QUARTERS / LUMA - mean * mean, 0))
    histogram = counts.cumsum(axis=1, dtype=np.float32) / (LUMA // 2)
    return _Known(cells, high, low, columns, lines, histogram, mean, deviation, highest - lowest, colour / (2 * COLOUR))


def _levels(known: _Known, block: _Block) -> Features:
    """Brightness, contrast, colour and distance from one flat colour."""
    measures = (known.deviation, known.colour, known.extent)
    here = block.rows(0, 1)
    return block.spread([known.mean[here] / 64, *(np.log1p(each[here]) for each in measures)], 1)


def _steps(rows: Rows, block: _Block) -> Features:
    """The step from the frame before, pixel by pixel: how large, how concentrated, how much of the picture."""
    sums = block.room(4, 1)
    add_steps(rows, block.first(0, 1), LARGE_LEVELS, sums)
    mean, square, share, peak = (sums / (LUMA_BYTES, LUMA_BYTES, LUMA_BYTES, 1)).T
    return block.spread([np.log1p(mean), np.sqrt(square) / (mean + TINY), share, np.log1p(peak)], 1)


def _straddle(known: _Known, block: _Block, distance: int, step: int) -> Features:
    """Differences across the boundary: plain, in colour, and beyond what a move of one cell explains."""
    sums = block.room(3, step)
    old, new = block.first(-distance, step), block.first(distance - 1, step)
    add_straddles(known.cells, known.high, known.low, old, new, step, sums)
    means = np.log1p(sums / (QUARTERS * LUMA, QUARTERS * 2 * COLOUR, QUARTERS * INNER))
    return block.spread(list(means.T), step)


def _histogram(known: _Known, block: _Block, distance: int, step: int) -> Features:
    """The distance between cumulative histograms across the boundary, which motion leaves alone."""
    total = known.histogram
    change = np.abs(total[block.rows(distance - 1, step)] - total[block.rows(-distance, step)])
    return block.spread([np.sqrt(change.sum(axis=1))], step)


def _shift(profile: Int32[np.ndarray, "n c"], across: int, block: _Block, distance: int, step: int) -> Features:
    """How well the best shift of the whole picture explains a change, along rows or columns, and how far it is."""
    sums = block.room(3, step)
    add_shifts(profile, block.first(-distance, step), block.first(distance - 1, step), step, sums)
    unit = QUARTERS * across * (profile.shape[1] - 2 * SHIFTS)
    best, still, moved = (sums / (unit, unit, SHIFTS)).T
    return block.spread([np.log1p(best), best / (still + TINY), moved], step)


def _mixture(known: _Known, block: _Block, reach: int, step: int) -> Features:
    """Whether a frame is a mixture of the one `reach` before and the one after, everywhere alike or place by place."""
    sums, shares, weights = (block.room(width, step) for width in (10, WIDE + HIGH, WIDE + HIGH))
    add_mixtures(known.cells, block.first(0, step), reach, step, shares, weights, sums)
    lengths, squares = sums[:, :5].T / (QUARTERS * CELLS), sums[:, 5:9].T / QUARTERS**2
    scale, bend, either, former, latter = lengths
    square, later, cross, product = squares
    scale += TINY
    # A dissolve is linear: twice the middle is the sum of the ends.
    excess = (former + latter) / scale - 1
    whole = square + cross
    along = whole / (whole + later + cross + TINY)
    residual = np.sqrt(np.maximum(square - along * whole, 0) / CELLS) / scale
    # A wipe has come to some places and not to others: the share by which each place has changed differs.
    columns = shares[:, :WIDE] / (weights[:, :WIDE] + QUARTERS * HIGH * TINY)
    lines = shares[:, WIDE:] / (weights[:, WIDE:] + QUARTERS * WIDE * TINY)
    extent = sums[:, 9] / (weights[:, :WIDE].sum(axis=1) + QUARTERS * LUMA * TINY)
    first, here, last = (block.rows(shift, step) for shift in (-reach, 0, reach))
    mean, deviation = known.mean, known.deviation
    dip = np.minimum(2 * deviation[here] / (deviation[first] + deviation[last] + TINY), 3)
    alike = (product / LUMA - mean[first] * mean[last]) / (deviation[first] * deviation[last] + TINY)
    fits = [np.log1p(scale), bend / scale, either / scale, excess, np.clip(along, -1, 2), residual]
    return block.spread([*fits, columns.std(axis=1), lines.std(axis=1), extent, dip, alike], step)
