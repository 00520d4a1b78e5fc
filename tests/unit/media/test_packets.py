"""Places where decoding may begin, against packets written by hand; times that go on."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from stillmotion.media.packets import (
    CLOSED_ENTRY,
    NO_ENTRY,
    OPEN_ENTRY,
    FrameMap,
    _EntryReader,
    length_size,
    nal_units,
    steady_times,
)

SEI_RECOVERS_NOW = bytes([6, 6, 1, 0x80 | 0x40, 0x80])  # message 6 of one byte, whose first bit is the number 0
SEI_RECOVERS_LATER = bytes([6, 6, 2, 0x02, 0x80, 0x80])  # the number 19: 000010100
SEI_OTHER = bytes([6, 5, 3, 1, 2, 3, 0x80])  # a message of another kind
SEI_BOTH = bytes([6, 5, 3, 1, 2, 3, 6, 1, 0xC0, 0x80])
SPS, IDR, PICTURE = bytes([0x67, 1, 2]), bytes([0x65, 8, 8]), bytes([0x41, 8, 8])


class Packet(bytes):
    """A packet's content, and its flags."""

    is_keyframe, is_corrupt = True, False

    @property
    def size(self) -> int:
        return len(self)


def start_codes(*units: bytes) -> Packet:
    return Packet(b"".join(b"\0\0\0\1" + unit for unit in units))


def lengths(*units: bytes) -> Packet:
    return Packet(b"".join(len(unit).to_bytes(4, "big") + unit for unit in units))


@pytest.mark.parametrize(
    ("units", "entry"),
    [
        ((SPS, IDR), CLOSED_ENTRY),
        ((SPS, SEI_OTHER, IDR), CLOSED_ENTRY),
        ((SEI_RECOVERS_NOW, PICTURE), OPEN_ENTRY),
        ((SEI_BOTH, PICTURE), OPEN_ENTRY),
        ((SEI_RECOVERS_LATER, PICTURE), NO_ENTRY),
        ((SEI_OTHER, PICTURE), NO_ENTRY),
        ((PICTURE, SEI_RECOVERS_NOW), NO_ENTRY),
        ((SPS,), NO_ENTRY),
        ((bytes([6, 255, 255]),), NO_ENTRY),
        ((b"",), NO_ENTRY),
    ],
)
def test_h264(units: tuple[bytes, ...], entry: int) -> None:
    assert _EntryReader("h264", b"")(start_codes(*units)) == entry
    assert _EntryReader("h264", bytes([1, 66, 0, 30, 0xFF, 0xE1]))(lengths(*units)) == entry


@pytest.mark.parametrize(
    ("kind", "entry"), [(19, CLOSED_ENTRY), (20, CLOSED_ENTRY), (21, OPEN_ENTRY), (16, OPEN_ENTRY), (1, NO_ENTRY)]
)
def test_h265(kind: int, entry: int) -> None:
    parameters = bytes([33 << 1, 1, 0])
    assert _EntryReader("hevc", b"")(start_codes(parameters, bytes([kind << 1, 1, 9]))) == entry


@pytest.mark.parametrize(("codec", "entry"), [("vp9", CLOSED_ENTRY), ("mpeg2video", OPEN_ENTRY), ("new", OPEN_ENTRY)])
def test_other_codecs_believe_the_container(codec: str, entry: int) -> None:
    packet = Packet(b"data")
    assert _EntryReader(codec, b"")(packet) == entry
    packet.is_keyframe = False
    assert _EntryReader(codec, b"")(packet) == NO_ENTRY


def test_a_damaged_packet_is_no_entry() -> None:
    packet = start_codes(SPS, IDR)
    packet.is_corrupt = True
    assert _EntryReader("h264", b"")(packet) == NO_ENTRY


@pytest.mark.parametrize(
    ("codec", "extradata", "size"),
    [
        ("h264", bytes([1, 66, 0, 30, 0xFF]), 4),
        ("h264", bytes([1, 66, 0, 30, 0xFD]), 2),
        ("h264", b"\0\0\0\1\x67", 0),
        ("h264", b"\0\0\1\x67\0\0", 0),
        ("h264", b"", 0),
        ("hevc", bytes([1] * 21 + [0xF3]), 4),
        ("vp9", b"anything", 0),
    ],
)
def test_how_units_are_parted(codec: str, extradata: bytes, size: int) -> None:
    assert length_size(codec, extradata) == size


def test_units_of_a_broken_packet_end() -> None:
    assert list(nal_units(b"\0\0\1abc\0\0\1d", 0)) == [b"abc", b"d"]
    assert list(nal_units(b"\0\0\0\xffabc", 4)) == [b"abc"]
    assert list(nal_units(b"\0\0", 4)) == [] == list(nal_units(b"", 0))


def frame_map(numbers: list[int], entries: list[int], codec: str = "h264", ticks: list[int] | None = None) -> FrameMap:
    places = np.argsort([number if number >= 0 else 10**6 for number in numbers], kind="stable")
    places = places[: sum(number >= 0 for number in numbers)]
    times = np.array(ticks if ticks is not None else range(len(places)), np.int64)
    return FrameMap(codec, Fraction(1, 25), places, times, np.array(entries, np.uint8), np.array(numbers))


def test_where_decoding_begins() -> None:
    frames = frame_map([0, 3, 1, 2, 6, 4, 5, 7], [2, 0, 0, 0, 1, 0, 0, 0])
    assert [frames.entry_before(number) for number in range(8)] == [0, 0, 0, 0, 0, 0, 4, 4]
    assert frames.without_entries().entry_before(7) == 0


def test_durations_of_frames() -> None:
    frames = frame_map([0, 1, 2], [2, 0, 0], ticks=[0, 10, 14])
    assert [frames.length(number) for number in range(3)] == [10, 4, 4]
    assert frames.duration(0, 2) == 18
    assert frame_map([0], [2]).duration(0, 0) == 1


def test_times_of_a_container_that_has_none() -> None:
    np.testing.assert_allclose(steady_times(np.array([0.0, 0.08, 0.04, 0.2, 0.16, 0.12])), np.arange(6) * 0.04)


def test_a_clock_set_back_goes_on() -> None:
    times = np.concatenate([np.arange(10) * 0.04 + 5, np.arange(10) * 0.04])
    np.testing.assert_allclose(steady_times(times), np.arange(20) * 0.04)


@pytest.mark.parametrize("times", [[0.0], [3.0, 3.0], [1.0, 2.0, 4.0]])
def test_steady_times_are_kept(times: list[float]) -> None:
    np.testing.assert_allclose(steady_times(np.array(times)), np.array(times) - times[0])
