"""Videos: frames to any format, the same bytes each time, and any video to frames."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8
from PIL import Image

from ..config import checked
from ..errors import MediaError, UsageError
from ..files import atomic_path
from .animation import write_apng, write_gif, write_pictures, write_webp
from .blocks import Source, kind_of
from .colour import over_white, siting, to_array, turned
from .document import check_document
from .encode import encode
from .formats import MAX_VIDEO_PIXELS, Encoding, check_encodable, check_rate, format_of, frame_order
from .pictures import read_animation, read_pictures

MAX_DECODED_BYTES = 16 * 1024**3
MAX_DECODER_THREADS = 4  # each holds frames of its own

# ffmpeg names. Playlists (hls, concat, dash), which open other files and addresses, must stay off this list.
CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,ivf,mxf,dv,nut,yuv4mpegpipe"


DEFAULT = Encoding()


@dataclasses.dataclass(frozen=True, slots=True)
class Video:
    """Decoded RGB frames, and the true rate in frames a second."""

    frames: UInt8[np.ndarray, "t h w 3"]
    fps: float


def write_video(
    path: Path,
    frames: UInt8[np.ndarray, "t h w 3"],
    play_fps: float,
    encoding: Encoding = DEFAULT,
    document: str | None = None,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Write frames as `encoding` says, with `document` inside; the same frames and settings give the same bytes.

    `play_fps` is the rate of playback, over 0 and up to MAX_FPS, kept as a fraction where the format can. Colours are
    BT.709. With `overwrite` off an existing `path` is refused. Returns one sentence for each thing that the file does
    not keep. Raises UsageError for what cannot be, StillmotionError where the file cannot be written; then nothing is
    left behind.
    """
    path = Path(path)
    encoding = checked(encoding)
    _check_frames(frames)
    count, height, width, _ = frames.shape
    notes = check_encodable(path, width, height, count, play_fps, encoding)
    if document is not None:
        check_document(document)
    with atomic_path(path, overwrite) as temporary:
        _write(temporary, path, frames, check_rate(play_fps), encoding, document)
    return notes


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
        if path.is_dir():
            return Video(*read_pictures(path, max_frames))
        if not path.is_file():
            kind = "is not a file" if path.exists() else "does not exist"
            raise MediaError(f"{path} {kind}; expected a video file.")
        with path.open("rb") as file:
            kind = kind_of(Source(file, path))
        if kind in ("gif", "webp", "png"):
            return Video(*read_animation(path, kind, max_frames))
        # The prefix keeps ffmpeg from reading "a:b.mp4" as an address of the protocol "a".
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        with av.open(f"file:{path}", options=options) as container:
            return _decode(container, path, max_frames)
    except (FFmpegError, OSError, UnicodeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise MediaError(f"{path} cannot be decoded: {_reason(error)}; expected a whole video.") from None


def _reason(error: Exception) -> str:
    if isinstance(error, (FFmpegError, OSError)):
        # EINVAL is what ffmpeg says of a format that it knows and CONTAINERS leaves out.
        return "its format is not among those allowed" if error.errno == errno.EINVAL else str(error.strerror)
    return str(error)


def _check_frames(frames: np.ndarray) -> None:
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        kind = frames.dtype if isinstance(frames, np.ndarray) else type(frames).__name__
        raise UsageError(f"the frames are {kind}; expected a numpy array of uint8.")
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise UsageError(f"the frames have the shape {frames.shape}; expected (t, h, w, 3) with at least one frame.")


def _write(
    temporary: Path, path: Path, frames: np.ndarray, rate: Fraction, encoding: Encoding, document: str | None
) -> None:
    chosen = format_of(path, encoding)
    order = frame_order(len(frames), chosen, encoding)
    if chosen.codecs:
        with _explained(path):
            encode(temporary, frames, order, rate, chosen, encoding, document)
    elif chosen.name == "gif":
        write_gif(temporary, frames, order, rate, encoding.loop, document)
    elif chosen.name == "webp":
        write_webp(temporary, frames, order, rate, encoding, document)
    elif chosen.name == "apng":
        write_apng(temporary, frames, order, rate, encoding.loop, document)
    else:
        write_pictures(temporary, frames, order, rate, document)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FFmpegError as error:
        # A number of the system is the disk's, for which atomic_path has the sentence; these two are the encoder's.
        code = error.errno
        if code is not None and code in errno.errorcode and code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code)) from None
        raise MediaError(f"{path} cannot be encoded: {error.strerror}; nothing was left behind.") from None


def _decode(container: InputContainer, path: Path, max_frames: int | None) -> Video:
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
        raise MediaError(f"{path} has no video stream of a known codec; expected a video.")
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = min(MAX_DECODER_THREADS, os.cpu_count() or 1)
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_VIDEO_PIXELS:
        limit = MAX_VIDEO_PIXELS / 10**6
        raise MediaError(f"{path} has {width}x{height} pixels; expected at most {limit:.1f} megapixels.")
    size: tuple[int, int] | None = None
    reformatter = VideoReformatter()
    sited = siting(stream)
    frames: list[np.ndarray] = []
    times: list[float] = []
    for frame in _decoded_frames(container, stream, path):
        size = size or (frame.width, frame.height)
        frames.append(_upright_rgb(reformatter, sited(frame), size))
        times.append(frame.time if frame.pts is not None and frame.time_base else math.nan)
        if frames[0].nbytes * len(frames) > MAX_DECODED_BYTES:
            limit = MAX_DECODED_BYTES // 1024**3
            raise MediaError(f"{path} decodes to more than {limit} GiB; expected a shorter video, or max_frames.")
        if len(frames) == max_frames:
            break
    if not frames:
        raise MediaError(f"{path} has no frame that can be decoded; expected a whole video.")
    return Video(np.stack(frames), _frames_per_second(stream, times, path))


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


def _upright_rgb(
    reformatter: VideoReformatter, frame: av.VideoFrame, size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    pixels = to_array(reformatter, frame, size)
    return turned(over_white(Image.fromarray(pixels)) if pixels.shape[2] == 4 else pixels, frame)


def _frames_per_second(stream: av.VideoStream, times: list[float], path: Path) -> float:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate:
            return float(rate)
    span = times[-1] - times[0]
    if not span > 0:
        raise MediaError(f"{path} does not say its frame rate; expected a video with a rate or time stamps.")
    return (len(times) - 1) / span
