"""Runs that need nothing from outside, and times to decode, against brute force."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from stillmotion.media.clip import Encoded, Run, Splice, _decoding_times, _stored_times, copyable, suffix_of_clip
from stillmotion.media.packets import CLOSED_ENTRY, NO_ENTRY, OPEN_ENTRY, FrameMap


def frame_map(numbers: list[int], entries: dict[int, int], codec: str = "h264") -> FrameMap:
    """A video of packets in stored order: the frame that each shows, -1 for none."""
    stored = np.array(numbers)
    places = np.array([numbers.index(number) for number in range(int(stored.max()) + 1)])
    kinds = np.array([entries.get(place, NO_ENTRY) for place in range(len(numbers))], np.uint8)
    return FrameMap(codec, Fraction(1, 25), places, np.arange(len(places)) * 10, kinds, stored)


CLOSED = frame_map([0, 3, 1, 2, 4, 7, 5, 6, 8], {0: CLOSED_ENTRY, 4: CLOSED_ENTRY})
OPENED = frame_map([0, 3, 1, 2, 6, 4, 5, 9, 7, 8], {0: CLOSED_ENTRY, 4: OPEN_ENTRY})


@pytest.mark.parametrize(
    ("first", "last", "run"),
    [
        (0, 8, Run(0, 9, 0, 8)),
        (0, 3, Run(0, 4, 0, 3)),
        (0, 2, Run(0, 1, 0, 0)),  # frame 3 is stored before 1 and 2
        (1, 8, Run(4, 9, 4, 8)),
        (1, 6, Run(4, 5, 4, 4)),
        (5, 8, None),
        (4, 4, Run(4, 5, 4, 4)),
    ],
)
def test_runs_of_closed_groups(first: int, last: int, run: Run | None) -> None:
    assert copyable(CLOSED, first, last) == run


@pytest.mark.parametrize(
    ("first", "last", "run"),
    [
        (0, 9, Run(0, 10, 0, 9)),
        (0, 5, Run(0, 4, 0, 3)),
        (3, 9, Run(4, 10, 6, 9)),  # frames 4 and 5 are stored behind 6 and refer to 3
        (6, 8, Run(4, 7, 6, 6)),
    ],
)
def test_runs_of_open_groups(first: int, last: int, run: Run | None) -> None:
    assert copyable(OPENED, first, last) == run


def test_an_open_entry_is_none_where_a_stream_must_begin_anew() -> None:
    assert copyable(OPENED, 3, 9, is_closed=True) is None
    assert copyable(OPENED, 0, 9, is_closed=True) == Run(0, 10, 0, 9)


def test_hidden_pictures_are_sound_in_some_codecs_alone() -> None:
    numbers, entries = [0, 1, -1, 2, 3], {0: CLOSED_ENTRY}
    assert copyable(frame_map(numbers, entries, "vp8"), 0, 3) == Run(0, 5, 0, 3)
    assert copyable(frame_map(numbers, entries, "h264"), 0, 3) == Run(0, 2, 0, 1)


def test_a_frame_without_a_packet_is_not_copied() -> None:
    frames = frame_map([0, 1, 2], {0: CLOSED_ENTRY})
    frames.places[1] = -1
    assert copyable(frames, 0, 2) is None
    assert copyable(frames, 2, 1) is None


@pytest.mark.parametrize("seed", range(30))
def test_every_run_is_the_longest_that_holds_its_frames_alone(seed: int) -> None:
    draw = np.random.default_rng(seed)
    numbers: list[int] = []
    entries = {}
    while len(numbers) < 40:
        group = int(draw.integers(1, 6))
        entries[len(numbers)] = int(draw.choice([NO_ENTRY, CLOSED_ENTRY], p=[0.6, 0.4]))
        base = len(numbers)
        numbers += [base, *(base + 1 + draw.permutation(group))]
    entries[0] = CLOSED_ENTRY
    frames = frame_map([int(number) for number in numbers], entries)
    first, last = sorted(int(each) for each in draw.choice(len(numbers), 2, replace=False))
    runs = []
    for start, stop in itertools.combinations(range(len(numbers) + 1), 2):
        held = set(numbers[start:stop])
        is_whole = held == set(range(min(held), max(held) + 1)) and min(held) == numbers[start]
        if entries.get(start) and first <= min(held) and max(held) <= last and is_whole:
            runs.append(Run(start, stop, int(min(held)), int(max(held))))
    begin = min((run.start for run in runs), default=None)
    longest = max((run for run in runs if run.start == begin), key=lambda run: run.stop, default=None)
    assert copyable(frames, first, last) == longest


@pytest.mark.parametrize("seed", range(20))
def test_times_to_decode_rise_and_are_never_late(seed: int) -> None:
    draw = np.random.default_rng(seed)
    shown = np.cumsum(draw.integers(1, 9, 30))
    blocks = [draw.permutation(block) for block in np.array_split(shown, 8)]
    stored = [int(each) for block in blocks for each in block]
    decoded = _decoding_times(stored)
    assert all(one < other for one, other in itertools.pairwise(decoded))
    assert all(decode <= show for decode, show in zip(decoded, stored, strict=True))


def test_pictures_in_order_are_decoded_when_they_are_shown() -> None:
    assert _decoding_times([0, 5, 9]) == [0, 5, 9]
    assert _decoding_times([7]) == [7]


def test_times_of_a_clip_begin_at_nothing() -> None:
    splice = Splice(Run(4, 7, 6, 6), [Encoded(4, b"", True), Encoded(5, b"", False)], [Encoded(7, b"", True)])
    assert splice.numbers == (4, 7)
    frames = frame_map([0, 3, 1, 2, 6, 4, 5, 9, 7, 8], {4: CLOSED_ENTRY})
    assert list(_stored_times(frames, splice)) == [(0, 0), (10, 10), (20, 20), (30, 30)]


def test_hidden_pictures_are_decoded_with_the_next() -> None:
    frames = frame_map([0, -1, 1, 2], {0: CLOSED_ENTRY}, "vp8")
    assert list(_stored_times(frames, Splice(Run(0, 4, 0, 2)))) == [(0, 0), (10, 10), (10, 10), (20, 20)]


def test_containers() -> None:
    assert [suffix_of_clip(codec) for codec in ("h264", "av1", "vp8", "prores")] == [".mp4", ".mp4", ".mkv", ".mkv"]
