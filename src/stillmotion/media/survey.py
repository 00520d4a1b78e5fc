"""What a file that claims to be a video really is: read to its end, with a word that says why it is none."""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.index import IndexEntry
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition

from ..errors import MediaError
from .blocks import Kind, Source, elements, kind_of
from .formats import MAX_VIDEO_PIXELS
from .scan import opened, packets_of

FIRST_PACKETS = 600  # a decoder that has shown nothing after so many will show nothing
INDEX_ENTRIES = 64  # at the end of an index, which show whether the file ends before


@dataclasses.dataclass(frozen=True, slots=True)
class Survey:
    """A video whose first frame can be decoded. Sizes are those of the upright picture in pixels."""

    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    rotation: int  # degrees clockwise by which the stored picture is turned to be upright
    frames: int
    duration_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Why a file gives no video: one word, and a sentence."""

    reason: str
    detail: str


def survey(path: Path) -> Survey | Problem:
    """Read a video to its end and decode its first frame. Its frames are counted packet by packet.

    Reasons are empty, unreadable, missing, not_media, truncated, no_video, unknown_codec, too_many_pixels, corrupt and
    zero_duration.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            source = Source(file, path)
            if not source.size:
                return Problem("empty", f"{path} has no bytes; expected a video.")
            kind = kind_of(source)
            is_cut_off = _is_cut_off(source, kind)
    except FileNotFoundError:
        return Problem("missing", f"{path} does not exist; expected a video.")
    except OSError as error:
        return Problem("unreadable", f"{path} cannot be read: {error.strerror}; expected a video.")
    if is_cut_off:
        return Problem("truncated", f"{path} ends before all of its frames have come; expected a whole file.")
    try:
        with opened(path) as container:
            return _surveyed(path, container, source.size)
    except MediaError as error:
        # A header that cannot be read: in a file of a known family it is missing, which mp4 keeps at its end.
        if kind in ("png", "gif", "webp"):
            return Problem("not_media", f"{path} is a picture in {kind}; expected a container of video.")
        return Problem({None: "not_media", "mp4": "truncated"}.get(kind, "corrupt"), str(error))


def _is_cut_off(source: Source, kind: Kind | None) -> bool:
    """Whether Matroska or AVI say that they are longer than their file. A transport stream says nothing of the kind."""
    try:
        if kind == "matroska":
            return any(element.end > source.size for element in elements(source, 0, source.size))
        place = 0
        # Beyond a gigabyte an AVI is a row of RIFF chunks. One that was never finished has no size, and may be whole.
        while place + 12 <= source.size and source.read(place, 4) == b"RIFF" and source.read(place + 8, 3) == b"AVI":
            length = source.number(place + 4, 4, "little")
            if length in (0, 0xFFFFFFFF):
                return False
            place += 8 + length
            if place > source.size:
                return True
            place += length % 2
        return False
    except MediaError:
        return True


def _surveyed(path: Path, container: InputContainer, size: int) -> Survey | Problem:
    videos = [stream for stream in container.streams if stream.type == "video"]
    moving = [stream for stream in videos if not stream.disposition & Disposition.attached_pic]
    if not moving:
        return Problem("no_video", f"{path} has no moving pictures; expected a video.")
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream not in moving:
        stream = moving[0]
    if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
        return Problem("unknown_codec", f"{path} has a codec that nothing here decodes; expected another one.")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_VIDEO_PIXELS:
        limit = MAX_VIDEO_PIXELS / 10**6
        detail = f"{path} has frames of {width}x{height} pixels; expected at most {limit:.1f} megapixels."
        return Problem("too_many_pixels", detail)
    if any(entry.pos + entry.size > size for entry in _last_entries(stream)):
        return Problem("truncated", f"{path} ends before all of its frames have come; expected a whole file.")
    return _counted(path, container, stream)


def _last_entries(stream: av.VideoStream) -> list[IndexEntry]:
    entries = stream.index_entries
    return [entries[place] for place in range(max(0, len(entries) - INDEX_ENTRIES), len(entries))]


def _counted(path: Path, container: InputContainer, stream: av.VideoStream) -> Survey | Problem:
    stream.codec_context.thread_count = 1
    frame, count, start, latest, length = None, 0, math.inf, -math.inf, 0
    for seen, packet in enumerate(packets_of(container, stream)):
        if frame is None and (seen < FIRST_PACKETS or not packet.size):
            frame = next(_decoded(packet), None)
        if packet.is_discard or not packet.size:
            continue
        count += 1
        time = packet.pts if packet.pts is not None else packet.dts
        if time is not None:
            start = min(start, time)
            latest, length = max((latest, length), (time, packet.duration or 0))
    if frame is None:
        return Problem("corrupt", f"{path} has no frame that can be decoded; expected a whole video.")
    seconds = 0.0
    if latest > start or (count == 1 and length):
        # Where nothing says how long the last frame lasts, as long as the others.
        seconds = (latest - start + (length or (latest - start) / (count - 1))) * float(stream.time_base or 0)
    elif start == math.inf and count > 1 and stream.average_rate:  # without a word about time there is still a rate
        seconds = count / float(stream.average_rate)
    if seconds <= 0:
        return Problem("zero_duration", f"{path} lasts no time; expected a video with two frames or more.")
    turn = _turn(frame)
    width, height = (frame.height, frame.width) if turn % 180 else (frame.width, frame.height)
    codec = stream.codec_context.codec.canonical_name
    return Survey(container.format.name, codec, frame.format.name, width, height, turn, count, seconds)


def _decoded(packet: av.Packet[av.VideoStream]) -> Iterator[av.VideoFrame]:
    try:
        yield from packet.decode()
    except FFmpegError:
        return


def _turn(frame: av.VideoFrame) -> int:
    """The nearest quarter turn of the display matrix: it sends the stored x axis to (a, b). libavutil/display.h."""
    matrix = cast(SideDataContainer, frame.side_data).get(SideDataType.DISPLAYMATRIX)  # PyAV's stub knows other keys
    if matrix is None:
        return 0
    a, b = struct.unpack("=9i", bytes(matrix))[:2]
    return round(math.degrees(math.atan2(b, a)) / 90) % 4 * 90
