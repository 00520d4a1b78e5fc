"""Contact sheets show the right frames in the right places."""

from __future__ import annotations

import numpy as np
import pytest

from stillmotion.errors import UsageError
from stillmotion.media.sheet import GAP_PX, LABEL_PX, contact_sheet


def _clip(count: int, height: int = 8, width: int = 10) -> np.ndarray:
    clip = np.zeros((count, height, width, 3), np.uint8)
    clip += (10 * np.arange(count, dtype=np.uint8))[:, None, None, None]
    return clip


def test_contact_sheet_shows_evenly_chosen_frames():
    sheet = np.asarray(contact_sheet([_clip(9), _clip(2, 12, 6)], columns=3))
    gap = GAP_PX
    assert sheet.shape == (8 + 12 + 3 * gap, 3 * 10 + 4 * gap, 3)
    first = [sheet[gap + 4, gap + column * (10 + gap) + 5, 0] for column in range(3)]
    assert first == [0, 40, 80]
    second = [sheet[2 * gap + 8 + 6, gap + column * (6 + gap) + 3, 0] for column in range(3)]
    assert second == [0, 10, 255]
    assert sheet[0, 0].tolist() == [255, 255, 255]


def test_contact_sheet_writes_labels_above_the_rows():
    clips = [np.full((2, 8, 90, 3), 255, np.uint8)] * 2
    plain = np.asarray(contact_sheet(clips, 2))
    labelled = np.asarray(contact_sheet(clips, 2, ["seed 1", "zweiter Versuch é"]))
    assert plain.min() == 255
    label = LABEL_PX
    assert labelled.shape[0] == plain.shape[0] + 2 * label
    gap = GAP_PX
    assert labelled[gap : gap + label].min() < 128
    assert labelled[gap + label : gap + label + 8].min() == 255


def test_contact_sheet_refuses_wrong_arguments():
    for arguments in (([], 3), ([_clip(3)], 0), ([_clip(0)], 2), ([_clip(3)], 2, ["a", "b"])):
        with pytest.raises(UsageError):
            contact_sheet(*arguments)
