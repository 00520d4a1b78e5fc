"""One pass over a video: every frame's brightness plane as the decoder left it, with its time, in bounded memory."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer
from av.error import FFmpegError
from av.video.plane import VideoPlane
from jaxtyping import UInt8

from ..errors import MediaError
from .formats import MAX_VIDEO_PIXELS
from .video import CONTAINERS

# The first component of these is 8-bit brightness (or grey), one byte a pixel.
PLANAR = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuv440p", "yuv410p", "yuv411p")
PLAIN = (*PLANAR, "nv12", "nv21", "gray")
REGULAR_STEPS, ROUNDED_TICKS = 4, 2  # between packets before a gap means a loss, and of 90 kHz
FALLBACK = "yuv420p"  # whatever else there is (more bits, RGB, palettes) is converted to it


@dataclasses.dataclass(frozen=True, slots=True)
class Sight:
    """One shown frame. The planes are the decoder's own memory: read them before asking for the next frame.

    They are as stored, not turned upright. `red` and `blue` are the colour differences (Cr and Cb), of whatever
    subsampling the stream has, and None where it is grey.
    """

    number: int
    time_s: float
    is_key: bool
    is_corrupt: bool
    luma: UInt8[np.ndarray, "h w"]
    blue: UInt8[np.ndarray, "h2 w2"] | None
    red: UInt8[np.ndarray, "h2 w2"] | None
    is_full_range: bool
    # The place of its packet among those of the stream, in the order in which they are stored.
    packet: int


@contextlib.contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """Open a video of a known container. Raises MediaError, here and while it is read."""
    path = Path(path)
    if not path.is_file():
        kind = "is not a file" if path.exists() else "does not exist"
        raise MediaError(f"{path} {kind}; expected a video file.")
    try:
        # The prefix keeps ffmpeg from reading "a:b.mp4" as an address of the protocol "a".
        with av.open(f"file:{path}", options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}) as opened:
            yield opened
    except (FFmpegError, OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"{path} cannot be decoded: {reason}; expected a whole video.") from None


def video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    """The stream that a player shows. Raises MediaError where there is none, or one of too many pixels."""
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
        raise MediaError(f"{path} has no video stream of a known codec; expected a video.")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_VIDEO_PIXELS:
        limit = MAX_VIDEO_PIXELS / 10**6
        raise MediaError(f"{path} has {width}x{height} pixels; expected at most {limit:.1f} megapixels.")
    return stream


def packets_of(container: InputContainer, stream: av.VideoStream) -> Iterator[av.Packet[av.VideoStream]]:
    """Every packet of a stream as it is stored, and at the end an empty one that empties the decoder."""
    try:
        yield from container.demux(stream)
    except IndexError:  # PyAV 18.1 at the end of a file in which streams appeared while it was read, damaged mpegts say
        return


def sights(path: Path) -> Iterator[Sight]:
    """Decode a video once, frame by frame, on one thread. What the decoder conceals is marked, not refused.

    Times are counted from the first shown frame. Raises MediaError for what cannot be opened.
    """
    with opened(path) as container:
        stream = video_stream(container, path)
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= Flags.copy_opaque.value
        start: float | None = None
        for number, (frame, is_damaged) in enumerate(_frames(container, stream)):
            time = frame.time if frame.pts is not None else number / float(stream.average_rate or 25)
            start = time if start is None else start
            yield sight_of(frame, number, time - start, is_damaged)


def _frames(container: InputContainer, stream: av.VideoStream) -> Iterator[tuple[av.VideoFrame, bool]]:
    """Every frame, and whether the decoder had to invent some of it."""
    damaged = -1  # the place of the latest packet that the decoder could not use, until a later picture is shown
    clock = _Clock() if "mpegts" in container.format.name else None
    for place, packet in enumerate(packets_of(container, stream)):
        packet.opaque = place  # which the decoder hands on to the frame
        is_late = clock is not None and packet.dts is not None and clock.is_late(packet.dts)
        damaged = place if packet.is_corrupt or is_late else damaged
        try:
            decoded = packet.decode()
        except FFmpegError:
            damaged = place
            continue
        for frame in decoded:
            yield frame, damaged >= 0 or frame.is_corrupt
            damaged = -1 if _place(frame) >= damaged else damaged


class _Clock:
    """Tells from the times of packets that one is missing, which a transport stream does not always say.

    Only where they came regularly before: at a variable rate a gap means nothing.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._step = self._alike = 0

    def is_late(self, dts: int) -> bool:
        """Whether this packet comes later than the one before had let expect."""
        step, self._last = dts - (dts if self._last is None else self._last), dts
        is_late = self._alike >= REGULAR_STEPS and 2 * step > 3 * self._step
        self._alike = self._alike + 1 if abs(step - self._step) <= ROUNDED_TICKS else 0
        self._step = step
        return is_late


def sight_of(frame: av.VideoFrame, number: int = 0, time_s: float = 0.0, is_damaged: bool = False) -> Sight:
    """What a pass sees of one decoded frame, which must outlive it."""
    packet = _place(frame)  # which no converted frame keeps
    name = frame.format.name
    if name not in PLAIN:
        frame = frame.reformat(format=FALLBACK, threads=1)
        name = FALLBACK
    planes = frame.planes  # made anew at each look, which costs more than all else here
    luma = _plane(planes[0], frame.width, frame.height)
    blue = red = None
    if name in PLANAR:
        blue, red = (_plane(plane, plane.width, plane.height) for plane in planes[1:3])
    elif name != "gray":
        pairs = _plane(planes[1], planes[1].width * 2, planes[1].height)
        blue, red = pairs[:, 0::2], pairs[:, 1::2]
    is_full = name.startswith("yuvj") or int(frame.color_range) == 2
    return Sight(number, time_s, frame.key_frame, is_damaged, luma, blue, red, is_full, packet)


def _place(frame: av.VideoFrame) -> int:
    return frame.opaque if isinstance(frame.opaque, int) else -1


def _plane(plane: VideoPlane, width: int, height: int) -> UInt8[np.ndarray, "h w"]:
    return np.ndarray((height, width), np.uint8, memoryview(plane), 0, (plane.line_size, 1))
