"""The outer structure of media files, read without a decoder: png chunks, gif blocks, RIFF, mp4 boxes, Matroska.

Each walk is bounded by the file's own size and by MAX_BLOCKS, and never trusts a length that the file states.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, NamedTuple

from ..errors import MediaError

MAX_BLOCKS = 1_000_000  # about a second of walking
MAX_STILL_BLOCKS = 100_000  # that Pillow may read one by one, in Python; a png of 200 MB from libpng has 25,000
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MATROSKA_SIGNATURE = b"\x1a\x45\xdf\xa3"
# The types of the first box in files of the ISO and QuickTime families.
FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}

Kind = Literal["png", "gif", "webp", "mp4", "matroska"]


class Block(NamedTuple):
    """One piece of a file: what it is, and where its content starts and ends, in bytes."""

    kind: bytes
    start: int
    end: int


class Source:
    """An open file that refuses to be read beyond its end."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        """`file` is open for reading in binary mode; `path` is named in errors."""
        self._file, self._path = file, path
        self.size = os.fstat(file.fileno()).st_size
        self._blocks = 0

    def read(self, start: int, count: int) -> bytes:
        """Exactly `count` bytes. Raises MediaError where the file ends before."""
        if start < 0 or start + count > self.size:
            raise self.damaged()
        self._file.seek(start)
        data = self._file.read(count)
        if len(data) != count:
            raise self.damaged()
        return data

    def number(self, start: int, count: int, order: Literal["big", "little"] = "big") -> int:
        """An unsigned whole number of `count` bytes."""
        return int.from_bytes(self.read(start, count), order)

    def block(self, kind: bytes, start: int, end: int, limit: int) -> Block:
        """A block that ends within `limit`. Raises MediaError where it does not, and after MAX_BLOCKS of them."""
        if not start <= end <= limit:
            raise self.damaged()
        self.count(1)
        return Block(kind, start, end)

    def count(self, blocks: int) -> None:
        """Count what has been walked. Raises MediaError after MAX_BLOCKS."""
        self._blocks += blocks
        if self._blocks > MAX_BLOCKS:
            raise self.damaged()

    def refused(self, found: str, expected: str) -> MediaError:
        """The error for a whole file that is not what was asked for."""
        return MediaError(f"{self._path} {found}; expected {expected}.")

    def damaged(self) -> MediaError:
        """The error for a file whose structure is broken."""
        return self.refused("is damaged or was cut off", "a whole file")


def kind_of(source: Source) -> Kind | None:
    """The family of a file by its first bytes; None for another one."""
    head = source.read(0, min(16, source.size))
    if head.startswith(PNG_SIGNATURE):
        return "png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head.startswith(MATROSKA_SIGNATURE):
        return "matroska"
    return "mp4" if head[4:8] in FIRST_BOXES else None


def png_chunks(source: Source) -> Iterator[Block]:
    """The chunks of a png up to its end. Source: PNG specification, third edition, section 5.3."""
    place, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        head = source.read(place, 8)  # at once, as a file may have a million of them
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        yield source.block(kind, place + 8, place + 8 + size, source.size - 4)
        place += size + 12


def riff_chunks(source: Source, start: int, end: int) -> Iterator[Block]:
    """The chunks of RIFF between two places; each is padded to an even length."""
    while start < end:
        kind, size = source.read(start, 4), source.number(start + 4, 4, "little")
        yield source.block(kind, start + 8, start + 8 + size, end)
        start += 8 + size + size % 2


def webp_chunks(source: Source) -> Iterator[Block]:
    """The chunks of a webp file, an animation's frames among them. Source: RFC 9649."""
    end = 8 + source.number(4, 4, "little")
    if end > source.size:
        raise source.damaged()
    return riff_chunks(source, 12, end)


def gif_blocks(source: Source) -> Iterator[Block]:
    """The blocks of a gif up to its end: b"\\x2c" a picture, b"\\x21" and a label an extension. Source: GIF89a.

    A block starts with its first sub-block, a picture with its descriptor.
    """
    place = 13 + _colours(source.number(10, 1))
    while (kind := source.read(place, 1)) != b"\x3b":
        if kind == b"\x21":
            kind, start = source.read(place, 2), place + 2
            place = _after_sub_blocks(source, start)
        elif kind == b"\x2c":
            start = place + 1
            place = _after_sub_blocks(source, place + 11 + _colours(source.number(place + 9, 1)))
        else:
            raise source.damaged()
        yield source.block(kind, start, place, source.size)


def check_few_blocks(file: IO[bytes], name: str) -> None:
    """Raise MediaError for a png of too many chunks, or a gif of too many pieces before its first picture.

    Any other file passes, and so does a damaged one. The file stands at its start afterwards.
    """
    file.seek(0)
    head = file.read(13)
    pieces: Iterator[None] = iter(())
    if head.startswith(PNG_SIGNATURE):
        pieces = _png_pieces(file)
    elif head.startswith((b"GIF87a", b"GIF89a")) and len(head) == 13:
        pieces = _gif_pieces(file, 13 + _colours(head[10]))
    too_many = next(itertools.islice(pieces, MAX_STILL_BLOCKS, None), False) is None
    file.seek(0)
    if too_many:
        raise MediaError(f"{name} is cut into over {MAX_STILL_BLOCKS} pieces; expected an image of at most as many.")


def _png_pieces(file: IO[bytes]) -> Iterator[None]:
    file.seek(len(PNG_SIGNATURE))
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        yield
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)


def _gif_pieces(file: IO[bytes], start: int) -> Iterator[None]:
    # Sub-blocks of extensions, and bytes that belong to nothing, which Pillow passes over.
    file.seek(start)
    while (kind := file.read(1)) not in (b"", b"\x2c", b"\x3b"):
        yield
        if kind != b"\x21":
            continue
        file.seek(1, os.SEEK_CUR)
        while (size := file.read(1)) not in (b"", b"\0"):
            yield
            file.seek(size[0], os.SEEK_CUR)


def sub_blocks(source: Source, block: Block, cap: int) -> bytes:
    """The content of a gif extension put together. Raises MediaError for more than `cap` bytes."""
    parts, place, total = [], block.start, 0
    while size := source.number(place, 1):
        total += size
        if total > cap:
            raise source.damaged()
        parts.append(source.read(place + 1, size))
        place += 1 + size
    return b"".join(parts)


def boxes(source: Source, start: int, end: int) -> Iterator[Block]:
    """The boxes of mp4 and mov between two places. Source: ISO/IEC 14496-12, section 4.2."""
    while start + 8 <= end:
        size, kind, header = source.number(start, 4), source.read(start + 4, 4), 8
        if size == 1:
            size, header = source.number(start + 8, 8), 16
        elif size == 0:
            size = end - start
        yield source.block(kind, start + header, start + size, end)
        start += size


def elements(source: Source, start: int, end: int) -> Iterator[Block]:
    """The elements of Matroska between two places; one without a size reaches to the end. Source: RFC 8794."""
    while start < end:
        first = source.number(start, 1)
        length = 9 - first.bit_length()
        if length > 4:
            raise source.damaged()
        kind, place = source.read(start, length), start + length
        first = source.number(place, 1)
        length = 9 - first.bit_length()
        size = source.number(place, min(length, 8)) & ((1 << 7 * length) - 1)
        if length > 8:
            raise source.damaged()
        place += length
        is_unknown = size == (1 << 7 * length) - 1
        yield source.block(kind, place, end if is_unknown else place + size, end)
        start = end if is_unknown else place + size


def _colours(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_sub_blocks(source: Source, place: int) -> int:
    while size := source.read(place, 1)[0]:
        source.count(1)
        place += 1 + size
    return place + 1
