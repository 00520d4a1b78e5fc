"""Frames to gif, animated webp and apng, and to folders of pngs.

Pillow compresses each picture; the files are put together here, for Pillow's own writers drop frames that repeat and
round their times.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .blocks import PNG_SIGNATURE
from .document import DOCUMENT_KEY, GIF_PREFIX, SIDECAR, as_xmp
from .formats import Encoding

RATE_KEY = "play_fps"  # of the text in each picture of a folder: a whole number or a fraction of two
PALETTE_SAMPLES = 200_000  # pixels that a palette is made from; more changes nothing that can be seen
TRANSPARENT = 255  # the index of a gif that shows what was there before


def write_gif(
    path: Path,
    frames: UInt8[np.ndarray, "t h w 3"],
    order: Sequence[int],
    rate: Fraction,
    loop: int,
    document: str | None,
) -> None:
    """Write a gif of one palette for all frames. Source: GIF89a, and Netscape's extension for `loop`."""
    _, height, width, _ = frames.shape
    palette = _palette(frames)
    colours = bytes(palette.getpalette() or ()).ljust(768, b"\0")
    with path.open("wb") as file:
        file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0) + colours)
        if loop != 1:  # without the extension it plays once; n in it are n repeats
            file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", max(0, loop - 1)) + b"\0")
        if document is not None:
            file.write(b"\x21\xfe" + _sub_blocks(GIF_PREFIX + document.encode()))
        before: np.ndarray | None = None
        for number, hundredths in zip(order, durations(len(order), rate, 100), strict=True):
            indices = np.asarray(Image.fromarray(frames[number]).quantize(palette=palette))
            shown = indices if before is None else np.where(indices == before, np.uint8(TRANSPARENT), indices)
            # Disposal 1 leaves the frame in place; the transparent index lets it shine through.
            file.write(b"\x21\xf9\x04" + struct.pack("<BHBB", 4 + (before is not None), hundredths, TRANSPARENT, 0))
            file.write(_gif_picture(shown))
            before = indices
        file.write(b"\x3b")


def write_webp(
    path: Path,
    frames: UInt8[np.ndarray, "t h w 3"],
    order: Sequence[int],
    rate: Fraction,
    encoding: Encoding,
    document: str | None,
) -> None:
    """Write an animated webp, lossless at quality 100. Source: RFC 9649, section 2.7."""
    _, height, width, _ = frames.shape
    size = _three_bytes(width - 1) + _three_bytes(height - 1)
    xmp = b"" if document is None else as_xmp(document)
    with path.open("wb") as file:
        file.write(b"RIFF\0\0\0\0WEBP")
        _write_riff(file, b"VP8X", struct.pack("<I", 0x02 | (0x04 if xmp else 0)) + size)
        _write_riff(file, b"ANIM", struct.pack("<IH", 0xFFFFFFFF, encoding.loop))
        for number, milliseconds in zip(order, durations(len(order), rate, 1000), strict=True):
            # Flags 2: the frame replaces what is under it.
            head = bytes(6) + size + _three_bytes(milliseconds) + b"\x02"
            _write_riff(file, b"ANMF", head + _webp_picture(frames[number], encoding.quality))
        if xmp:
            _write_riff(file, b"XMP ", xmp)
        length = file.tell() - 8
        file.seek(4)
        file.write(struct.pack("<I", length))


def write_apng(
    path: Path,
    frames: UInt8[np.ndarray, "t h w 3"],
    order: Sequence[int],
    rate: Fraction,
    loop: int,
    document: str | None,
) -> None:
    """Write an animated png. Source: PNG specification, third edition, sections 11.3.2 to 11.3.4."""
    _, height, width, _ = frames.shape
    delay = _short_fraction(1 / rate)
    with path.open("wb") as file:
        file.write(PNG_SIGNATURE)
        _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        _write_chunk(file, b"acTL", struct.pack(">II", len(order), loop))
        _write_chunk(file, b"sRGB", b"\0")
        if document is not None:
            _write_chunk(file, b"iTXt", DOCUMENT_KEY.encode() + bytes(5) + document.encode())
        sequence = 0
        for place, number in enumerate(order):
            control = struct.pack(">IIIIIHHBB", sequence, width, height, 0, 0, delay.numerator, delay.denominator, 0, 0)
            _write_chunk(file, b"fcTL", control)
            data = _png_data(frames[number])
            if place:
                _write_chunk(file, b"fdAT", struct.pack(">I", sequence + 1) + data)
            else:
                _write_chunk(file, b"IDAT", data)
            sequence += 2 if place else 1
        _write_chunk(file, b"IEND", b"")


def write_pictures(
    folder: Path, frames: UInt8[np.ndarray, "t h w 3"], order: Sequence[int], rate: Fraction, document: str | None
) -> None:
    """Make `folder` and write 00000.png, 00001.png, ... into it, the document beside them in SIDECAR."""
    folder.mkdir()
    text = PngInfo()
    text.add_text(RATE_KEY, str(rate))
    for place, number in enumerate(order):
        Image.fromarray(frames[number]).save(folder / f"{place:05d}.png", format="PNG", pnginfo=text)
    if document is not None:
        (folder / SIDECAR).write_bytes(document.encode())


def durations(count: int, rate: Fraction, unit: int) -> Iterator[int]:
    """How long each of `count` frames stays, in 1/unit seconds, so that no time is off by more than half of one."""
    ends = [round(number * unit / rate) for number in range(count + 1)]
    return (end - start for start, end in itertools.pairwise(ends))


def _palette(frames: UInt8[np.ndarray, "t h w 3"]) -> Image.Image:
    pixels = frames.reshape(-1, 3)
    step = max(1, len(pixels) // PALETTE_SAMPLES)
    sample = np.ascontiguousarray(pixels[::step])[None]
    return Image.fromarray(sample).quantize(TRANSPARENT, Image.Quantize.MEDIANCUT, kmeans=1)


def _gif_picture(indices: UInt8[np.ndarray, "h w"]) -> bytes:
    height, width = indices.shape
    made = io.BytesIO()
    picture = Image.fromarray(indices, mode="P")
    picture.putpalette(bytes(768))
    picture.save(made, format="GIF", optimize=False, interlace=0)
    data = made.getvalue()
    start = data.index(b"\x2c" + struct.pack("<HHHH", 0, 0, width, height))
    return data[start:-1]


def _webp_picture(pixels: UInt8[np.ndarray, "h w 3"], quality: int) -> bytes:
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, format="WEBP", quality=quality, lossless=quality == 100, method=4)
    return made.getvalue()[12:]


def _png_data(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, format="PNG")
    data, place, parts = made.getvalue(), len(PNG_SIGNATURE), []
    while place < len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        parts += [data[place + 8 : place + 8 + size]] if kind == b"IDAT" else []
        place += size + 12
    return b"".join(parts)


def _sub_blocks(data: bytes) -> bytes:
    pieces = (data[place : place + 255] for place in range(0, len(data), 255))
    return b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"


def _three_bytes(value: int) -> bytes:
    return value.to_bytes(3, "little")


def _write_riff(file: IO[bytes], kind: bytes, data: bytes) -> None:
    file.write(kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2))


def _write_chunk(file: IO[bytes], kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def _short_fraction(value: Fraction) -> Fraction:
    """The nearest fraction whose two numbers have 16 bits."""
    limit = 65535
    return value.limit_denominator(min(limit, int(limit / max(value, 1))))
