"""One picture of a file: an image, or the frame that a video or an animation shows at a time."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.video.reformatter import VideoReformatter
from PIL import Image

from ..errors import MediaError, UsageError
from .colour import siting, to_array, turned
from .decoding import check_decoding
from .images import (
    DECODER_ERRORS,
    EXPECTED,
    MAX_PIXELS,
    WHITE,
    check_is_file,
    colour_of,
    open_image,
    read_image,
    reason_of,
    upright_rgb,
)
from .video import CONTAINERS

ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
MAX_WALK_PIXELS = 10**10  # three minutes of an animation of 1080p; it has to be decoded from its first frame on
QUICKEST_MS, USUAL_MS = 10, 100  # browsers show a frame that claims at most the first for the second
USUAL_FPS = 25  # of a video that says neither rate nor times
SAME_TIME_S = 1e-6


def read_picture(
    path: Path, at_s: float | None = None, at_least: tuple[int, int] | None = None, background: str = WHITE
) -> Image.Image:
    """A picture as `read_image` gives it, from an image, or the frame that a video shows `at_s` seconds from its start.

    The bytes decide which it is. Animated gif, apng, webp and avif are videos where a time is given; without one they
    give their first picture, and videos their first frame. Raises MediaError where the file cannot be read,
    UsageError for another colour, and for a time that is negative, after the end, or not 0 for an image.
    """
    path = Path(path)
    colour_of(background)
    if at_s is not None and not (math.isfinite(at_s) and at_s >= 0):
        raise UsageError(f"the time in {path} is {at_s} s; expected a number of seconds from 0 on.")
    kind = _kind(path)
    if kind == "video":
        return _frame_or_refusal(path, at_s or 0.0, background)
    if kind == "animation" and at_s is not None:
        return _animation_at(path, at_s, background)
    if at_s:
        raise UsageError(f"{path} is one image, and the time asked for {at_s:g} s; expected a video, or no time.")
    return read_image(path, at_least, background)


def frame_at(path: Path, at_s: float, background: str = WHITE) -> Image.Image:
    """The frame that a video shows `at_s` seconds after its first: the last one that starts by then, upright, RGB.

    Colours, size and turn are as in `read_video`; what is transparent shows `background`. Only frames from the key
    frame before are decoded. Raises MediaError for a file that is missing, damaged or no video, UsageError for a time
    that is negative or after the end, and for another colour.
    """
    path = Path(path)
    colour_of(background)
    if not (math.isfinite(at_s) and at_s >= 0):
        raise UsageError(f"the time in {path} is {at_s} s; expected a number of seconds from 0 on.")
    check_is_file(path)
    # Where a seek lands too late, fails, or on a damaged frame, as in files without an index, all are decoded.
    frame = _shown(path, at_s, seeks=True) if at_s > 0 else None
    frame = frame or _shown(path, at_s, seeks=False)
    if frame is None:
        raise MediaError(f"{path} is damaged or was cut off; expected a whole video.")
    return _to_image(frame, background)


class _NotAVideo(MediaError):
    pass


def _kind(path: Path) -> Literal["image", "animation", "video"]:
    check_is_file(path)
    try:
        with path.open("rb") as file, open_image(file, str(path)) as image:
            # A TIFF of several pages and an MPO are called animated too.
            return "animation" if image.format in ANIMATED and getattr(image, "is_animated", False) else "image"
    except Image.UnidentifiedImageError:
        return "video"
    except DECODER_ERRORS:
        return "image"  # read_image says what is wrong with it


def _frame_or_refusal(path: Path, at_s: float, background: str) -> Image.Image:
    try:
        return frame_at(path, at_s, background)
    except _NotAVideo:
        raise MediaError(f"{path} cannot be decoded: it is neither an image nor a video; {EXPECTED}.") from None


def _animation_at(path: Path, at_s: float, background: str) -> Image.Image:
    try:
        with path.open("rb") as file, open_image(file, str(path)) as image:
            check_decoding(image, file, str(path))
            end_s = _walk(image, path, at_s)
            if at_s <= end_s + SAME_TIME_S:
                return upright_rgb(image, background)
    except DECODER_ERRORS as error:
        raise MediaError(f"{path} cannot be decoded: {reason_of(error)}; {EXPECTED}.") from None
    raise _too_late(path, at_s, end_s)


def _walk(image: Image.Image, path: Path, at_s: float) -> float:
    # Load the frame that is shown at that second, or else the last one; returns the second at which it ends.
    index, end_s = (1 if image.info.get("default_image") else 0), 0.0  # what those show who know no apng
    while index * image.width * image.height <= MAX_WALK_PIXELS:
        image.seek(index)
        image.load()
        duration = float(image.info.get("duration") or 0)
        end_s += (USUAL_MS if duration <= QUICKEST_MS else duration) / 1000
        index += 1
        if at_s < end_s - SAME_TIME_S or not _has_frame(image, index):
            return end_s
    raise MediaError(f"{path} is too long an animation; expected a time within its first {end_s:.0f} s.")


def _has_frame(image: Image.Image, index: int) -> bool:
    try:
        image.seek(index)
    except EOFError:  # the image stays where it was
        return False
    return True


def _too_late(path: Path, at_s: float, duration_s: float) -> UsageError:
    return UsageError(
        f"the time in {path} is {at_s:g} s, and its duration {duration_s:.3f} s; expected one before that."
    )


def _shown(path: Path, at_s: float, seeks: bool) -> av.VideoFrame | None:
    """The frame that is shown, or None where this way of reading cannot tell."""
    try:
        # The prefix keeps ffmpeg from reading "a:b.mp4" as an address of the protocol "a".
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        with av.open(f"file:{path}", options=options) as container:
            return _last_started(container, path, at_s, seeks)
    except UsageError:
        raise
    except (FFmpegError, OSError, UnicodeError, ValueError, LookupError, MemoryError) as error:
        if seeks:
            return None
        # EINVAL is what ffmpeg says of a format that it knows and CONTAINERS leaves out.
        unknown = isinstance(error, InvalidDataError) or getattr(error, "errno", None) == errno.EINVAL
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise (_NotAVideo if unknown else MediaError)(
            f"{path} cannot be decoded: {reason}; expected a whole video."
        ) from None


def _last_started(container: InputContainer, path: Path, at_s: float, seeks: bool) -> av.VideoFrame | None:
    stream = _video_stream(container, path)
    zero_s = next((frame.time for frame in container.decode(stream)), None) if seeks else None
    if zero_s is not None and stream.time_base:
        container.seek(int((zero_s + at_s) / stream.time_base), stream=stream)
    length_s = 1 / float(stream.average_rate or stream.guessed_rate or USUAL_FPS)
    shown, end_s, sited = None, 0.0, siting(stream)
    for number, frame in enumerate(container.decode(stream)):
        _check_pixels(path, frame.width, frame.height)
        if frame.time is None and seeks:
            return None  # its number is not known either
        zero_s = frame.time if zero_s is None else zero_s
        start_s = number * length_s if frame.time is None or zero_s is None else frame.time - zero_s
        if seeks and shown is None and not frame.key_frame:
            continue  # it needs frames from before the seek
        if start_s > at_s + SAME_TIME_S:
            return _whole(shown)  # none where the seek went too far
        shown = sited(frame)
        end_s = start_s + (float(frame.duration * frame.time_base) if frame.duration and frame.time_base else length_s)
    if shown is not None and at_s > end_s + SAME_TIME_S:
        raise _too_late(path, at_s, end_s)
    return _whole(shown)


def _video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
        raise MediaError(f"{path} has no video stream of a known codec; expected a video.")
    stream.thread_type = "AUTO"
    _check_pixels(path, stream.codec_context.width, stream.codec_context.height)
    return stream


def _check_pixels(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise MediaError(f"{path} has {width}x{height} pixels; expected at most {MAX_PIXELS // 10**6} megapixels.")


def _whole(frame: av.VideoFrame | None) -> av.VideoFrame | None:
    return None if frame is None or frame.is_corrupt else frame


def _to_image(frame: av.VideoFrame, background: str) -> Image.Image:
    picture = Image.fromarray(to_array(VideoReformatter(), frame))
    return Image.fromarray(turned(np.asarray(upright_rgb(picture, background)), frame))
