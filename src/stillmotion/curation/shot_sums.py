"""The loops under the features of shots: sums of whole numbers over thumbnails, exact whatever their order.

Cells are of two by two pixels of a thumbnail, in quarters of a level: brightness in 24x14 of them, then blue and red
in 12x7 each. The last line of brightness, which is odd, stands for two.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int16, Int32, UInt8

from ..native import native
from .thumbnails import CHROMA_PX, LUMA_BYTES, LUMA_PX

WIDE, HIGH = CHROMA_PX
LUMA = WIDE * HIGH
COLOUR = LUMA // 4
CELLS = LUMA + 2 * COLOUR
QUARTERS = 4  # of a level
BINS = 16
SHIFTS = 4  # largest shift of a profile, in cells
GREY = 128 * QUARTERS

Cells = Int16[np.ndarray, "n cells"]
Lumas = Int16[np.ndarray, "n luma"]
Profiles = Int32[np.ndarray, "n places"]
Sums = Int32[np.ndarray, "n sums"]
Rows = UInt8[np.ndarray, "n bytes"]


@native("void(uint8[:,::1], int16[:,::1])")
def add_cells(rows: Rows, cells: Cells) -> None:
    """Cells of each thumbnail."""
    for frame in range(rows.shape[0]):
        for line in range(HIGH):
            above = 2 * line * LUMA_PX[0]
            below = above + LUMA_PX[0] if 2 * line + 1 < LUMA_PX[1] else above
            for cell in range(WIDE):
                left, right = 2 * cell, 2 * cell + 1
                upper = np.int32(rows[frame, above + left]) + rows[frame, above + right]
                lower = np.int32(rows[frame, below + left]) + rows[frame, below + right]
                cells[frame, line * WIDE + cell] = np.int16(upper + lower)
        for line in range(HIGH):  # seven of blue, and seven of red
            above = LUMA_BYTES + 2 * line * WIDE
            for cell in range(WIDE // 2):
                left, right = above + 2 * cell, above + 2 * cell + 1
                upper = np.int32(rows[frame, left]) + rows[frame, right]
                lower = np.int32(rows[frame, left + WIDE]) + rows[frame, right + WIDE]
                cells[frame, LUMA + line * (WIDE // 2) + cell] = np.int16(upper + lower)


@native("void(int16[:,::1], int16[:,::1], int16[:,::1])")
def add_extremes(cells: Cells, high: Lumas, low: Lumas) -> None:
    """The highest and the lowest of each cell of brightness and its neighbours, but for those at the edges."""
    tallest, lowest = np.empty(LUMA, np.int16), np.empty(LUMA, np.int16)
    for frame in range(cells.shape[0]):
        luma = cells[frame]
        for cell in range(1, LUMA - 1):
            tallest[cell] = max(luma[cell - 1], luma[cell], luma[cell + 1])
            lowest[cell] = min(luma[cell - 1], luma[cell], luma[cell + 1])
        for cell in range(WIDE + 1, LUMA - WIDE - 1):
            high[frame, cell] = max(tallest[cell - WIDE], tallest[cell], tallest[cell + WIDE])
            low[frame, cell] = min(lowest[cell - WIDE], lowest[cell], lowest[cell + WIDE])


@native("void(int16[:,::1], int32[:,::1], int32[:,::1], int32[:,::1], int32[:,::1])")
def add_levels(cells: Cells, columns: Profiles, lines: Profiles, counts: Profiles, sums: Sums) -> None:
    """Of each frame's brightness the sums over columns and lines, and how many of every second cell are in each bin.

    Beside them its sum, sum of squares, lowest and highest, and the sum of distances of its colours from grey.
    """
    for frame in range(cells.shape[0]):
        columns[frame] = 0
        counts[frame] = 0
        total, square, lowest, highest, colour = 0, np.int32(0), np.int16(32767), np.int16(0), np.int32(0)
        for line in range(HIGH):
            whole = np.int32(0)
            for cell in range(WIDE):
                level = cells[frame, line * WIDE + cell]
                columns[frame, cell] += level
                whole = np.int32(whole + level)
                square = np.int32(square + np.int32(level) * level)
                lowest, highest = min(lowest, level), max(highest, level)
            lines[frame, line] = whole
            total += whole
        for cell in range(0, LUMA, 2):
            counts[frame, cells[frame, cell] * BINS // (256 * QUARTERS)] += 1
        for cell in range(LUMA, CELLS):
            colour = np.int32(colour + abs(np.int32(cells[frame, cell]) - GREY))
        sums[frame, 0], sums[frame, 1], sums[frame, 2] = total, square, lowest
        sums[frame, 3], sums[frame, 4] = highest, colour


@native("void(uint8[:,::1], int64, int64, int32[:,::1])")
def add_steps(rows: Rows, first: int, least: int, sums: Sums) -> None:
    """Of the steps of brightness from the frame before: sum, sum of squares, how many are over `least`, the largest."""
    for place in range(sums.shape[0]):
        total, square, over, peak = np.int32(0), np.int32(0), np.int32(0), np.uint8(0)
        for pixel in range(LUMA_BYTES):
            one, other = rows[first + place, pixel], rows[first + place - 1, pixel]
            step = np.uint8(max(one, other) - min(one, other))
            total = np.int32(total + step)
            square = np.int32(square + np.int32(step) * step)
            over = np.int32(over + (step > least))
            peak = max(peak, step)
        sums[place, 0], sums[place, 1], sums[place, 2], sums[place, 3] = total, square, over, peak


@native("void(int16[:,::1], int16[:,::1], int16[:,::1], int64, int64, int64, int32[:,::1])")
def add_straddles(cells: Cells, high: Lumas, low: Lumas, old: int, new: int, step: int, sums: Sums) -> None:
    """Differences between frames from `old` and from `new` on, every `step`-th: of brightness, and of colour.

    And of brightness inside the edges, beyond the highest and the lowest of the cells around.
    """
    for place in range(sums.shape[0]):
        one, other = old + place * step, new + place * step
        luma, colour, beyond = np.int32(0), np.int32(0), np.int32(0)
        for cell in range(LUMA):
            luma = np.int32(luma + abs(np.int16(cells[other, cell] - cells[one, cell])))
        for cell in range(LUMA, CELLS):
            colour = np.int32(colour + abs(np.int16(cells[other, cell] - cells[one, cell])))
        for line in range(1, HIGH - 1):
            for cell in range(line * WIDE + 1, line * WIDE + WIDE - 1):
                level = cells[other, cell]
                over, under = np.int16(level - high[one, cell]), np.int16(low[one, cell] - level)
                beyond = np.int32(beyond + max(over, under, np.int16(0)))
        sums[place, 0], sums[place, 1], sums[place, 2] = luma, colour, beyond


@native("void(int32[:,::1], int64, int64, int64, int32[:,::1])")
def add_shifts(profiles: Profiles, old: int, new: int, step: int, sums: Sums) -> None:
    """The least difference between a profile and another shifted, that of no shift, and how far the best shift is."""
    inner = profiles.shape[1] - 2 * SHIFTS
    for place in range(sums.shape[0]):
        one, other = old + place * step, new + place * step
        best, still, moved = np.int32(2**31 - 1), np.int32(0), 0
        for shift in range(2 * SHIFTS + 1):
            cost = np.int32(0)
            for cell in range(inner):
                cost = np.int32(cost + abs(np.int32(profiles[one, shift + cell] - profiles[other, SHIFTS + cell])))
            if cost < best:
                best, moved = cost, abs(shift - SHIFTS)
            if shift == SHIFTS:
                still = cost
        sums[place, 0], sums[place, 1], sums[place, 2] = best, still, moved


@native("void(int16[:,::1], int64, int64, int64, int32[:,::1], int32[:,::1], int32[:,::1])")
def add_mixtures(
    cells: Cells, first: int, reach: int, step: int, shares: Profiles, weights: Profiles, sums: Sums
) -> None:
    """What lies between frames from `first` on, every `step`-th, and those `reach` before and after.

    Ways lead from the earlier frame to this one, and on to the later. Over all cells, the sums of: the whole way's
    length, the difference of both ways, the shorter one, each one's length and square, and their product; over
    brightness, the product of the earlier and the later frame. Of brightness the sums over columns and lines of the
    first way's length less the second's, and of the whole way's; and the sum of the former's absolute values.
    """
    share, weight = np.empty(LUMA, np.int16), np.empty(LUMA, np.int16)
    for place in range(sums.shape[0]):
        here = first + place * step
        before, after = here - reach, here + reach
        whole, bend, either = np.int32(0), np.int32(0), np.int32(0)
        former, latter = np.int32(0), np.int32(0)
        for cell in range(CELLS):
            one = np.int16(cells[here, cell] - cells[before, cell])
            other = np.int16(cells[after, cell] - cells[here, cell])
            near, far = abs(one), abs(other)
            whole = np.int32(whole + abs(np.int16(one + other)))
            bend = np.int32(bend + abs(np.int16(one - other)))
            either = np.int32(either + min(near, far))
            former, latter = np.int32(former + near), np.int32(latter + far)
        square, later, cross, product = np.int32(0), np.int32(0), np.int32(0), np.int32(0)
        for cell in range(CELLS):
            one = np.int16(cells[here, cell] - cells[before, cell])
            other = np.int16(cells[after, cell] - cells[here, cell])
            square = np.int32(square + np.int32(one) * one)
            later = np.int32(later + np.int32(other) * other)
            cross = np.int32(cross + np.int32(one) * other)
        extent = np.int32(0)
        for cell in range(LUMA):
            one = np.int16(cells[here, cell] - cells[before, cell])
            other = np.int16(cells[after, cell] - cells[here, cell])
            share[cell], weight[cell] = abs(one) - abs(other), abs(np.int16(one + other))
            extent = np.int32(extent + abs(share[cell]))
            product = np.int32(product + np.int32(cells[before, cell]) * cells[after, cell])
        add_margins(share, shares[place])
        add_margins(weight, weights[place])
        sums[place, 0], sums[place, 1], sums[place, 2], sums[place, 3] = whole, bend, either, former
        sums[place, 4], sums[place, 5], sums[place, 6], sums[place, 7] = latter, square, later, cross
        sums[place, 8], sums[place, 9] = product, extent


@native()
def add_margins(luma: Int16[np.ndarray, " luma"], margins: Int32[np.ndarray, " places"]) -> None:
    """Sums over columns, and then over lines."""
    margins[:] = 0
    for line in range(HIGH):
        whole = np.int32(0)
        for cell in range(WIDE):
            level = np.int32(luma[line * WIDE + cell])
            margins[cell] += level
            whole = np.int32(whole + level)
        margins[WIDE + line] = whole
