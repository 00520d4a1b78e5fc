"""The eight EXIF orientations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

ORIENTATION = 0x0112
# From the EXIF 2.32 table of which edge is row 0 and column 0.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def _oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.fixture
def oriented() -> Callable[[int], Image.Exif]:
    """EXIF that says an orientation."""
    return _oriented


@pytest.fixture
def upright() -> dict[int, Callable[[np.ndarray], np.ndarray]]:
    """How the stored pixels of each orientation become upright ones."""
    return UPRIGHT
