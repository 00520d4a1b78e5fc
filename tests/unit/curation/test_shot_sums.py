"""The compiled loops under the features of shots, against the same sums written with whole arrays."""

from __future__ import annotations

import numpy as np
import pytest

from stillmotion.curation import shot_sums as loops
from stillmotion.curation.shot_sums import CELLS, COLOUR, GREY, HIGH, LUMA, SHIFTS, WIDE
from stillmotion.curation.thumbnails import CHROMA_BYTES, CHROMA_PX, LUMA_BYTES, LUMA_PX

FRAMES = 40


def sums(rows: int, columns: int) -> np.ndarray:
    return np.full((rows, columns), -1, np.int32)


@pytest.fixture
def rows() -> np.ndarray:
    """Thumbnails of noise, three of them black, grey and white."""
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, LUMA_BYTES + 2 * CHROMA_BYTES), np.uint8)
    noise[5], noise[6], noise[7] = 0, 128, 255
    return noise


@pytest.fixture
def cells(rows: np.ndarray) -> np.ndarray:
    found = np.empty((FRAMES, CELLS), np.int16)
    loops.add_cells(rows, found)
    return found


def test_cells_are_sums_of_two_by_two(rows: np.ndarray, cells: np.ndarray) -> None:
    luma = rows[:, :LUMA_BYTES].reshape(FRAMES, LUMA_PX[1], LUMA_PX[0]).astype(int)
    doubled = np.concatenate([luma, luma[:, -1:]], axis=1)  # the last line stands for two
    assert np.array_equal(cells[:, :LUMA], doubled.reshape(FRAMES, HIGH, 2, WIDE, 2).sum((2, 4)).reshape(FRAMES, -1))
    colour = rows[:, LUMA_BYTES:].reshape(FRAMES, 2, CHROMA_PX[1] // 2, 2, CHROMA_PX[0] // 2, 2).astype(int)
    assert np.array_equal(cells[:, LUMA:], colour.sum((3, 5)).reshape(FRAMES, -1))


def test_extremes_are_of_nine_cells(cells: np.ndarray) -> None:
    high, low = np.empty((2, FRAMES, LUMA), np.int16)
    loops.add_extremes(cells, high, low)
    windows = np.lib.stride_tricks.sliding_window_view(cells[:, :LUMA].reshape(FRAMES, HIGH, WIDE), (3, 3), (1, 2))
    for found, known in ((high, windows.max((3, 4))), (low, windows.min((3, 4)))):
        assert np.array_equal(found.reshape(FRAMES, HIGH, WIDE)[:, 1:-1, 1:-1], known)


def test_levels_are_counted(cells: np.ndarray) -> None:
    columns, lines, counts, found = sums(FRAMES, WIDE), sums(FRAMES, HIGH), sums(FRAMES, 16), sums(FRAMES, 5)
    loops.add_levels(cells, columns, lines, counts, found)
    luma = cells[:, :LUMA].astype(int)
    square = luma.reshape(FRAMES, HIGH, WIDE)
    assert np.array_equal(columns, square.sum(1)) and np.array_equal(lines, square.sum(2))
    assert np.array_equal(counts, [np.histogram(each[::2] / 4, 16, (0, 256))[0] for each in luma])
    known = luma.sum(1), (luma**2).sum(1), luma.min(1), luma.max(1), np.abs(cells[:, LUMA:].astype(int) - GREY).sum(1)
    assert np.array_equal(found, np.stack(known, 1))


def test_steps_are_of_neighbouring_frames(rows: np.ndarray) -> None:
    found = sums(30, 4)
    loops.add_steps(rows, 3, 12, found)
    steps = np.abs(np.diff(rows[2:33, :LUMA_BYTES].astype(int), axis=0))
    assert np.array_equal(found, np.stack([steps.sum(1), (steps**2).sum(1), (steps > 12).sum(1), steps.max(1)], 1))


def test_straddles_are_differences_and_what_no_neighbour_explains(cells: np.ndarray) -> None:
    high, low = np.zeros((2, FRAMES, LUMA), np.int16)
    loops.add_extremes(cells, high, low)
    found = sums(8, 3)
    loops.add_straddles(cells, high, low, 2, 9, 3, found)
    old, new = slice(2, 26, 3), slice(9, 33, 3)
    change = np.abs(cells[new].astype(int) - cells[old])
    luma = cells[new, :LUMA].astype(int)
    beyond = np.maximum(np.maximum(luma - high[old], low[old] - luma), 0).reshape(-1, HIGH, WIDE)[:, 1:-1, 1:-1]
    known = change[:, :LUMA].sum(1), change[:, LUMA:].sum(1), beyond.sum((1, 2))
    assert np.array_equal(found, np.stack(known, 1))


def test_the_best_shift_is_found() -> None:
    profiles = np.random.default_rng(0).integers(0, 9000, (12, WIDE)).astype(np.int32)
    profiles[8] = np.roll(profiles[2], 3)  # as if the picture had moved by three cells
    found = sums(4, 3)
    loops.add_shifts(profiles, 0, 6, 2, found)
    for place, (one, other) in enumerate(((0, 6), (2, 8), (4, 10))):
        later = profiles[other, SHIFTS : WIDE - SHIFTS]
        costs = [np.abs(profiles[one, shift : shift + len(later)] - later).sum() for shift in range(2 * SHIFTS + 1)]
        assert found[place].tolist() == [min(costs), costs[SHIFTS], abs(int(np.argmin(costs)) - SHIFTS)]
    assert found[1, 0] == 0 and found[1, 2] == 3


def test_mixtures_are_sums_over_two_ways(cells: np.ndarray) -> None:
    reach, step, count = 5, 2, 10
    found, shares, weights = sums(count, 10), sums(count, WIDE + HIGH), sums(count, WIDE + HIGH)
    loops.add_mixtures(cells, 8, reach, step, shares, weights, found)
    before, here, after = (cells[start : start + step * count : step].astype(int) for start in (3, 8, 13))
    one, other = here - before, after - here
    share = (np.abs(one) - np.abs(other))[:, :LUMA].reshape(count, HIGH, WIDE)
    weight = np.abs(one + other)[:, :LUMA].reshape(count, HIGH, WIDE)
    known = (
        np.abs(one + other).sum(1),
        np.abs(one - other).sum(1),
        np.minimum(np.abs(one), np.abs(other)).sum(1),
        np.abs(one).sum(1),
        np.abs(other).sum(1),
        (one**2).sum(1),
        (other**2).sum(1),
        (one * other).sum(1),
        (before * after)[:, :LUMA].sum(1),
        np.abs(share).sum((1, 2)),
    )
    assert np.array_equal(found, np.stack(known, 1))
    for margins, whole in ((shares, share), (weights, weight)):
        assert np.array_equal(margins, np.concatenate([whole.sum(1), whole.sum(2)], 1))


def test_the_largest_sums_fit() -> None:
    cells = np.zeros((3, CELLS), np.int16)
    cells[1] = 4 * 255
    found, shares, weights = sums(1, 10), sums(1, WIDE + HIGH), sums(1, WIDE + HIGH)
    loops.add_mixtures(cells, 1, 1, 1, shares, weights, found)
    assert found[0, 5] == found[0, 6] == -found[0, 7] == 1020**2 * CELLS
    assert found[0, 1] == 2 * 1020 * CELLS and COLOUR * 2 + LUMA == CELLS
