"""What decoding an image takes in memory, told from its headers before anything is decoded."""

from __future__ import annotations

import os
from typing import IO, cast

from PIL import Image, TiffImagePlugin

from ..errors import MediaError
from .jpeg import coefficient_bytes

# What a decoder may hold, the picture included: that of a plain format with as many pixels as are allowed.
MAX_DECODING_BYTES = 480_000_000
MAX_RUNS_BYTES = 8 * 1024**2  # of a BMP in run lengths, which Pillow decodes in Python: about two seconds
# Bytes of a pixel in Pillow; those of all other modes have four.
PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
# TIFF 6.0
BITS, SAMPLES, ROWS_PER_STRIP, PLANAR, TILE_WIDTH, TILE_ROWS = 258, 277, 278, 284, 322, 323
PROPERTIES_WITHIN = 1 << 16  # bytes of an AVIF or HEIC; where those of its pictures stand later, the worst is taken


def check_decoding(image: Image.Image, file: IO[bytes], name: str) -> None:
    """Raise MediaError where decoding takes more than MAX_DECODING_BYTES, or too long; `image` was opened from `file`.

    An image that is to be decoded smaller has its smaller size already.
    """
    if _is_decoded_by(image, "bmp_rle") and _file_bytes(file) > MAX_RUNS_BYTES:
        limit = MAX_RUNS_BYTES // 1024**2
        raise MediaError(f"{name} is a BMP in run lengths of over {limit} MiB; expected one without them, or a PNG.")
    needed = decoding_bytes(image, file, name)
    if needed <= MAX_DECODING_BYTES:
        return
    remedy = ", or a JPEG that is not progressive" if _is_jpeg(image) else ""
    raise MediaError(
        f"{name} takes {needed / 1e6:.0f} MB to decode its {image.format}; "
        f"expected an image that takes at most {MAX_DECODING_BYTES // 10**6} MB{remedy}."
    )


def decoding_bytes(image: Image.Image, file: IO[bytes], name: str) -> int:
    """The most that a decoder and its picture hold at once, beside what does not grow with the picture."""
    pixels = image.width * image.height
    picture = pixels * PIXEL_BYTES.get(image.mode, 4)
    if _is_jpeg(image):
        return picture + coefficient_bytes(file, name)
    if image.format == "TIFF":
        return picture + _tiff_bytes(cast(TiffImagePlugin.TiffImageFile, image), file)
    if image.format in ("AVIF", "HEIF"):
        return _still_video_bytes(image, file)
    return picture


def _is_jpeg(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO")


def _is_decoded_by(image: Image.Image, codec: str) -> bool:
    return any(tile.codec_name == codec for tile in getattr(image, "tile", ()))


def _tiff_bytes(image: TiffImagePlugin.TiffImageFile, file: IO[bytes]) -> int:
    # libtiff maps the whole file, and decodes a strip or a tile at a time, which may be the whole picture.
    if not _is_decoded_by(image, "libtiff"):
        return 0
    tags = image.tag_v2
    bits, planes = tags.get(BITS, (1,)), 1 if tags.get(PLANAR, 1) == 2 else tags.get(SAMPLES, 1)
    width = tags.get(TILE_WIDTH) or image.width
    rows = tags.get(TILE_ROWS) or min(tags.get(ROWS_PER_STRIP, image.height), image.height)
    return _file_bytes(file) + width * rows * planes * max(bits) // 8


def _still_video_bytes(image: Image.Image, file: IO[bytes]) -> int:
    """libavif's and libheif's: the planes of the codec, red, green and blue made of them, and Pillow's picture.

    Measured with 4 and 50 megapixels, 8 and 10 bits, 4:2:0 and 4:4:4, with and without alpha: libheif has dropped
    its planes before Pillow's picture is made, and keeps what is deeper than 8 bits in 16 until then.
    """
    channels, has_alpha = len(image.getbands()), image.mode.endswith("A")
    per_pixel, depth_bytes = _planes(file)
    planes = (per_pixel + has_alpha) * depth_bytes
    together = planes + channels + 4
    in_turn = max(planes + channels * depth_bytes, channels + 4)
    return _file_bytes(file) + int(image.width * image.height * (together if image.format == "AVIF" else in_turn))


def _planes(file: IO[bytes]) -> tuple[float, int]:
    """Values of a pixel before they become red, green and blue, and bytes of each; the most that any picture has.

    Source: AV1 in ISO-BMFF, 2.3.3 (av1C); ISO/IEC 14496-15, 8.3.3.1.2 (hvcC).
    """
    place = file.tell()
    file.seek(0)
    head = file.read(PROPERTIES_WITHIN)
    file.seek(place)
    found = [_av1_planes(box[2]) for box in head.split(b"av1C")[1:] if len(box) > 2]
    found += [_hevc_planes(box[16], box[17]) for box in head.split(b"hvcC")[1:] if len(box) > 17]
    per_pixel, depth_bytes = zip(*found, strict=True) if found else ((3.0,), (2,))
    return max(per_pixel), max(depth_bytes)


def _av1_planes(flags: int) -> tuple[float, int]:
    is_deep, is_grey, halves_columns, halves_rows = (bool(flags & 1 << bit) for bit in (6, 4, 3, 2))
    colours = 0.0 if is_grey else 2 / ((1 + halves_columns) * (1 + halves_rows))
    return 1 + colours, 1 + is_deep


def _hevc_planes(chroma: int, depth: int) -> tuple[float, int]:
    return {0: 1.0, 1: 1.5, 2: 2.0, 3: 3.0}[chroma & 3], 2 if depth & 7 else 1


def _file_bytes(file: IO[bytes]) -> int:
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(place)
    return size
