"""Frames from gif, animated webp, apng and folders of pngs, with their true times."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ..errors import MediaError
from .animation import RATE_KEY
from .blocks import Kind, Source, gif_blocks, png_chunks, webp_chunks
from .colour import over_white
from .formats import MAX_ANIMATION_FRAMES, MAX_FPS, MAX_FRAMES, MAX_VIDEO_PIXELS
from .images import DECODER_ERRORS, read_image

MAX_ANIMATION_BYTES = 2 * 1024**3  # of decoded frames
FOLDER_FPS = Fraction(25)  # FFmpeg's rate for pictures that do not say theirs
# What browsers make of a frame that asks for hardly any time.
TOO_SHORT_S, INSTEAD_S = Fraction(1, 100), Fraction(1, 10)
_WARNINGS_LOCK = threading.Lock()  # warnings.catch_warnings changes the whole process

PILLOW_FORMATS: dict[Kind, str] = {"gif": "GIF", "webp": "WEBP", "png": "PNG"}


def read_animation(path: Path, kind: Kind, max_frames: int | None) -> tuple[UInt8[np.ndarray, "t h w 3"], float]:
    """The frames and the mean rate in frames a second of a gif, webp or apng, transparency over white.

    Raises MediaError for a still picture, a damaged file, and, before anything is decoded, for more than
    MAX_ANIMATION_FRAMES or MAX_ANIMATION_BYTES.
    """
    with path.open("rb") as file:
        source = Source(file, path)
        times, first = TIMES[kind](source)
    wanted = len(times) if max_frames is None else min(max_frames, len(times))
    try:
        with _WARNINGS_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each announces the error that follows
            return _decode(path, PILLOW_FORMATS[kind], range(first, first + wanted)), _rate(times)
    except DECODER_ERRORS as error:
        raise MediaError(
            f"{path} cannot be decoded: {str(error).rstrip('.') or 'bad data'}; expected a whole file."
        ) from None


def read_pictures(folder: Path, max_frames: int | None) -> tuple[UInt8[np.ndarray, "t h w 3"], float]:
    """The pngs of a folder in the order of their names, and their rate, FOLDER_FPS where they do not say it.

    Raises MediaError for a folder without pngs, for pictures of several sizes, and for more than MAX_FRAMES.
    """
    names = sorted(each.name for each in folder.iterdir() if each.suffix.lower() == ".png" and each.name[0] != ".")
    if not names:
        raise MediaError(f"{folder} is a folder without pngs; expected a video, or numbered pngs.")
    if len(names) > MAX_FRAMES:
        raise MediaError(f"{folder} holds {len(names)} pngs; expected at most {MAX_FRAMES}.")
    frames: list[np.ndarray] = []
    for name in names[:max_frames]:
        frames.append(np.asarray(read_image(folder / name)))
        if frames[-1].shape != frames[0].shape:
            sizes = " and ".join(f"{each.shape[1]}x{each.shape[0]}" for each in (frames[0], frames[-1]))
            raise MediaError(f"{folder} holds pngs of {sizes}; expected one size.")
        check_bytes(folder, frames[0].nbytes * len(frames))
    return np.stack(frames), float(_folder_rate(folder / names[0]))


def check_bytes(path: Path, count: int) -> None:
    """Raise MediaError for more decoded bytes than MAX_ANIMATION_BYTES."""
    if count > MAX_ANIMATION_BYTES:
        limit = MAX_ANIMATION_BYTES // 1024**3
        raise MediaError(f"{path} decodes to more than {limit} GiB; expected fewer frames, or max_frames.")


def _decode(path: Path, kind: str, wanted: range) -> UInt8[np.ndarray, "t h w 3"]:
    with Image.open(path, formats=(kind,)) as image:
        width, height = image.size
        if width * height > MAX_VIDEO_PIXELS:
            limit = MAX_VIDEO_PIXELS / 10**6
            raise MediaError(f"{path} has {width}x{height} pixels; expected at most {limit:.1f} megapixels.")
        check_bytes(path, width * height * 3 * len(wanted))
        frames = np.empty((len(wanted), height, width, 3), np.uint8)
        for place, number in enumerate(wanted):
            image.seek(number)
            frames[place] = over_white(image)
    return frames


def _rate(times: list[Fraction]) -> float:
    return float(len(times) / sum(INSTEAD_S if each <= TOO_SHORT_S else each for each in times))


def _gif_times(source: Source) -> tuple[list[Fraction], int]:
    times: list[Fraction] = []
    delay = Fraction(0)
    for block in gif_blocks(source):
        if block.kind == b"\x21\xf9" and block.end - block.start >= 5:
            delay = Fraction(source.number(block.start + 2, 2, "little"), 100)
        elif block.kind == b"\x2c":
            times.append(delay)
            delay = Fraction(0)
            _check_count(source, len(times))
    return _some(source, times), 0


def _webp_times(source: Source) -> tuple[list[Fraction], int]:
    times: list[Fraction] = []
    for chunk in webp_chunks(source):
        if chunk.kind == b"ANMF":
            times.append(Fraction(source.number(chunk.start + 12, 3, "little"), 1000))
            _check_count(source, len(times))
    return _some(source, times), 0


def _apng_times(source: Source) -> tuple[list[Fraction], int]:
    """The times, and 1 where a still picture for other programs stands before the first frame."""
    times: list[Fraction] = []
    claimed, first = 0, 0
    for chunk in png_chunks(source):
        if chunk.kind == b"acTL":
            claimed = source.number(chunk.start, 4)
            _check_count(source, claimed)
        elif chunk.kind == b"IDAT" and not times:
            first = 1
        elif chunk.kind == b"fcTL":
            above, below = source.number(chunk.start + 20, 2), source.number(chunk.start + 22, 2)
            times.append(Fraction(above, below or 100))  # 0 below means 100: PNG specification, 11.3.3
            _check_count(source, len(times))
    if claimed != len(times):
        raise source.damaged()
    return _some(source, times), first


def _check_count(source: Source, count: int) -> None:
    if count > MAX_ANIMATION_FRAMES:
        raise source.refused(f"has {count} frames or more", f"at most {MAX_ANIMATION_FRAMES}")


def _some(source: Source, times: list[Fraction]) -> list[Fraction]:
    if not times:
        raise source.refused("is a still picture", "a video or an animation")
    return times


def _folder_rate(path: Path) -> Fraction:
    key = RATE_KEY.encode() + b"\0"
    with path.open("rb") as file:
        source = Source(file, path)
        for text in _texts(source):
            if text.startswith(key):
                return _parsed_rate(text[len(key) :].decode("latin-1"), source)
    return FOLDER_FPS


def _texts(source: Source) -> Iterator[bytes]:
    for chunk in png_chunks(source):
        if chunk.kind == b"tEXt" and chunk.end - chunk.start < 64:
            yield source.read(chunk.start, chunk.end - chunk.start)


def _parsed_rate(text: str, source: Source) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise source.damaged() from None
    if not 0 < rate <= MAX_FPS:
        raise source.damaged()
    return rate


TIMES = {"gif": _gif_times, "webp": _webp_times, "png": _apng_times}
