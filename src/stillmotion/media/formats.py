"""What a video can be written as: the closed table of formats and codecs, and what each of them can hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ..config import checked, config
from ..errors import UsageError

FormatName = Literal["mp4", "webm", "mov", "mkv", "gif", "webp", "apng", "png"]
CodecName = Literal["h264", "h265", "av1", "vp9", "prores-hq", "prores-4444", "ffv1"]

MAX_FPS = 1000.0
MAX_FPS_DENOMINATOR = 10_000  # keeps 30000/1001, 29.97 and 23.976 exact, and time bases far below 32 bits
# Browsers show a frame of 10 ms or less for 100 ms; gif counts in 10 ms, webp in 1 ms.
MAX_ANIMATION_FPS: dict[str, int] = {"gif": 50, "webp": 90, "apng": 90}
MAX_ANIMATION_FRAMES = 4096
SLOWEST_GIF = Fraction(100, 65535)  # the time of a frame has 16 bits
MAX_VIDEO_PIXELS = 8192 * 4320  # a frame of "8K", the largest that the codecs' levels know
MAX_LOOP = 1000
MAX_FRAMES = 100_000


@config
class Encoding:
    """How frames become a file."""

    format: Annotated[
        FormatName | None,
        Field(description="The kind of file; else its suffix decides. png is a folder of numbered pictures."),
    ] = None
    codec: Annotated[
        CodecName | None,
        Field(description="The codec inside mp4, webm, mov or mkv; else h264, vp9, prores-hq or ffv1."),
    ] = None
    quality: Annotated[
        int, Field(ge=1, le=100, description="1 (small) to 100 (near lossless); lossless formats ignore it.")
    ] = 95
    loop: Annotated[
        int,
        Field(
            ge=0,
            le=MAX_LOOP,
            description="Animations play this often, 0 for ever; videos have no such flag and repeat their frames.",
        ),
    ] = 0
    ping_pong: Annotated[bool, Field(description="Play forwards, then backwards.")] = False


@dataclasses.dataclass(frozen=True, slots=True)
class Format:
    """One kind of file. `codecs` are those that it holds, the default first; animations and folders have none."""

    name: FormatName
    suffix: str
    codecs: tuple[CodecName, ...] = ()
    has_loop: bool = False  # the file itself says how often it plays


@dataclasses.dataclass(frozen=True, slots=True)
class Codec:
    """One codec. `sides` are the smallest and largest width and height in pixels that its encoder takes."""

    name: CodecName
    title: str
    encoder: str
    pixel_format: str
    sides: tuple[int, int]
    # Points (quality, constant rate factor) that straight lines join; none where quality changes nothing.
    rate_factors: tuple[tuple[int, int], ...] = ()
    needs_even: bool = False
    # Where a colour sample lies among the pixels that share it, as their decoders and players take it to be.
    siting: Literal["left", "center"] = "center"


FORMATS: dict[FormatName, Format] = {
    each.name: each
    for each in (
        Format("mp4", ".mp4", ("h264", "h265", "av1")),
        Format("webm", ".webm", ("vp9", "av1")),
        Format("mov", ".mov", ("prores-hq", "prores-4444", "h264", "h265")),
        Format("mkv", ".mkv", ("ffv1", "h264", "h265", "av1", "vp9")),
        Format("gif", ".gif", has_loop=True),
        Format("webp", ".webp", has_loop=True),
        Format("apng", ".apng", has_loop=True),
        Format("png", ""),
    )
}

# At 90 about 46 dB of luma on photographs; at 95 so near that 4:2:0 itself costs more than the codec.
H264_FACTORS = ((1, 51), (90, 17), (95, 7), (100, 1))
H265_FACTORS = ((1, 51), (90, 20), (95, 11), (100, 1))
AV1_FACTORS = ((1, 63), (90, 18), (95, 8), (100, 1))
VP9_FACTORS = ((1, 63), (90, 16), (95, 6), (100, 1))

CODECS: dict[CodecName, Codec] = {
    each.name: each
    for each in (
        Codec("h264", "H.264", "libx264", "yuv420p", (2, 16384), H264_FACTORS, needs_even=True, siting="left"),
        Codec("h265", "H.265", "libx265", "yuv420p", (16, 8192), H265_FACTORS, needs_even=True, siting="left"),
        Codec("av1", "AV1", "libsvtav1", "yuv420p", (4, 8704), AV1_FACTORS),
        Codec("vp9", "VP9", "libvpx-vp9", "yuv420p", (1, 16384), VP9_FACTORS),
        Codec("prores-hq", "ProRes 422 HQ", "prores_ks", "yuv422p10le", (1, 16384), siting="left"),
        Codec("prores-4444", "ProRes 4444", "prores_ks", "yuv444p10le", (1, 16384)),
        Codec("ffv1", "FFV1", "ffv1", "bgr0", (1, 16384)),
    )
}

# Animated webp has 14 bits for each side (RFC 9649, section 2.7), gif 16.
PICTURE_SIDES = {"gif": 65535, "webp": 16383, "apng": 65535, "png": 65535}


def suffix_of(encoding: Encoding) -> str:
    """The suffix of a file with this encoding, as ".mp4"; empty for a folder of pictures."""
    return format_of(None, encoding).suffix


def format_of(path: Path | None, encoding: Encoding) -> Format:
    """The format that `encoding` and the suffix of `path` choose; they must agree where both say something.

    Without a word from either, the codec's own container, and mp4 where there is no codec either. Raises UsageError
    for a suffix that is unknown or contradicts the format, and for a codec that the format cannot hold.
    """
    suffix = "" if path is None else Path(path).suffix.lower()
    named = next((each for each in FORMATS.values() if suffix and each.suffix == suffix), None)
    if encoding.format is None:
        chosen = named or _without_suffix(path, suffix, encoding.codec)
    else:
        chosen = FORMATS[encoding.format]
        if named not in (None, chosen):
            raise UsageError(
                f"{path} ends with {suffix!r}, but the format is {chosen.name}; expected {_ending(chosen)}."
            )
    codec_of(chosen, encoding)
    return chosen


def codec_of(chosen: Format, encoding: Encoding) -> Codec | None:
    """The codec of a format; None for animations and folders. Raises UsageError for one that it cannot hold."""
    if encoding.codec is None:
        return CODECS[chosen.codecs[0]] if chosen.codecs else None
    if encoding.codec not in chosen.codecs:
        holds = f"one of {', '.join(chosen.codecs)}" if chosen.codecs else "no codec"
        raise UsageError(f"{chosen.name} cannot hold the codec {encoding.codec}; expected {holds}.")
    return CODECS[encoding.codec]


def rate_factor(codec: Codec, quality: int) -> int:
    """The encoder's constant rate factor for a quality of 1 to 100; smaller is better and larger."""
    qualities, factors = zip(*codec.rate_factors, strict=True)
    return round(float(np.interp(quality, qualities, factors)))


def quality_of(codec: Codec, factor: int) -> int:
    """The quality whose constant rate factor comes nearest to `factor`: `rate_factor` backwards."""
    return min(range(1, 101), key=lambda quality: abs(rate_factor(codec, quality) - factor))


def stored_size(width: int, height: int, codec: Codec) -> tuple[int, int]:
    """The width and height of what the codec stores: one more where it needs even ones."""
    return (width + width % 2, height + height % 2) if codec.needs_even else (width, height)


def check_rate(play_fps: float) -> Fraction:
    """The rate of playback as a fraction. Raises UsageError unless it is over 0 and up to MAX_FPS."""
    if isinstance(play_fps, bool) or not isinstance(play_fps, int | float | np.number):
        raise UsageError(f"play_fps is {play_fps!r}; expected a number over 0 and up to {MAX_FPS:g}.")
    if not (math.isfinite(play_fps) and 0 < play_fps <= MAX_FPS):
        raise UsageError(f"play_fps is {play_fps}; expected a number over 0 and up to {MAX_FPS:g}.")
    rate = Fraction(float(play_fps)).limit_denominator(MAX_FPS_DENOMINATOR)
    if rate == 0:
        raise UsageError(f"play_fps is {play_fps}; expected at least {1 / MAX_FPS_DENOMINATOR}.")
    return rate


def check_encodable(
    path: Path | None, width: int, height: int, frames: int, play_fps: float, encoding: Encoding
) -> tuple[str, ...]:
    """Raise UsageError for what cannot be written as asked; call it before minutes of work.

    Sizes in pixels; `frames` are those that are given, before loop and ping-pong. Returns one sentence for each thing
    that the file will not keep or the format will not follow.
    """
    encoding = checked(encoding)
    chosen = format_of(path, encoding)
    codec = codec_of(chosen, encoding)
    rate = check_rate(play_fps)
    if min(width, height, frames) < 1:
        raise UsageError(f"{frames} frames of {width}x{height} are empty; expected at least one frame of 1x1.")
    _check_size(chosen, codec, width, height)
    _check_count(chosen, frames, encoding)
    if rate > (limit := MAX_ANIMATION_FPS.get(chosen.name, MAX_FPS)):
        raise UsageError(f"{chosen.name} cannot play {float(rate):g} frames a second; expected at most {limit}.")
    if chosen.name == "gif" and rate < SLOWEST_GIF:
        raise UsageError(
            f"gif cannot play {float(rate):g} frames a second; expected at least {float(SLOWEST_GIF):.4f}."
        )
    return _notes(codec, width, height)


def frame_order(count: int, chosen: Format, encoding: Encoding) -> Sequence[int]:
    """The numbers of the frames in the order in which they are written; a format without a loop repeats them.

    Ping-pong leaves out the last frame and the first on its way back, so that the loop shows none of them twice.
    """
    order = list(range(count))
    if encoding.ping_pong:
        order += order[-2:0:-1]
    return order if chosen.has_loop else order * max(1, encoding.loop)


def _without_suffix(path: Path | None, suffix: str, codec: CodecName | None) -> Format:
    if suffix:
        known = ", ".join(each.suffix for each in FORMATS.values() if each.suffix)
        folder = " For a folder of pictures choose the format png." if suffix == ".png" else ""
        raise UsageError(f"{path} ends with {suffix!r}; expected one of {known}.{folder}")
    own = (each for each in FORMATS.values() if each.codecs and each.codecs[0] == codec)
    fitting = (each for each in FORMATS.values() if codec in each.codecs)
    return FORMATS["mp4"] if codec is None else next(own, None) or next(fitting)


def _ending(chosen: Format) -> str:
    return f"a name that ends with {chosen.suffix}" if chosen.suffix else "the name of a folder, without a suffix"


def _check_size(chosen: Format, codec: Codec | None, width: int, height: int) -> None:
    if width * height > MAX_VIDEO_PIXELS:
        limit = MAX_VIDEO_PIXELS / 10**6
        raise UsageError(f"{width}x{height} pixels are too many for a video; expected at most {limit:.1f} megapixels.")
    smallest, largest = codec.sides if codec else (1, PICTURE_SIDES[chosen.name])
    stored = stored_size(width, height, codec) if codec else (width, height)
    if min(stored) < smallest or max(stored) > largest:
        name = codec.title if codec else chosen.name
        raise UsageError(f"{name} cannot hold {width}x{height}; expected {smallest} to {largest} pixels a side.")


def _check_count(chosen: Format, frames: int, encoding: Encoding) -> None:
    written = 2 * frames - 2 if encoding.ping_pong and frames > 1 else frames
    written *= 1 if chosen.has_loop else max(1, encoding.loop)
    limit = MAX_ANIMATION_FRAMES if chosen.has_loop else MAX_FRAMES
    if written > limit:
        raise UsageError(f"the video would have {written} frames; expected at most {limit} in {chosen.name}.")


def _notes(codec: Codec | None, width: int, height: int) -> tuple[str, ...]:
    if codec is None or not codec.needs_even or not (width % 2 or height % 2):
        return ()
    odd = " and ".join(name for name, side in (("column", width), ("row", height)) if side % 2)
    return (f"{width}x{height} repeats its last {odd}: {codec.title} in 4:2:0 needs even sizes.",)
