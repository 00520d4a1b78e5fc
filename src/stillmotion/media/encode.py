"""Frames to mp4, webm, mov and mkv through FFmpeg's encoders, the same bytes each time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.codec.context import Flags as CodecFlags
from av.container import OutputContainer
from av.container.core import Flags as ContainerFlags
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from jaxtyping import UInt8

from .document import DOCUMENT_KEY
from .formats import Codec, Encoding, Format, codec_of, rate_factor, stored_size

# swscale's defaults trade accuracy for speed, in code that differs between processors, and take BT.601.
SCALE = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
TO_YUV = f"{SCALE}:out_color_matrix=bt709:out_range=tv:out_chroma_loc="

MUXERS = {"mp4": "mp4", "mov": "mov", "webm": "webm", "mkv": "matroska"}
# use_metadata_tags: without it the mp4 muxer drops every key that it does not know.
MUXER_OPTIONS = {"movflags": "faststart+use_metadata_tags"}

# One thread in each: their bytes depend on the count, whose default is the machine's.
CODEC_OPTIONS: dict[str, dict[str, str]] = {
    # Without looking ahead: with it, x264 gave the same frames other bytes in some processes.
    # Colour gets more bits than x264 gives it, for RGB is what comes back.
    "h264": {"preset": "medium", "x264-params": "mbtree=0:rc-lookahead=0:chroma-qp-offset=-4"},
    # info: no version and settings in the stream. Without those two x265 also prints them.
    "h265": {"preset": "medium", "x265-params": "log-level=none:info=0:pools=none:frame-threads=1:wpp=0"},
    "av1": {"preset": "6", "svtav1-params": "lp=1"},
    "vp9": {"b": "0", "deadline": "good", "cpu-used": "2", "row-mt": "0"},
    "prores-hq": {"profile": "3", "vendor": "apl0"},
    "prores-4444": {"profile": "4", "vendor": "apl0"},
    "ffv1": {"level": "3", "slicecrc": "1"},
}
RGB = "bgr0"  # FFmpeg's name: blue first, the fourth byte unused
RGB_MATRIX = 0  # ITU-T H.273, table 4: no matrix
APPLE_TAGS = {"h265": "hvc1"}  # Apple's players refuse FFmpeg's own choice, hev1
# x265 learns decoding times from this many frames on: with fewer and B-frames it hands out whatever memory held.
REORDERED = 3


def encode(
    path: Path,
    frames: UInt8[np.ndarray, "t h w 3"],
    order: Sequence[int],
    rate: Fraction,
    chosen: Format,
    encoding: Encoding,
    document: str | None,
) -> None:
    """Write `frames[order]` to `path` at `rate` frames a second. Raises FFmpegError for what the encoder refuses."""
    codec = codec_of(chosen, encoding)
    assert codec is not None, chosen
    _, height, width, _ = frames.shape
    options = MUXER_OPTIONS if chosen.name in ("mp4", "mov") else {}
    with av.open(f"file:{path}", "w", format=MUXERS[chosen.name], container_options=options) as container:
        container.flags |= ContainerFlags.bitexact.value  # no version of the muxer in the file
        if document is not None:
            container.metadata[DOCUMENT_KEY] = document
        stream = _add_stream(container, codec, encoding.quality, (width, height), rate, len(order))
        if chosen.name in ("mp4", "mov") and codec.name in APPLE_TAGS:
            stream.codec_context.codec_tag = APPLE_TAGS[codec.name]
        convert = converter(width, height, codec)
        for place, number in enumerate(order):
            frame = convert(frames[number])
            frame.pts, frame.duration, frame.time_base = place, 1, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def converter(width: int, height: int, codec: Codec) -> Callable[[UInt8[np.ndarray, "h w 3"]], av.VideoFrame]:
    """A function from RGB pixels to what `codec` takes: its size and pixel format, in BT.709 of limited range."""
    stored_width, stored_height = stored_size(width, height, codec)
    padding = ((0, stored_height - height), (0, stored_width - width), (0, 0))
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=stored_width, height=stored_height, format=VideoFormat("rgb24"), time_base=Fraction(1)
    )
    scale = graph.add("scale", SCALE if codec.pixel_format == RGB else TO_YUV + codec.siting)
    graph.link_nodes(source, scale, graph.add("format", codec.pixel_format), graph.add("buffersink")).configure()

    def convert(pixels: UInt8[np.ndarray, "h w 3"]) -> av.VideoFrame:
        graph.push(av.VideoFrame.from_ndarray(np.pad(pixels, padding, mode="edge"), format="rgb24"))
        frame = cast(av.VideoFrame, graph.vpull())
        frame.color_primaries, frame.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        return frame

    return convert


def _add_stream(
    container: OutputContainer, codec: Codec, quality: int, size: tuple[int, int], rate: Fraction, count: int
) -> av.VideoStream:
    is_rgb = codec.pixel_format == RGB
    options = dict(CODEC_OPTIONS[codec.name])
    if codec.rate_factors:
        options["crf"] = str(rate_factor(codec, quality))
    if codec.name == "ffv1" and min(size) < 2:
        options = {"level": "1"}  # version 3 cuts frames into slices, which must have a pixel each
    if codec.name == "h265" and count < REORDERED:
        options["x265-params"] += ":bframes=0"
    if codec.name == "av1":
        os.environ.setdefault("SVT_LOG", "0")  # SVT-AV1 prints to stderr, and listens to nothing else
    stream = cast(av.VideoStream, container.add_stream(codec.encoder, rate=rate, options=options))
    context = stream.codec_context
    context.width, context.height = stored_size(*size, codec)
    context.pix_fmt = codec.pixel_format
    context.time_base = stream.time_base = 1 / rate
    context.thread_count = 1
    context.flags |= CodecFlags.bitexact.value
    context.colorspace = RGB_MATRIX if is_rgb else Colorspace.ITU709
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    context.color_range = ColorRange.JPEG if is_rgb else ColorRange.MPEG
    return stream
