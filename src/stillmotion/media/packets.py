"""Where the pictures of a video lie in its file: packets in stored order, and those at which decoding may begin."""

from __future__ import annotations

import dataclasses
import functools
from array import array
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from .scan import opened, packets_of, video_stream

# What a packet is to a decoder that starts there. After a closed entry nothing refers to what was before. After an open
# one the pictures that are stored behind it but shown ahead of it may, and must be left out.
NO_ENTRY, OPEN_ENTRY, CLOSED_ENTRY = 0, 1, 2
NAL_CODECS = ("h264", "hevc")
# Codecs whose key pictures clear everything that the decoder remembers.
CLOSED_CODECS = ("vp8", "vp9", "av1", "prores", "ffv1", "mjpeg", "dnxhd", "rawvideo", "huffyuv", "ffvhuff", "utvideo")
# ITU-T H.264, table 7-1; H.265, table 7-1.
H264_SLICES, H264_IDR, H264_SEI = (1, 2, 3, 4, 5), 5, 6
HEVC_SLICES, HEVC_IDR, HEVC_RANDOM_ACCESS = range(0, 32), (19, 20), (16, 17, 18, 21)
MAX_TICKS = 2**60  # what a damaged file may say is more than an int64 holds
MAX_BACKWARD_S = 1.0
GAP_S, GAP_RATIO = 10.0, 10.0
RECOVERY_POINT = 6  # the SEI message, H.264 annex D.1.8


def gaps_in(steps_s: Float[np.ndarray, " n"]) -> tuple[Bool[np.ndarray, " n"], float]:
    """Which of the steps from frame to frame are gaps in the recording, and the usual step.

    A frame may be held for long, as in a slideshow; one that is held for longer than GAP_S and GAP_RATIO usual steps is
    taken for the last one before the recording stopped.
    """
    usual = float(np.median(steps_s)) if len(steps_s) else 0.0
    return steps_s > max(GAP_S, GAP_RATIO * usual), usual


@dataclasses.dataclass(frozen=True)  # without slots, which a cached property needs room beside
class FrameMap:
    """Which packet holds which shown frame, and when each frame is shown.

    `places` is the packet of each frame and `ticks` its time in units of `time_base`, from the first shown frame.
    `entries` has a word for each packet: NO_ENTRY, OPEN_ENTRY or CLOSED_ENTRY. `numbers` has the frame of each
    packet, -1 where it shows none.
    """

    codec: str
    time_base: Fraction
    places: Int[np.ndarray, " frames"]
    ticks: Int[np.ndarray, " frames"]
    entries: UInt8[np.ndarray, " packets"]
    numbers: Int[np.ndarray, " packets"]

    @property
    def frames(self) -> int:
        return len(self.places)

    def duration(self, first: int, last: int) -> int:
        """How long frames `first` to `last` are shown, in ticks: the very last frame as long as the one before it."""
        return int(self.ticks[last] - self.ticks[first]) + self.length(last)

    def length(self, number: int) -> int:
        """How long one frame is shown, in ticks."""
        if self.frames == 1:
            return 1
        return max(1, int(self._steps[min(number, self.frames - 2)]))

    @functools.cached_property
    def _steps(self) -> Int[np.ndarray, " n"]:
        steps = np.diff(self.ticks)
        gaps, usual = gaps_in(steps * float(self.time_base))
        return np.where(gaps, round(usual / float(self.time_base)), steps)

    def without_entries(self) -> FrameMap:
        """The same, with decoding from the very first packet: for files whose keyframes are none."""
        return dataclasses.replace(self, entries=np.zeros_like(self.entries))

    def entry_before(self, first: int) -> int:
        """The last packet from which decoding gives frame `first` and all after it; 0 where there is none."""
        place = int(self.places[first])
        for entry in np.flatnonzero(self.entries[: place + 1])[::-1]:
            if 0 <= self.numbers[entry] <= first:
                return int(entry)
        return 0


def map_frames(path: Path, places: Int[np.ndarray, " frames"], times_s: Float[np.ndarray, " frames"]) -> FrameMap:
    """Read the packets of a video, and join them with what a pass over it saw: `Sight.packet` and `Sight.time_s`.

    Raises MediaError for what cannot be read.
    """
    with opened(path) as container:
        stream = video_stream(container, path)
        codec, time_base = stream.codec_context.codec.canonical_name, stream.time_base or Fraction(1, 90_000)
        entry_of = _EntryReader(codec, stream.codec_context.extradata or b"")
        entries = array("B", (entry_of(packet) for packet in packets_of(container, stream)))
    found = np.frombuffer(entries, np.uint8)[:-1]  # the last packet is PyAV's own and empty
    numbers = np.full(len(found), -1, np.int64)
    known = (places >= 0) & (places < len(found))
    numbers[places[known]] = np.flatnonzero(known)
    ticks = np.rint(steady_times(times_s) / float(time_base)).clip(-MAX_TICKS, MAX_TICKS).astype(np.int64)
    return FrameMap(codec, time_base, places, ticks, found, numbers)


def steady_times(times_s: Float[np.ndarray, " frames"]) -> Float[np.ndarray, " frames"]:
    """The times of frames in the order in which they are shown, never going back.

    A container without times of its own (avi) gives each frame the time at which it was stored: the right times, among
    neighbours. A clock that was set back (recordings of broadcasts) goes on instead.
    """
    steps = np.diff(times_s)
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    if (steps < -MAX_BACKWARD_S).any():
        steps = np.where(steps < -MAX_BACKWARD_S, usual, steps)
        times_s = np.concatenate([times_s[:1], times_s[:1] + np.cumsum(steps)])
    ordered = np.sort(times_s)
    return ordered - ordered[0]


class _EntryReader:
    """Says of one packet after the other whether decoding may begin there."""

    def __init__(self, codec: str, extradata: bytes) -> None:
        self._codec, self._length_size = codec, length_size(codec, extradata)

    def __call__(self, packet: av.Packet) -> int:
        if not packet.is_keyframe or packet.is_corrupt or not packet.size:
            return NO_ENTRY
        if self._codec not in NAL_CODECS:
            return CLOSED_ENTRY if self._codec in CLOSED_CODECS else OPEN_ENTRY
        units = nal_units(bytes(packet), self._length_size)
        return _h264_entry(units) if self._codec == "h264" else _hevc_entry(units)


def length_size(codec: str, extradata: bytes) -> int:
    """The bytes of the length in front of each NAL unit; 0 where start codes stand between them.

    Source: ISO/IEC 14496-15, sections 5.3.3 and 8.3.3.
    """
    place = {"h264": 4, "hevc": 21}.get(codec, len(extradata))
    is_start_code = extradata[:3] == b"\0\0\1" or extradata[:4] == b"\0\0\0\1"
    return 0 if is_start_code or place >= len(extradata) else (extradata[place] & 3) + 1


def nal_units(data: bytes, size: int) -> Iterator[bytes]:
    """The NAL units of a packet without their lengths (of `size` bytes) or start codes (`size` 0)."""
    place = 0
    if size:
        while place + size < len(data):
            length = int.from_bytes(data[place : place + size], "big")
            yield data[place + size : place + size + length]
            place += size + length
        return
    start = data.find(b"\0\0\1")
    while start >= 0:
        end = data.find(b"\0\0\1", start + 3)
        yield data[start + 3 : end if end >= 0 else len(data)]
        start = end


def _h264_entry(units: Iterator[bytes]) -> int:
    has_recovered = False
    for unit in units:
        kind = unit[0] & 31 if unit else 0
        if kind in H264_SLICES:
            # A gradual refresh, whose recovery takes frames, is no entry: it shows damage until it is over.
            return CLOSED_ENTRY if kind == H264_IDR else OPEN_ENTRY if has_recovered else NO_ENTRY
        has_recovered |= kind == H264_SEI and _recovers_at_once(unit)
    return NO_ENTRY


def _hevc_entry(units: Iterator[bytes]) -> int:
    for unit in units:
        kind = unit[0] >> 1 & 63 if unit else -1
        if kind in HEVC_SLICES:
            return CLOSED_ENTRY if kind in HEVC_IDR else OPEN_ENTRY if kind in HEVC_RANDOM_ACCESS else NO_ENTRY
    return NO_ENTRY


def _recovers_at_once(unit: bytes) -> bool:
    """Whether an SEI unit of H.264 has a recovery point after 0 frames. Source: H.264 sections 7.3.2.3.1 and D.1.8."""
    data = unit[1:].replace(b"\0\0\3", b"\0\0")
    place = 0
    while place + 2 <= len(data) and data[place] != 0x80:
        numbers = []
        for _ in range(2):  # the kind and the size, each a sum of bytes that ends with one other than 255
            number = 0
            while place < len(data) and data[place] == 255:
                number, place = number + 255, place + 1
            numbers.append(number + (data[place] if place < len(data) else 0))
            place += 1
        if numbers[0] == RECOVERY_POINT:
            return place < len(data) and bool(data[place] & 0x80)  # 0 as an Exp-Golomb number is one set bit
        place += numbers[1]
    return False
