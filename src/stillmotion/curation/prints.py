"""A number for each frame of a video, by which a copy of it proves to show the same pixels."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped, UInt8

from ..media.scan import Sight

ROW_STEP = 8  # every eighth row: damage of references spreads over whole blocks
WORD = 8  # bytes
FOLD = np.uint64(29)


class PrintObserver:
    """Keeps the packet and the print of every frame: what `cut_clips` needs to know of a video.

    Columns: `prints.packet`, the place of the frame's packet in the file, and `prints.value`.
    """

    def __init__(self) -> None:
        self._packets, self._values = array("q"), array("Q")

    def see(self, sight: Sight) -> None:
        """Take in one frame."""
        self._packets.append(sight.packet)
        self._values.append(print_of(sight.luma))

    def columns(self) -> Mapping[str, Shaped[np.ndarray, "n ..."]]:
        """What was found."""
        return {
            "prints.packet": np.array(self._packets, np.int64),
            "prints.value": np.array(self._values, np.uint64),
        }


def print_of(luma: UInt8[np.ndarray, "h w"]) -> int:
    """Every eighth row of a brightness plane as one number of 64 bits: a sum of its words with odd random weights.

    A change of one word of 8 pixels always shows; changes of several cancel once in millions of times at most.
    """
    rows = luma[::ROW_STEP]
    width = rows.shape[1] // WORD * WORD
    if not width:  # narrower than a word
        return int.from_bytes(luma.tobytes()[: WORD - 1], "little") + luma.size
    words = np.ascontiguousarray(rows[:, :width]).view(np.uint64).ravel()
    words = words ^ (
        words >> FOLD
    )  # so that a change of high bits alone reaches low ones, which all bits of a weight carry up
    return int(np.dot(words, _weights(words.size)))


_drawn: dict[int, np.ndarray] = {}


def _weights(count: int) -> np.ndarray:
    if count not in _drawn:
        _drawn.clear()
        _drawn[count] = np.random.default_rng(0).integers(0, 2**63, count, np.uint64) * np.uint64(2) + np.uint64(1)
    return _drawn[count]
