"""Parts of a video decoded and encoded anew: whole clips, and the heads and tails of copied ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.codec.context import Flags as CodecFlags
from av.container.core import Flags as ContainerFlags
from av.error import FFmpegError
from av.filter import Graph
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.reformatter import Colorspace, VideoReformatter

from .clip import Encoded, explained_encoding
from .colour import EXACT
from .packets import FrameMap
from .scan import opened, packets_of, video_stream

# One thread, and no looking ahead: the same frames give the same bytes, as in `encode`.
WHOLE_OPTIONS = {"preset": "medium", "x264-params": "mbtree=0:rc-lookahead=0"}
# Without B-frames, and under a number that the copied part is unlikely to have: its own stays as it was.
EDGE_OPTIONS = {
    "h264": {"preset": "medium", "bf": "0", "x264-params": "mbtree=0:rc-lookahead=0:sps-id=23"},
    "hevc": {"preset": "medium", "x265-params": "log-level=none:info=0:pools=none:frame-threads=1:wpp=0:bframes=0"},
}
EDGE_ENCODERS = {"h264": "libx264", "hevc": "libx265"}
# Degrees clockwise by which the stored picture is turned to be upright, and ffmpeg's filters for it.
TURNS = {90: ("transpose=clock",), 180: ("hflip", "vflip"), 270: ("transpose=cclock",)}
MAX_RATE_DENOMINATOR = 1001

DecodedFrame = av.VideoFrame


def decoded(path: Path, frames: FrameMap, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode the frames of these spans, and little more, in one reading of the video; each frame with its number.

    What the decoder refuses is left out. Raises MediaError for what cannot be read.
    """
    starts = sorted((frames.entry_before(first), first, last) for first, last in spans)
    numbers_at: dict[int, list[int]] = {}
    for number in sorted({number for first, last in spans for number in range(first, last + 1)}):
        numbers_at.setdefault(int(frames.places[number]), []).append(number)
    pending: set[int] = set()
    with opened(path) as container:
        stream = video_stream(container, path)
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= CodecFlags.copy_opaque.value
        for place, packet in enumerate(packets_of(container, stream)):
            while starts and starts[0][0] <= place:
                _, first, last = starts.pop(0)
                pending.update(range(first, last + 1))
            if not pending:
                continue
            packet.opaque = place
            yield from _wanted(_decoded_packet(packet), numbers_at, pending)
            if not pending and not starts:
                return
            if not pending:
                stream.codec_context.flush_buffers()


def _wanted(
    found: list[av.VideoFrame], numbers_at: dict[int, list[int]], pending: set[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames that somebody waits for; `numbers_at` has those of each packet, and loses what is handed on."""
    for frame in found:
        numbers = numbers_at.get(cast(int, frame.opaque), [])
        if numbers and numbers[0] in pending:
            pending.remove(numbers[0])
            yield numbers.pop(0), frame


def _decoded_packet(packet: av.Packet[av.VideoStream]) -> list[av.VideoFrame]:
    try:
        return packet.decode()
    except FFmpegError:
        return []


class WholeEncoder:
    """Writes frames of a video to an mp4 file as H.264 of a constant rate factor, upright.

    Pixel formats of up to 10 bits and 4:2:0 to 4:4:4 are kept, others come as near as these allow. Frame times and
    colour tags are kept. Raises MediaError for what the encoder refuses, OSError where the disk does.
    """

    def __init__(self, frames: FrameMap, numbers: Sequence[int], target: Path, rotation: int, factor: int) -> None:
        """`numbers` are the frames to keep, in order; `rotation` is in degrees clockwise."""
        self._frames, self._numbers, self._rotation, self._factor = frames, numbers, rotation, factor
        self._origin = int(frames.ticks[numbers[0]])
        options = {"movflags": "faststart", "video_track_timescale": str(frames.time_base.denominator)}
        with explained_encoding():
            self._container = av.open(f"file:{target}", "w", format="mp4", container_options=options)
        self._container.flags |= ContainerFlags.bitexact.value
        self._stream: av.VideoStream | None = None
        self._prepare: _Preparation | None = None
        self._last = -1
        self._lengths = _lengths(frames, numbers)

    def __enter__(self) -> WholeEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        with explained_encoding():
            self._container.close()

    def add(self, number: int, frame: av.VideoFrame) -> av.VideoFrame:
        """Take the next frame to keep. Returns it as the encoder sees it, upright."""
        with explained_encoding():
            return self._add(number, frame)

    def _add(self, number: int, frame: av.VideoFrame) -> av.VideoFrame:
        if self._prepare is None:
            self._prepare = _Preparation(frame, self._rotation)
        picture = self._prepare(frame)
        if self._stream is None:
            self._stream = self._opened(picture, frame)
        # Some files show two frames at one time, which no encoder takes.
        self._last = max(self._last + 1, int(self._frames.ticks[number]) - self._origin)
        picture.pts, picture.time_base = self._last, self._frames.time_base
        self._mux(self._stream.encode(picture))
        return picture

    def finish(self) -> None:
        """Write what is left, after the last frame."""
        with explained_encoding():
            if self._stream is not None:
                self._mux(self._stream.encode(None))

    def _opened(self, picture: av.VideoFrame, source: av.VideoFrame) -> av.VideoStream:
        numbers, frames = self._numbers, self._frames
        length = max(1, sum(self._lengths.values()))
        rate = Fraction(len(numbers) / float(length * frames.time_base)).limit_denominator(MAX_RATE_DENOMINATOR)
        options = {**WHOLE_OPTIONS, "crf": str(self._factor)}
        stream = self._container.add_stream("libx264", rate=max(rate, Fraction(1, 1000)), options=options)
        stream.time_base = frames.time_base
        _describe(stream.codec_context, picture, source, frames.time_base)
        return stream

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            packet.duration = self._lengths.get(packet.pts or 0, packet.duration or 0)
            self._container.mux(packet)


def _lengths(frames: FrameMap, numbers: Sequence[int]) -> dict[int, int]:
    """How long each kept frame is shown, by its time from the first."""
    ticks = [int(frames.ticks[number]) for number in numbers]
    ends = [*ticks[1:], ticks[0] + frames.duration(numbers[0], numbers[-1])]
    return {tick - ticks[0]: end - tick for tick, end in zip(ticks, ends, strict=True)}


class EdgeEncoder:
    """Encodes a few frames so that the decoder of a copied part of the same video takes them: the same codec, pixel
    format and size, with parameter sets inside."""

    def __init__(self, frames: FrameMap, factor: int) -> None:
        self._frames, self._factor = frames, factor
        self._context: VideoCodecContext | None = None
        self._numbers: list[int] = []
        self._packets: list[av.Packet] = []

    def add(self, number: int, frame: av.VideoFrame) -> None:
        """The next frame. Raises MediaError for what the encoder refuses."""
        with explained_encoding():
            if self._context is None:
                self._context = self._opened(frame)
            frame.pict_type = PictureType.NONE
            frame.pts, frame.time_base = len(self._numbers), Fraction(1, 25)
            self._numbers.append(number)
            self._packets += self._context.encode(frame)

    def finish(self) -> list[Encoded]:
        """All that was added, in stored order."""
        with explained_encoding():
            self._packets += self._context.encode(None) if self._context is not None else []
        return [Encoded(self._numbers[each.pts or 0], bytes(each), each.is_keyframe) for each in self._packets]

    def _opened(self, frame: av.VideoFrame) -> VideoCodecContext:
        codec = self._frames.codec
        context = cast(VideoCodecContext, av.CodecContext.create(EDGE_ENCODERS[codec], "w"))
        context.options = {**EDGE_OPTIONS[codec], "crf": str(self._factor)}
        context.framerate = Fraction(25)
        _describe(context, frame, frame, Fraction(1, 25))
        return context


def _describe(context: VideoCodecContext, picture: av.VideoFrame, source: av.VideoFrame, time_base: Fraction) -> None:
    context.width, context.height, context.pix_fmt = picture.width, picture.height, picture.format.name
    context.time_base = time_base
    context.thread_count = 1
    context.flags |= CodecFlags.bitexact.value
    is_from_rgb = source.format.is_rgb
    context.colorspace = Colorspace.ITU709 if is_from_rgb else source.colorspace
    context.color_range = picture.color_range if is_from_rgb else source.color_range
    context.color_primaries, context.color_trc = source.color_primaries, source.color_trc


class _Preparation:
    """Brings frames to what x264 takes: its pixel formats, one size, upright."""

    def __init__(self, frame: av.VideoFrame, rotation: int) -> None:
        self._format = nearest_format(frame)
        self._size = (frame.width, frame.height)
        self._reformatter = VideoReformatter()
        self._graph: Graph | None = None
        if rotation in TURNS:
            self._graph = _turning(frame, self._format, TURNS[rotation])

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        width, height = self._size
        target = Colorspace.ITU709 if frame.format.is_rgb else None
        picture = self._reformatter.reformat(
            frame, width, height, self._format, dst_colorspace=target, interpolation=EXACT, threads=1
        )
        if self._graph is not None:
            self._graph.push(picture)
            picture = cast(av.VideoFrame, self._graph.vpull())
        picture.pict_type = PictureType.NONE
        return picture


def _turning(frame: av.VideoFrame, pixel_format: str, filters: Sequence[str]) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=av.VideoFormat(pixel_format), time_base=Fraction(1, 25)
    )
    nodes = [graph.add(*each.split("=", 1)) for each in filters]
    graph.link_nodes(source, *nodes, graph.add("format", pixel_format), graph.add("buffersink")).configure()
    return graph


def nearest_format(frame: av.VideoFrame) -> str:
    """The pixel format of x264 that loses least of a frame: as many bits up to 10, colour as fine."""
    components = frame.format.components
    bits = "10le" if max(each.bits for each in components) > 8 else ""
    if len(components) < 3:
        shape = "yuv420p"
    else:
        across = frame.format.chroma_width(64) if not frame.format.is_rgb else 64
        down = frame.format.chroma_height(64) if not frame.format.is_rgb else 64
        shape = "yuv444p" if across == 64 else "yuv422p" if down == 64 else "yuv420p"
    # Half a colour sample at an odd edge is what x264 refuses.
    odd = (shape != "yuv444p" and frame.width % 2) or (shape == "yuv420p" and frame.height % 2)
    return ("yuv444p" if odd else shape) + bits
