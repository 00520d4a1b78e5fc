"""Videos: frames to an mp4 that plays everywhere and is the same bytes each time, and any video to frames."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.codec.context import Flags as CodecFlags
from av.container import InputContainer, OutputContainer
from av.container.core import Flags as ContainerFlags
from av.error import FFmpegError
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from jaxtyping import UInt8

from ..errors import MediaError, UsageError
from ..files import atomic_path
from .images import MAX_PIXELS

MAX_FPS = 1000.0
MAX_FPS_DENOMINATOR = 10_000  # keeps 30000/1001, 29.97 and 23.976 exact, and time bases far below 32 bits
MAX_DECODED_BYTES = 16 * 1024**3

# ffmpeg names. Playlists (hls, concat, dash), which open other files and addresses, must stay off this list.
CONTAINERS = "mov,matroska,webm,avi,gif,apng,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,ivf,mxf,dv,nut,yuv4mpegpipe"

# swscale's defaults trade accuracy for speed, in code that differs between processors.
EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)

# ITU-T H.273, table 4 (the tag in the file) to swscale's name of the same matrix.
MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Video:
    """Decoded RGB frames, the true rate in frames a second, and the container's metadata."""

    frames: UInt8[np.ndarray, "t h w 3"]
    fps: float
    metadata: dict[str, str]


def write_video(
    path: Path,
    frames: UInt8[np.ndarray, "t h w 3"],
    play_fps: float,
    quality_crf: int = 17,
    metadata: dict[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write an H.264 mp4 in BT.709 that browsers play and start at once; the same frames give the same bytes.

    `play_fps` is the rate of playback, over 0 and up to MAX_FPS, kept as a fraction. `quality_crf` is x264's constant
    rate factor, 1 (near lossless) to 51; 17 looks like the source. An odd size repeats its last row or column, for
    4:2:0 colour needs even ones. With `overwrite` off an existing `path` is refused. Raises UsageError for other
    arguments, StillmotionError where the file cannot be written; then nothing is left behind.
    """
    path = Path(path)
    rate = _check_request(path, frames, play_fps, quality_crf)
    with atomic_path(path, overwrite) as temporary:
        try:
            _encode(temporary, frames, rate, quality_crf, metadata or {})
        except FFmpegError as error:
            # A number of the system is the disk's, for which atomic_path has the sentence; EINVAL is the encoder's.
            code = error.errno
            if code is not None and code in errno.errorcode and code != errno.EINVAL:
                raise OSError(code, os.strerror(code)) from None
            raise MediaError(f"{path} cannot be encoded: {error.strerror}; nothing was left behind.") from None


def read_video(path: Path, max_frames: int | None = None) -> Video:
    """Decode the first `max_frames` frames of a video, or all, upright, in RGB, at the size that the file stores.

    The matrix and range tags are honoured; an untagged video is BT.709 from 1280 wide or 577 high on, else BT.601,
    as players guess. Transparency is laid over white. Frames of another size than the first are scaled to it. HDR is
    not tone-mapped, pixels that are not square stay as stored, and damage that the decoder can conceal is concealed.
    Raises MediaError for a file that is missing, truncated, not decodable or no video, and for more than
    MAX_DECODED_BYTES of frames.
    """
    path = Path(path)
    if max_frames is not None and max_frames < 1:
        raise UsageError(f"max_frames is {max_frames}; expected at least 1, or none for all.")
    try:
        if not path.is_file():
            kind = "is not a file" if path.exists() else "does not exist"
            raise MediaError(f"{path} {kind}; expected a video file.")
        # The prefix keeps ffmpeg from reading "a:b.mp4" as an address of the protocol "a".
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        with av.open(f"file:{path}", options=options) as container:
            return _decode(container, path, max_frames)
    except (FFmpegError, OSError, UnicodeError, ValueError) as error:
        reason = _reason(error)
        raise MediaError(f"{path} cannot be decoded: {reason}; expected a whole video.") from None


def _reason(error: Exception) -> str:
    if isinstance(error, (FFmpegError, OSError)):
        # EINVAL is what ffmpeg says of a format that it knows and CONTAINERS leaves out.
        return "its format is not among those allowed" if error.errno == errno.EINVAL else str(error.strerror)
    return str(error)


def _check_request(path: Path, frames: np.ndarray, play_fps: float, quality_crf: int) -> Fraction:
    if path.suffix.lower() != ".mp4":
        raise UsageError(f"{path} ends with {path.suffix!r}; expected .mp4.")
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        kind = frames.dtype if isinstance(frames, np.ndarray) else type(frames).__name__
        raise UsageError(f"the frames are {kind}; expected a numpy array of uint8.")
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise UsageError(f"the frames have the shape {frames.shape}; expected (t, h, w, 3) with at least one frame.")
    if not 1 <= quality_crf <= 51:
        raise UsageError(f"quality_crf is {quality_crf}; expected 1 (near lossless) to 51.")
    if not (math.isfinite(play_fps) and 0 < play_fps <= MAX_FPS):
        raise UsageError(f"play_fps is {play_fps}; expected a number over 0 and up to {MAX_FPS:g}.")
    rate = Fraction(play_fps).limit_denominator(MAX_FPS_DENOMINATOR)
    if rate == 0:
        raise UsageError(f"play_fps is {play_fps}; expected at least {1 / MAX_FPS_DENOMINATOR}.")
    return rate


def _encode(path: Path, frames: np.ndarray, rate: Fraction, quality_crf: int, metadata: dict[str, str]) -> None:
    # use_metadata_tags: without it the mp4 muxer drops every key that it does not know.
    options = {"movflags": "faststart+use_metadata_tags"}
    with av.open(f"file:{path}", "w", format="mp4", container_options=options) as container:
        container.flags |= ContainerFlags.bitexact.value  # no version of the muxer in the file
        container.metadata.update(metadata)
        stream = _add_stream(container, frames, rate, quality_crf)
        reformatter = VideoReformatter()
        for number, pixels in enumerate(frames):
            frame = _to_yuv(reformatter, pixels)
            frame.pts, frame.duration, frame.time_base = number, 1, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _add_stream(container: OutputContainer, frames: np.ndarray, rate: Fraction, quality_crf: int) -> av.VideoStream:
    _, height, width, _ = frames.shape
    # Without looking ahead: with it, x264 gave the same frames other bytes in some processes.
    steady = {"x264-params": "mbtree=0:rc-lookahead=0"}
    options = {"crf": str(quality_crf), "preset": "medium"} | steady
    stream = container.add_stream("libx264", rate=rate, options=options)
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
    context.time_base = stream.time_base = 1 / rate
    context.thread_count = 1  # x264's bytes depend on the count, whose default is the machine's
    context.flags |= CodecFlags.bitexact.value
    context.colorspace = Colorspace.ITU709
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    context.color_range = ColorRange.MPEG
    return stream


def _to_yuv(reformatter: VideoReformatter, pixels: UInt8[np.ndarray, "h w 3"]) -> av.VideoFrame:
    height, width, _ = pixels.shape
    even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = reformatter.reformat(
        av.VideoFrame.from_ndarray(even, format="rgb24"),
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,  # swscale's own choice is BT.601
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=EXACT,
        threads=1,
    )
    frame.color_primaries, frame.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return frame


def _decode(container: InputContainer, path: Path, max_frames: int | None) -> Video:
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
        raise MediaError(f"{path} has no video stream of a known codec; expected a video.")
    stream.thread_type = "AUTO"
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise MediaError(f"{path} has {width}x{height} pixels; expected at most {MAX_PIXELS // 10**6} megapixels.")
    size: tuple[int, int] | None = None
    reformatter = VideoReformatter()
    frames: list[np.ndarray] = []
    times: list[float] = []
    for frame in _decoded_frames(container, stream, path):
        size = size or (frame.width, frame.height)
        frames.append(_to_rgb(reformatter, frame, size))
        times.append(frame.time if frame.pts is not None and frame.time_base else math.nan)
        if frames[0].nbytes * len(frames) > MAX_DECODED_BYTES:
            limit = MAX_DECODED_BYTES // 1024**3
            raise MediaError(f"{path} decodes to more than {limit} GiB; expected a shorter video, or max_frames.")
        if len(frames) == max_frames:
            break
    if not frames:
        raise MediaError(f"{path} has no frame that can be decoded; expected a whole video.")
    return Video(np.stack(frames), _frames_per_second(stream, times, path), dict(container.metadata))


def _decoded_frames(container: InputContainer, stream: av.VideoStream, path: Path) -> Iterator[av.VideoFrame]:
    # ffmpeg fills what is missing with grey and goes on; a file that was cut off is refused instead.
    cut_off = MediaError(f"{path} is damaged or was cut off; expected a whole video.")
    packets = 0
    for packet in container.demux(stream):
        packets += packet.size > 0
        if packet.is_corrupt:
            raise cut_off
        for frame in packet.decode():
            if frame.is_corrupt:
                raise cut_off
            yield frame
    if "mp4" in container.format.name and packets < stream.frames:  # elsewhere the count is an estimate
        raise cut_off


def _to_rgb(reformatter: VideoReformatter, frame: av.VideoFrame, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    has_alpha = any(component.is_alpha for component in frame.format.components)
    converted = reformatter.reformat(
        frame,
        width=size[0],
        height=size[1],
        format="rgba" if has_alpha else "rgb24",
        src_colorspace=None if frame.format.is_rgb else _matrix(frame),
        src_color_range=frame.color_range or None,
        dst_color_range=ColorRange.JPEG,
        interpolation=EXACT,
        threads=1,
    )
    pixels = converted.to_ndarray()
    return _turn(_over_white(pixels) if has_alpha else pixels, frame)


def _matrix(frame: av.VideoFrame) -> Colorspace:
    guess = Colorspace.ITU709 if frame.width >= 1280 or frame.height > 576 else Colorspace.ITU601
    return MATRICES.get(int(frame.colorspace), guess)


def _over_white(pixels: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return (pixels[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)


def _turn(pixels: UInt8[np.ndarray, "h w 3"], frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
    """Apply the display matrix [[a b u] [c d v] [x y w]]: x' = a x + c y, y' = b x + d y, with y downwards.

    Only quarter turns and mirrors, which is all that cameras write; another angle goes to the nearest. Source:
    libavutil/display.h.
    """
    matrix = cast(SideDataContainer, frame.side_data).get(SideDataType.DISPLAYMATRIX)  # PyAV's stub knows other keys
    if matrix is None:
        return pixels
    a, b, _, c, d = struct.unpack("=9i", bytes(matrix))[:5]
    if abs(a) + abs(d) >= abs(b) + abs(c):
        to_right, to_bottom = a, d
    else:
        pixels = pixels.swapaxes(0, 1)
        to_right, to_bottom = c, b
    pixels = pixels[:, ::-1] if to_right < 0 else pixels
    return np.ascontiguousarray(pixels[::-1] if to_bottom < 0 else pixels)


def _frames_per_second(stream: av.VideoStream, times: list[float], path: Path) -> float:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate:
            return float(rate)
    span = times[-1] - times[0]
    if not span > 0:
        raise MediaError(f"{path} does not say its frame rate; expected a video with a rate or time stamps.")
    return (len(times) - 1) / span
