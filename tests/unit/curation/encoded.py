"""Generated videos of every codec, order of pictures and container that clips are cut from."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container.core import Flags
from av.error import FFmpegError

from stillmotion.media.scan import opened, video_stream

FRAMES = 80
TICKS = Fraction(1, 90_000)
X265 = "log-level=none:pools=none:frame-threads=1:wpp=0:info=0:scenecut=0:keyint=20:min-keyint=20"


@dataclasses.dataclass(frozen=True)
class Source:
    """How a test video is made."""

    suffix: str
    encoder: str
    options: dict[str, str] = dataclasses.field(default_factory=dict)
    pixel_format: str = "yuv420p"
    container: dict[str, str] = dataclasses.field(default_factory=dict)
    size: tuple[int, int] = (96, 64)
    start: int = 0
    is_vfr: bool = False
    tag: str = ""


def h264(suffix: str = "mp4", more: str = "bframes=3", keyint: int | str = 24, **other: object) -> Source:
    params = f"scenecut=0:keyint={keyint}:{more}"
    return Source(suffix, "libx264", {"x264-params": params, "preset": "veryfast"}, **other)  # type: ignore[arg-type]


def h265(suffix: str = "mp4", more: str = "bframes=4:b-adapt=0:open-gop=1", **other: object) -> Source:
    params = f"{X265}:{more}"
    return Source(suffix, "libx265", {"x265-params": params, "preset": "veryfast"}, **other)  # type: ignore[arg-type]


OPEN = "bframes=3:b-adapt=0:open-gop=1"
SOURCES = {
    "h264": h264(),
    "h264 pyramid": h264(more="bframes=6:b-adapt=0:b-pyramid=normal:ref=6"),
    "h264 strict pyramid": h264(more="bframes=5:b-adapt=0:b-pyramid=strict"),
    "h264 without B-frames": h264(more="bframes=0"),
    "h264 open": h264(more=OPEN, keyint=20),
    "h264 open pyramid": h264(more="bframes=5:b-adapt=0:open-gop=1:b-pyramid=normal:ref=5", keyint=20),
    "h264 open ts": h264("ts", OPEN, 20),
    "h264 open mkv": h264("mkv", OPEN, 20),
    "h264 intra refresh": h264(more="bframes=0:intra-refresh=1", keyint=20),
    "h264 intra refresh ts": h264("ts", "bframes=0:intra-refresh=1", 20),
    "h264 one keyframe": h264(keyint="infinite"),
    "h264 10 bits": h264(pixel_format="yuv420p10le"),
    "h264 444": h264(pixel_format="yuv444p"),
    "h264 422 mov": h264("mov", pixel_format="yuv422p"),
    "h264 full range": h264(pixel_format="yuvj420p"),
    "h264 interlaced": h264(more="bframes=2:tff=1"),
    "h264 interlaced ts": h264("ts", "bframes=2:tff=1"),
    "h264 slices": h264(more="bframes=2:slices=4"),
    "h264 ts": h264("ts"),
    "h264 flv": h264("flv"),
    "h264 avi": h264("avi"),
    "h264 mkv": h264("mkv"),
    "h264 vfr": h264(is_vfr=True),
    "h264 vfr mkv": h264("mkv", is_vfr=True),
    "h264 late start": h264(start=1000),
    "h264 no edit list": h264(container={"use_editlist": "0"}),
    "h264 negative offsets": h264(container={"movflags": "negative_cts_offsets"}),
    "h264 fragments": h264(container={"movflags": "frag_keyframe+empty_moov"}),
    "h265": h265(more="bframes=3:open-gop=0"),
    "h265 open": h265(),
    "h265 open hvc1": h265(tag="hvc1"),
    "h265 radl": h265(more="bframes=4:b-adapt=0:open-gop=0:radl=3"),
    "h265 intra refresh": h265(more="bframes=0:intra-refresh=1"),
    "h265 ts": h265("ts"),
    "h265 mkv": h265("mkv"),
    "h265 10 bits": h265(more="bframes=3:open-gop=0", pixel_format="yuv420p10le"),
    "vp8": Source("webm", "libvpx", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k"}),
    "vp9": Source("webm", "libvpx-vp9", {"g": "20", "b": "0", "crf": "30", "lag-in-frames": "16", "cpu-used": "8"}),
    "vp9 mp4": Source("mp4", "libvpx-vp9", {"g": "20", "b": "0", "crf": "30", "auto-alt-ref": "1", "cpu-used": "8"}),
    "av1": Source("mp4", "libsvtav1", {"g": "20", "preset": "11", "svtav1-params": "lp=1"}),
    "av1 open": Source("mp4", "libsvtav1", {"g": "20", "preset": "10", "svtav1-params": "lp=1:irefresh-type=1"}),
    "av1 mkv": Source("mkv", "libsvtav1", {"g": "20", "preset": "11", "svtav1-params": "lp=1"}),
    "mpeg4": Source("mp4", "mpeg4", {"g": "20", "bf": "2", "b": "500k"}),
    "mpeg4 avi": Source("avi", "mpeg4", {"g": "20", "bf": "2", "b": "500k"}),
    "mpeg2": Source("mpg", "mpeg2video", {"g": "20", "bf": "2", "b": "800k"}),
    "mpeg2 ts": Source("ts", "mpeg2video", {"g": "20", "bf": "2", "b": "800k"}),
    "mpeg2 mp4": Source("mp4", "mpeg2video", {"g": "20", "bf": "2", "b": "800k"}),
    "mpeg2 closed": Source(
        "mpg", "mpeg2video", {"g": "20", "bf": "2", "b": "800k", "flags": "+cgop", "sc_threshold": "1000000000"}
    ),
    "mpeg1": Source("mpg", "mpeg1video", {"g": "20", "bf": "2", "b": "800k"}),
    "prores": Source("mov", "prores_ks", pixel_format="yuv422p10le"),
    "ffv1": Source("mkv", "ffv1", {"level": "3", "g": "20"}),
    "ffv1 rgb": Source("mkv", "ffv1", {"level": "3", "g": "1"}, "bgr0"),
    "mjpeg": Source("avi", "mjpeg", {}, "yuvj420p"),
    # These go into no container that clips are written to, or say of every packet that it is a keyframe.
    "flv1": Source("flv", "flv", {"g": "20"}),
    "wmv2": Source("asf", "wmv2", {"g": "20"}),
    "h263": Source("avi", "h263", {"g": "20"}, size=(176, 144)),
    "huffyuv": Source("avi", "huffyuv", {}, "yuv422p"),
}
# One of each way in which pictures are ordered, and of each family of codecs.
QUICK = (
    "h264",
    "h264 pyramid",
    "h264 open",
    "h264 open ts",
    "h264 intra refresh",
    "h264 10 bits",
    "h264 interlaced",
    "h264 avi",
    "h264 vfr",
    "h264 late start",
    "h265 open",
    "h265 ts",
    "h265 radl",
    "vp8",
    "vp9",
    "av1",
    "mpeg4",
    "mpeg2",
    "prores",
    "ffv1",
    "h263",
)


def pictures(frames: int, width: int, height: int, seed: int = 5) -> list[np.ndarray]:
    """A texture that moves, before which a block moves and changes colour: no two frames are equal."""
    tiles = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8 + frames, 3), np.uint8)
    wide = tiles.repeat(8, 0).repeat(8, 1)
    made = []
    for number in range(frames):
        frame = wide[:, number * 2 : number * 2 + width].copy()
        top = number * 3 % (height - 8)
        frame[top : top + 8, 8:40] = (number * 7 % 256, 255 - number * 3 % 256, 128)
        made.append(frame)
    return made


def make(folder: Path, name: str, frames: int = FRAMES) -> Path:
    """Write one of SOURCES."""
    source = SOURCES[name]
    path = folder / f"{name}.{source.suffix}"
    write(path, source, frames)
    return path


def write(path: Path, source: Source, frames: int = FRAMES, seed: int = 5) -> None:
    os.environ.setdefault("SVT_LOG", "0")
    steps = np.random.default_rng(0).integers(1000, 9000, frames)
    time_base = TICKS if source.is_vfr else Fraction(1, 25)
    ticks = np.cumsum(steps) - steps[0] if source.is_vfr else np.arange(frames)
    with av.open(f"file:{path}", "w", container_options=source.container) as container:
        container.flags |= Flags.bitexact.value  # Matroska would draw numbers at random
        stream = container.add_stream(source.encoder, rate=25, options=source.options)
        context = stream.codec_context
        (context.width, context.height), context.pix_fmt = source.size, source.pixel_format
        context.time_base, context.thread_count = time_base, 1
        if source.tag:
            context.codec_tag = source.tag
        for tick, pixels in zip(ticks, pictures(frames, *source.size, seed), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=source.pixel_format)
            frame.pts, frame.time_base = int(tick) + source.start, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@dataclasses.dataclass(frozen=True)
class Shown:
    """Every frame of a video in shown order: sha256 of its planes, and its time."""

    hashes: Sequence[str]
    times_s: np.ndarray


def shown(path: Path) -> Shown:
    """Decode a whole video from its start."""
    hashes, times = [], []
    with opened(path) as container:
        stream = video_stream(container, path)
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            try:
                decoded = packet.decode()
            except FFmpegError:
                continue
            for frame in decoded:
                hashes.append(hash_of(frame))
                times.append(frame.time or 0.0)
    return Shown(hashes, np.array(times))


def hash_of(frame: av.VideoFrame) -> str:
    """sha256 of the pixels of every plane, without what fills its lines up."""
    bits = max(each.bits for each in frame.format.components)
    sample = (bits + 7) // 8 if frame.format.is_planar else frame.format.padded_bits_per_pixel // 8
    digest = hashlib.sha256()
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        digest.update(rows[: plane.height, : plane.width * sample].tobytes())
    return digest.hexdigest()
