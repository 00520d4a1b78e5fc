"""An H.264 file written frame by frame, each at its own time: for videos that do not fit in memory."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import numpy as np
from av.codec.context import Flags as CodecFlags
from av.container.core import Flags as ContainerFlags
from av.video.reformatter import Colorspace, VideoReformatter
from jaxtyping import UInt8

TIME_BASE = Fraction(1, 90_000)  # MPEG's clock, a multiple of every usual rate


@dataclasses.dataclass(frozen=True, slots=True)
class StreamSettings:
    """How a stream is compressed: constant rate factor, frames from one keyframe to the next at most, B-frames."""

    crf: int = 23
    keyframe_interval: int = 250
    bframes: int = 2
    preset: str = "superfast"


class FrameWriter:
    """Writes RGB frames of one even size as H.264, in constant memory. A context manager; give it a temporary path."""

    def __init__(self, path: Path, size: tuple[int, int], rate: Fraction, settings: StreamSettings) -> None:
        """`size` is width and height; `rate` is the nominal rate, which times may depart from."""
        self._container = av.open(str(path), "w", format="mp4" if path.suffix == ".mp4" else None)
        self._container.flags |= ContainerFlags.bitexact.value
        # Without looking ahead: with it, x264 gave the same frames other bytes in some processes.
        fixed = f"rc-lookahead=0:mbtree=0:keyint={settings.keyframe_interval}:bframes={settings.bframes}"
        options = {"preset": settings.preset, "crf": str(settings.crf), "x264-params": fixed}
        self._stream = cast(av.VideoStream, self._container.add_stream("libx264", rate=rate, options=options))
        context = self._stream.codec_context
        context.width, context.height = size
        context.pix_fmt = "yuv420p"
        context.time_base = self._stream.time_base = TIME_BASE
        context.thread_count = 1
        context.flags |= CodecFlags.bitexact.value
        self._reformatter = VideoReformatter()

    def write(self, pixels: UInt8[np.ndarray, "h w 3"], time: Fraction) -> None:
        """Add one frame, shown at `time` seconds; times rise."""
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = self._reformatter.reformat(
            picture, format="yuv420p", dst_colorspace=Colorspace.ITU601, interpolation="FAST_BILINEAR", threads=1
        )
        frame.pts, frame.time_base = int(time / TIME_BASE), TIME_BASE
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
