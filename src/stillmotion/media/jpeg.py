"""What stands before the pixels of a JPEG: how much EXIF, and whether its decoder must hold the whole picture.

Source: ITU-T T.81, B.1 and B.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import IO

from ..errors import MediaError

MAX_EXIF_BYTES = 1024**2  # in all its segments; Pillow joins them one by one, in quadratic time
MAX_SEGMENTS = 10_000  # a colour profile of 16 MB has 255
MAX_STRAY_BYTES = 1 << 16  # between segments, where there should be none; Pillow passes over them one by one
START, EXIF = b"\xff\xd8", b"Exif\0\0"
APP1, SCAN, END = 0xE1, 0xDA, 0xD9
# Starts of frames: the range holds three markers that are something else, DHT, JPG and DAC.
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
# Markers without a length: a zero after 255, TEM, RST0 to RST7, SOI.
ALONE = {0x00, 0x01, *range(0xD0, 0xD9)}
BLOCK = 8
BLOCK_BYTES = 2 * BLOCK * BLOCK  # libjpeg keeps a coefficient in two


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """A marker and what follows it, without its length: its size, and its first bytes, at most 64."""

    marker: int
    size: int
    head: bytes


def check_segments(file: IO[bytes], name: str) -> None:
    """Raise MediaError for more EXIF, more segments or more strays than those limits; any other file passes."""
    exif_bytes = 0
    for count, segment in enumerate(_segments(file, name)):
        if segment.marker == APP1 and segment.head.startswith(EXIF):
            exif_bytes += segment.size
        if exif_bytes > MAX_EXIF_BYTES:
            limit = MAX_EXIF_BYTES // 1024
            raise MediaError(f"{name} has over {limit} KiB of EXIF; expected an image of at most {limit} KiB.")
        if count >= MAX_SEGMENTS:
            raise MediaError(f"{name} has over {MAX_SEGMENTS} segments before its pixels; expected at most that.")


def coefficient_bytes(file: IO[bytes], name: str) -> int:
    """What libjpeg keeps of the whole picture while it decodes, at whatever scale: nothing for one plain scan.

    Where several scans make the picture, progressive or not, it is the coefficients of all of them.
    """
    frame = None
    for segment in _segments(file, name):
        if segment.marker in FRAMES:
            frame = segment
        if segment.marker == SCAN and frame is not None:
            components = frame.head[5] if len(frame.head) > 5 else 0
            is_whole = frame.marker not in PROGRESSIVE and segment.head[:1] == bytes([components])
            return 0 if is_whole else _all_blocks(frame.head) * BLOCK_BYTES
    return 0


def _all_blocks(frame: bytes) -> int:
    # Precision, rows, columns, and of each component its name, its share of columns and rows, its table.
    rows, columns = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    shares = [(each >> 4 or 1, each & 15 or 1) for each in frame[7 : 6 + 3 * frame[5] : 3]]
    across, down = (max(side) for side in zip(*shares, strict=True)) if shares else (1, 1)
    units = -(-columns // (BLOCK * across)) * -(-rows // (BLOCK * down))
    return units * sum(x * y for x, y in shares)


def _segments(file: IO[bytes], name: str) -> Iterator[Segment]:
    """Those up to the first scan, which is the last; none of another file. The file stands at its start afterwards."""
    file.seek(0)
    try:
        strays = 0
        at_marker = file.read(2) == START
        while at_marker and (byte := file.read(1)):
            if byte != b"\xff":
                strays += 1
                if strays > MAX_STRAY_BYTES:
                    raise MediaError(f"{name} has over {strays - 1} bytes that belong to nothing; expected a JPEG.")
                continue
            while byte == b"\xff":
                byte = file.read(1)
            if not byte or byte[0] in ALONE:
                strays += 2
                continue
            size = max(0, int.from_bytes(file.read(2), "big") - 2)
            start = file.tell()
            yield Segment(byte[0], size, file.read(min(size, 64)))
            if byte[0] in (SCAN, END):
                return
            file.seek(start + size)
    finally:
        file.seek(0)
