"""Parts of a video cut out of it without a foreign frame: packets copied as they are, re-encoded heads and tails.

The frames of a clip keep their distances in time and begin at 0. Decoding times are made anew from the order of the
packets, so that missing, doubled and negative ones in the source do not matter.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.container.core import Flags as ContainerFlags
from av.error import FFmpegError

from ..errors import MediaError
from .packets import CLOSED_ENTRY, OPEN_ENTRY, FrameMap, length_size, nal_units
from .scan import opened, packets_of, video_stream

# What mp4 holds so that ffmpeg's own reader and browsers know it; everything else goes into Matroska.
MP4_CODECS = ("h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mpeg1video")
# Codecs in which packets without a shown frame are sound: what they hold is referred to by later ones.
HIDDEN_FRAMES = ("vp8",)
# Codecs whose re-encoded heads and tails one decoder takes in one stream.
SPLICED = ("h264", "hevc")
HEVC_END_OF_SEQUENCE = b"\0\0\0\1\x48\x01"  # H.265, table 7-1: the next random access picture begins anew


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """Packets `start` to `stop` (left out) of a video, which hold exactly the frames `first` to `last`."""

    start: int
    stop: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """One re-encoded picture, with start codes and parameter sets inside where it begins a sequence."""

    number: int
    data: bytes
    is_key: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Splice:
    """What a clip is made of: a run of copied packets, between re-encoded frames in their stored order."""

    run: Run
    head: Sequence[Encoded] = ()
    tail: Sequence[Encoded] = ()

    @property
    def numbers(self) -> tuple[int, int]:
        """The first and the last frame."""
        first = min((each.number for each in self.head), default=self.run.first)
        return first, max((each.number for each in self.tail), default=self.run.last)


def copyable(frames: FrameMap, first: int, last: int, is_closed: bool = False) -> Run | None:
    """The longest run within frames `first` to `last` that needs nothing from outside and shows nothing else.

    It starts at the first picture where decoding may begin (with `is_closed`, at which it begins anew), and ends at the
    last place where every picture shown so far is stored and none shown later is. None where there is no such run.
    """
    wanted = frames.places[first : last + 1]
    if not len(wanted) or wanted.min() < 0:
        return None
    least = CLOSED_ENTRY if is_closed else OPEN_ENTRY
    starts = np.sort(wanted)[frames.entries[np.sort(wanted)] >= least]
    if not len(starts):
        return None
    start, limit = int(starts[0]), int(wanted.max()) + 1
    opening = int(frames.numbers[start])
    stop, latest, count = start, opening - 1, 0
    for place in range(start, limit):
        number = int(frames.numbers[place])
        if number < 0 and frames.codec not in HIDDEN_FRAMES:
            break
        if number >= opening:
            latest, count = max(latest, number), count + 1
        if number >= 0 and latest - opening + 1 == count and latest <= last:
            stop = place + 1
    found = frames.numbers[start:stop]
    return Run(start, stop, opening, int(found.max())) if stop > start else None


def suffix_of_clip(codec: str) -> str:
    """The suffix of a clip whose packets are copied from a stream of this codec (ffmpeg's name)."""
    return ".mp4" if codec in MP4_CODECS else ".mkv"


def write_clips(path: Path, frames: FrameMap, splices: Sequence[tuple[Splice, Path]]) -> list[str | None]:
    """Write each splice to its path in one reading of the video; the same bytes each time.

    Returns for each what its container or bitstream refused, None where it was written. Raises MediaError where the
    video cannot be read any more, OSError where the disk refuses.
    """
    outcomes: list[str | OSError | None] = [None] * len(splices)
    waiting = sorted(range(len(splices)), key=lambda each: splices[each][0].run.start)
    with opened(path) as container:
        stream = video_stream(container, path)
        packets = enumerate(packets_of(container, stream))
        for each in waiting:
            splice, target = splices[each]
            outcomes[each] = _written(target, stream, frames, splice, packets)
    # Not before: `opened` would take it for an error of the video.
    for outcome in outcomes:
        if isinstance(outcome, OSError):
            raise outcome
    return [outcome if isinstance(outcome, str) else None for outcome in outcomes]


def _written(
    target: Path, stream: av.VideoStream, frames: FrameMap, splice: Splice, packets: Iterator[tuple[int, av.Packet]]
) -> str | OSError | None:
    copied = _copied(packets, frames, splice.run)
    try:
        with explained_encoding(), _ClipWriter(target, stream, frames, splice) as writer:
            for each in splice.head:
                writer.add(av.Packet(each.data), each.number, each.is_key)
            for packet, number, is_entry in copied:
                writer.copy(packet, number, is_entry)
            for each in splice.tail:
                writer.add(av.Packet(each.data), each.number, each.is_key)
    except OSError as error:
        return error
    except MediaError as error:
        return str(error)
    finally:
        for _ in copied:  # so that the next run finds its own packets
            pass
    return None


@contextlib.contextmanager
def explained_encoding() -> Iterator[None]:
    """Turn what ffmpeg says into OSError where the system said it first, and into MediaError elsewhere."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, FFmpegError):
            _explain(error)
        raise MediaError(f"the encoder refuses it: {error}.") from None
    except FFmpegError as error:
        _explain(error)


def _explain(error: FFmpegError) -> NoReturn:
    code = error.errno
    if code is not None and code in errno.errorcode and code not in (errno.EINVAL, errno.ENOSYS, errno.EDOM):
        raise OSError(code, os.strerror(code)) from None
    raise MediaError(f"the encoder refuses it: {error.strerror}.") from None


def _copied(
    packets: Iterator[tuple[int, av.Packet]], frames: FrameMap, run: Run
) -> Iterator[tuple[av.Packet, int, bool]]:
    for place, packet in packets:
        number = int(frames.numbers[place]) if place >= run.start else -1
        if place >= run.start and (number < 0 or number >= run.first):
            yield packet, number, bool(frames.entries[place])
        if place + 1 >= run.stop:
            return


class _ClipWriter:
    """One file with the packets of one clip."""

    def __init__(self, target: Path, stream: av.VideoStream, frames: FrameMap, splice: Splice) -> None:
        self._frames, self._splice = frames, splice
        kind, options = "matroska", {}
        if target.suffix == ".mp4":
            kind = "mp4"
            options = {"movflags": "faststart", "video_track_timescale": str(frames.time_base.denominator)}
        self._container = av.open(f"file:{target}", "w", format=kind, container_options=options)
        self._container.flags |= ContainerFlags.bitexact.value
        self._stream = self._container.add_stream_from_template(stream, opaque=True)
        self._stream.time_base = frames.time_base
        self._bitstream = _StartCodes(stream, self._stream, frames.codec) if splice.head or splice.tail else None
        self._times = _stored_times(frames, splice)
        self._has_copied = False

    def __enter__(self) -> _ClipWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def copy(self, packet: av.Packet, number: int, is_entry: bool) -> None:
        """Add the next packet of the source; `number` is its frame, -1 where it shows none."""
        if self._bitstream is not None:
            packet = self._bitstream(packet, is_first=not self._has_copied)
        self._has_copied = True
        self.add(packet, number, is_entry)

    def add(self, packet: av.Packet, number: int, is_key: bool) -> None:
        """Add the next packet, whose own times are ignored."""
        packet.stream, packet.time_base = self._stream, self._frames.time_base
        packet.pts, packet.dts = next(self._times)
        packet.duration = self._frames.length(number) if number >= 0 else 0
        packet.is_keyframe = is_key
        self._container.mux(packet)


class _StartCodes:
    """Copied packets of H.264 and H.265 in the form in which encoders write them, with their parameter sets inside."""

    def __init__(self, source: av.VideoStream, target: av.VideoStream, codec: str) -> None:
        self._filter = None
        self._kinds = (7, 31) if codec == "h264" else (33, 63)  # of a sequence parameter set, and their mask
        self._shift = 0 if codec == "h264" else 1
        if length_size(codec, source.codec_context.extradata or b""):
            self._filter = BitStreamFilterContext(f"{codec}_mp4toannexb", source, target)
        target.codec_context.codec_tag = {"h264": "avc1", "hevc": "hev1"}[codec]
        self._parameters = bytes(target.codec_context.extradata or b"")

    def __call__(self, packet: av.Packet, is_first: bool) -> av.Packet:
        filtered = self._filter.filter(packet) if self._filter is not None else [packet]
        data = b"".join(bytes(each) for each in filtered)
        kind, mask = self._kinds
        if is_first and not any(unit and unit[0] >> self._shift & mask == kind for unit in nal_units(data, 0)):
            data = self._parameters + data
        return av.Packet(data)


def _stored_times(frames: FrameMap, splice: Splice) -> Iterator[tuple[int, int]]:
    """The time to show and the time to decode of each packet in stored order, in ticks from the clip's first frame.

    The k-th picture to decode gets the k-th time of all, moved ahead by as many pictures as the order needs.
    """
    run = splice.run
    copied = [int(each) for each in frames.numbers[run.start : run.stop] if each < 0 or each >= run.first]
    stored = [*(each.number for each in splice.head), *copied, *(each.number for each in splice.tail)]
    origin = int(frames.ticks[splice.numbers[0]])
    shown = [int(frames.ticks[each]) - origin for each in stored if each >= 0]
    decoded = iter(_decoding_times(shown))
    pending = zip(shown, decoded, strict=True)
    hidden = 0
    for number in stored:
        hidden += number < 0
        if number >= 0:
            show, decode = next(pending)
            yield from ((decode, decode) for _ in range(hidden))
            yield show, decode
            hidden = 0


def _decoding_times(shown: Sequence[int]) -> list[int]:
    ordered = sorted(shown)
    delay = max(place - bisect.bisect_right(ordered, time) + 1 for place, time in enumerate(shown))
    step = max(1, ordered[1] - ordered[0]) if len(ordered) > 1 else 1
    return [ordered[0] - step * ahead for ahead in range(delay, 0, -1)] + ordered[: len(ordered) - delay]
