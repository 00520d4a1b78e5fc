"""Progress is a value, and ignoring it is allowed."""

from __future__ import annotations

import dataclasses

import pytest

from stillmotion.events import Progress, unwatched


def test_progress_is_a_frozen_value() -> None:
    event = Progress("denoise", 1, 25)
    assert event == Progress(stage="denoise", done=1, total=25)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.done = 2  # type: ignore[misc]
    unwatched(event)
