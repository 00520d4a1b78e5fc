"""Prints tell frames apart, in a few microseconds each."""

from __future__ import annotations

import numpy as np
import pytest

from stillmotion.curation.prints import ROW_STEP, PrintObserver, print_of
from stillmotion.media.scan import Sight

DRAW = np.random.default_rng(3)


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (64, 96), (240, 321), (1080, 1920)])
def test_equal_planes_have_equal_prints(shape: tuple[int, int]) -> None:
    luma = DRAW.integers(0, 256, shape, np.uint8)
    padded = np.zeros((shape[0], shape[1] + 13), np.uint8)
    padded[:, : shape[1]] = luma
    assert print_of(luma) == print_of(padded[:, : shape[1]]) == print_of(luma.copy())


def test_any_changed_bit_of_a_looked_at_row_shows() -> None:
    luma = DRAW.integers(0, 256, (32, 64), np.uint8)
    prints = {print_of(luma)}
    for row in range(0, 32, ROW_STEP):
        for column in range(64):
            changed = luma.copy()
            changed[row, column] ^= 1 << int(DRAW.integers(8))
            prints.add(print_of(changed))
    assert len(prints) == 1 + 32 // ROW_STEP * 64


def test_a_changed_block_shows() -> None:
    luma = DRAW.integers(0, 256, (64, 96), np.uint8)
    for top in range(0, 56, 8):
        changed = luma.copy()
        changed[top : top + 8, 40:48] ^= 0x80  # the highest bits alone, whose sums overflow soonest
        assert print_of(changed) != print_of(luma)


def test_weights_change_with_the_size_and_come_back() -> None:
    small, large = np.ones((8, 16), np.uint8), np.ones((16, 32), np.uint8)
    first = print_of(small), print_of(large)
    assert (print_of(small), print_of(large)) == first
    assert first[0] != first[1]


def test_columns() -> None:
    observer = PrintObserver()
    for number, packet in enumerate((0, 2, 1)):
        luma = np.full((8, 8), number, np.uint8)
        observer.see(Sight(number, number / 25, number == 0, False, luma, None, None, False, packet))
    columns = observer.columns()
    assert columns["prints.packet"].tolist() == [0, 2, 1]
    assert columns["prints.value"].dtype == np.uint64 and len(set(columns["prints.value"].tolist())) == 3
