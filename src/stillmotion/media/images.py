"""Images: any file or open image to upright sRGB."""

from __future__ import annotations

import glob
import importlib
import os
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Float32
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageColor

from ..errors import MediaError, UsageError
from ..files import atomic_path
from .blocks import Source, check_few_blocks, png_chunks
from .decoding import check_decoding
from .jpeg import check_segments

MAX_FILE_BYTES = 256 * 1024**2  # a 100-megapixel photo as an 8-bit png is about 200 MiB
MAX_EXIF_BYTES = 1024**2
MAX_PIXELS = 120_000_000  # the 100-megapixel sensors of cameras and phones, with a margin
# Formats whose decoders hold several copies of the whole picture.
MAX_PIXELS_OF = {"WEBP": 30_000_000, "AVIF": 50_000_000, "HEIF": 50_000_000}
MAX_SCANS = 100  # of a progressive JPEG, each of which passes over the whole picture; encoders write about ten
REDUCED_FROM = 16_000_000  # pixels; below, an image is kept whole whatever size is asked for
BAND_PIXELS = 1 << 20
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".heic", ".heif"),
    *(".gif", ".bmp", ".dib", ".tif", ".tiff", ".mpo"),
)
# Pillow opens some sixty formats; those left out run other programs (EPS), or are old code that few people use.
# An MPO, several JPEGs in one file, is found by the JPEG decoder.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
EXPECTED = "expected a whole " + ", ".join(FORMATS) + " or HEIC image"
# ISO/IEC 23008-12, annex B: brands of HEVC-coded images, and the general ones, which AVIF has as well.
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
GENERAL_BRANDS = {b"mif1", b"mif2", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}

WHITE = "white"

# What Pillow's decoders raise on damaged bytes, beside OSError; they warn too, which a caller may have made an error.
DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, AttributeError, AssertionError),
    *(ArithmeticError, RuntimeError, MemoryError, struct.error, Image.DecompressionBombError, UserWarning),
)
# EXIF 2.32, tag 0x0112, to the turn that makes it upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (TURNS[5], TURNS[6], TURNS[7], TURNS[8])
# Pillow scales the pixels of such grey images to 8 bits, and leaves their transparent value as the file has it.
KEY_SCALES = {"L;2": 85, "L;4": 17}
_OPEN_LOCK = threading.Lock()  # warnings.catch_warnings changes the whole process


def read_image(path: Path, at_least: tuple[int, int] | None = None, background: str = WHITE) -> Image.Image:
    """Read an image file as upright sRGB, mode "RGB"; the first picture of a file that has several.

    The bytes choose the decoder, not the suffix. `background`, a colour for `colour_of`, is what shows through. The
    rest is as in `upright_rgb`.

    With `at_least` (width, height in pixels, of the upright image) a larger picture is read smaller, and no side
    smaller than that: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, and what then has more than REDUCED_FROM
    pixels is averaged to a whole fraction, at least twice `at_least`. Raises UsageError for another colour, MediaError
    for a missing, damaged, truncated or unknown file, and, before decoding anything, for one of more than
    MAX_FILE_BYTES, of more pixels than its format may have, MAX_PIXELS_OF or else MAX_PIXELS, or whose decoder takes
    more than decoding.MAX_DECODING_BYTES.
    """
    path = Path(path)
    try:
        with image_file(path) as file:
            return read_image_file(file, str(path), at_least, background)
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror or error}; {EXPECTED}.") from None


def read_image_file(
    file: IO[bytes], name: str, at_least: tuple[int, int] | None = None, background: str = WHITE
) -> Image.Image:
    """What `read_image` does, of an open file; `name` is what the errors call it."""
    colour = colour_of(background)
    try:
        with open_image(file, name) as image:
            if at_least is not None and image.format in ("JPEG", "MPO"):
                image.draft(None, (at_least[1], at_least[0]) if _orientation(image) >= 5 else at_least)
            check_decoding(image, file, name)
            flat, turn = _flat(image, colour, at_least)
        return flat if turn is None else flat.transpose(turn)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter where warnings are errors
        raise MediaError(f"{name} is too large; expected at most {MAX_PIXELS // 10**6} megapixels.") from None
    except DECODER_ERRORS as error:
        raise MediaError(f"{name} cannot be decoded: {reason_of(error)}; {EXPECTED}.") from None


def upright_size(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels of an image file, turned upright, from its header; None where it is no image.

    Also for a file beyond MAX_FILE_BYTES, which can only be a video. Raises MediaError for something else than a file.
    """
    path = Path(path)
    check_is_file(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return None
        with path.open("rb") as file, open_image(file, str(path)) as image:
            # Pillow gives the size that a TIFF has once it is turned, and the decoder turns HEIF.
            is_turned = image.format in ("TIFF", "HEIF") or orientation_in_header(image, file, path) < 5
            return image.size if is_turned else (image.height, image.width)
    except DECODER_ERRORS:
        return None


def upright_rgb(image: Image.Image, background: str = WHITE) -> Image.Image:
    """The image turned as its EXIF orientation says, in sRGB, over `background` where it is transparent, as mode "RGB".

    The colours are converted before they are laid over the background, which is an sRGB colour. A 16-bit image is
    scaled by 255/65535. In mode I the white point is 65535, or 2^31 - 1 if any value is larger; in mode F it is the
    first of 1, 255 and 65535 that no value exceeds, or else the largest value. An ICC profile that is damaged, or made
    for other channels than the image has, is ignored. Metadata is not kept: it describes the image before this
    function. Raises UsageError for another colour, MediaError if the image cannot be decoded, or its mode has no way
    to RGB.
    """
    colour = colour_of(background)
    try:
        flat, turn = _flat(image, colour, None)
        return flat if turn is None else flat.transpose(turn)
    except DECODER_ERRORS as error:
        raise MediaError(f"the image of mode {image.mode} cannot be decoded: {reason_of(error)}; {EXPECTED}.") from None


def colour_of(text: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a colour's name or #rrggbb. Raises UsageError for anything else.

    Names and forms are those of CSS as Pillow's ImageColor reads them, without those that have an alpha of their own.
    """
    try:
        found = ImageColor.getrgb(text)
    except (ValueError, TypeError, AttributeError):
        found = ()
    if len(found) != 3 or not all(0 <= value <= 255 for value in found):
        raise UsageError(f"the colour is {text!r}; expected a name such as white, or #rrggbb.")
    return found


def find_images(source: str | os.PathLike[str], suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The image files that `source` means: a file, the images directly in a folder, or those that a glob matches.

    A file is taken whatever its suffix; in folders and globs only those in `suffixes` count, in any case, and hidden
    files do not. Sorted by name. Raises UsageError where nothing is found.
    """
    source = os.fspath(source)
    try:
        candidates, place = _candidates(source)
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}; expected an image, a folder or a glob.") from None
    found = [each for each in candidates if place is None or _has_suffix(each, suffixes)]
    if not found:
        raise UsageError(f"{place} holds no image; expected a file that ends with {', '.join(suffixes)}.")
    return found


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG that is whole or absent. Raises StillmotionError where it cannot be written."""
    with atomic_path(Path(path)) as temporary:
        try:
            image.save(temporary, format="PNG")
        except OSError as error:
            if error.errno is not None:
                raise
            raise MediaError(f"{path} cannot hold an image of mode {image.mode}; expected RGB.") from None


def image_file(path: Path) -> IO[bytes]:
    """An open file of at most MAX_FILE_BYTES. Raises MediaError for something else than a file, OSError."""
    check_is_file(path)
    check_bytes(path.stat().st_size, str(path))
    return path.open("rb")


def check_is_file(path: Path) -> None:
    """Raise MediaError unless it is one that can be looked up."""
    try:
        if path.is_file():
            return
        kind = "is not a file" if path.exists() else "does not exist"
    except (OSError, ValueError) as error:
        kind = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise MediaError(f"{path} {kind}; expected an image file.")


def check_bytes(size: int, name: str) -> None:
    """Raise MediaError for more than MAX_FILE_BYTES."""
    if size > MAX_FILE_BYTES:
        limit = MAX_FILE_BYTES // 1024**2
        raise MediaError(f"{name} has {size / 1024**2:.0f} MiB; expected an image of at most {limit} MiB.")


def open_image(file: IO[bytes], name: str) -> Image.Image:
    """The image of an open file, of a size that may be decoded, and nothing decoded yet.

    Raises MediaError for one that is too large, or needs a package that is missing, and DECODER_ERRORS.
    """
    check_segments(file, name)
    check_few_blocks(file, name)
    _check_webp(file, name)
    # Pillow warns from 89 megapixels on, which photos of 100 have: MAX_PIXELS is checked instead. Its other warnings
    # here announce the error that follows.
    with _OPEN_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open_heic(file, name) if _is_heic(file) else Image.open(file, formats=FORMATS)
    _check_pixels(image.size, str(image.format), name)
    if "progressive" in image.info:
        _check_scans(file, name)
    return image


def _check_pixels(size: tuple[int, int], kind: str, name: str) -> None:
    limit = MAX_PIXELS_OF.get(kind, MAX_PIXELS)
    if size[0] * size[1] > limit:
        raise MediaError(f"{name} has {size[0]}x{size[1]} pixels; expected at most {limit // 10**6} megapixels.")


def _check_webp(file: IO[bytes], name: str) -> None:
    # Pillow sets up two whole canvases as it opens a WebP. Source: RFC 9649, sections 2.5 to 2.7, and RFC 6386, 9.1.
    head = file.read(30)
    file.seek(0)
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return
    if head[12:16] == b"VP8X":
        size = 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        size = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        size = int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    _check_pixels(size, "WEBP", name)


def _is_heic(file: IO[bytes]) -> bool:
    # The first box of ISO/IEC 14496-12: size, "ftyp", brand, version, compatible brands.
    start = file.read(64)
    file.seek(0)
    if start[4:8] != b"ftyp":
        return False
    box = start[: max(16, int.from_bytes(start[:4], "big"))]
    brands = {box[8:12], *(box[place : place + 4] for place in range(16, len(box), 4))}
    return bool(brands & HEIC_BRANDS) or (box[8:12] in GENERAL_BRANDS and not brands & AVIF_BRANDS)


def _open_heic(file: IO[bytes], name: str) -> Image.Image:
    try:
        plugin = importlib.import_module("pillow_heif.as_plugin")
    except ImportError:
        raise MediaError(
            f"{name} is a HEIC image, which needs the package pillow-heif; expected it from stillmotion[heic]."
        ) from None
    return plugin.HeifImageFile(file)


def _check_scans(file: IO[bytes], name: str) -> None:
    # A marker's two bytes cannot stand inside a scan, where 255 is followed by 0 (ITU-T T.81, B.1.1.5).
    place = file.tell()
    file.seek(0)
    scans = sum(block.count(b"\xff\xda") for block in iter(lambda: file.read(1 << 20), b""))
    file.seek(place)
    if scans > MAX_SCANS:
        raise MediaError(f"{name} has {scans} passes over its pixels; expected a JPEG of at most {MAX_SCANS}.")


def reason_of(error: BaseException) -> str:
    """What one of DECODER_ERRORS says, as a part of a sentence."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "its bytes are not those of an image"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _orientation(image: Image.Image) -> int:
    if image.format == "HEIF":
        return 1  # turned by its decoder: the container has a property for that (ISO/IEC 23008-12), which EXIF repeats
    try:
        if image.format == "PNG" and "Raw profile type exif" not in image.info:
            exif = Image.Exif()
            exif.load(
                image.info.get("exif", b"")
            )  # alone: of XMP, where Pillow looks too, the PNG standard knows nothing
        else:
            exif = image.getexif()
        value = exif.get(0x0112, 1)
    except DECODER_ERRORS:
        return 1  # damaged EXIF says nothing about the pixels
    return value if value in range(1, 9) else 1


def orientation_in_header(image: Image.Image, file: IO[bytes], path: Path) -> int:
    """The EXIF orientation, 1 to 8, of an image that was opened from `file`, without decoding it."""
    try:
        # Pillow decodes a whole png to see whether its EXIF stands behind the pixels.
        is_in_chunk = image.format == "PNG" and "Raw profile type exif" not in image.info
        exif = _png_exif(file, path) if is_in_chunk else image.getexif()
        value = exif.get(ExifTags.Base.Orientation, 1)
    except (*DECODER_ERRORS, MediaError):
        return 1  # damaged EXIF says nothing about the pixels
    return value if value in range(1, 9) else 1


def _png_exif(file: IO[bytes], path: Path) -> Image.Exif:
    source, exif = Source(file, path), Image.Exif()
    for chunk in png_chunks(source):
        if chunk.kind == b"eXIf" and chunk.end - chunk.start <= MAX_EXIF_BYTES:
            exif.load(b"Exif\0\0" + source.read(chunk.start, chunk.end - chunk.start))
    return exif


def _raw_mode(image: Image.Image) -> str:
    # How the file stores the pixels that are not decoded yet.
    tiles = getattr(image, "tile", [])
    return str(tiles[0].args) if tiles else ""


def _flat(
    image: Image.Image, background: tuple[int, int, int], at_least: tuple[int, int] | None
) -> tuple[Image.Image, Image.Transpose | None]:
    # The pixels as stored, opaque and in sRGB, and the turn that they still need. Band by band: beside the image, only
    # the result takes memory.
    scale = KEY_SCALES.get(_raw_mode(image), 1)
    image.load()  # first, for a TIFF is turned while it loads and loses its tag
    turn = TURNS.get(_orientation(image))
    factor = _reduction(image.size, at_least, turn)
    to_eight_bit = _eight_bit_converter(image, scale)
    to_srgb = _srgb_converter(to_eight_bit(image.crop((0, 0, 1, 1))).mode, image.info.get("icc_profile"))
    result = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for top, band in _bands(image, factor):
        result.paste(_opaque(to_eight_bit(band), to_srgb, background).reduce(factor), (0, top // factor))
    return result, turn


def _bands(image: Image.Image, multiple_of: int = 1) -> Iterator[tuple[int, Image.Image]]:
    rows = max(1, BAND_PIXELS // (image.width * multiple_of)) * multiple_of
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _reduction(size: tuple[int, int], at_least: tuple[int, int] | None, turn: Image.Transpose | None) -> int:
    if at_least is None or size[0] * size[1] <= REDUCED_FROM:
        return 1
    wanted = at_least[::-1] if turn in SIDEWAYS else at_least
    return max(1, min(size[0] // (2 * max(1, wanted[0])), size[1] // (2 * max(1, wanted[1]))))


def _opaque(
    plain: Image.Image, to_srgb: Callable[[Image.Image], Image.Image], background: tuple[int, int, int]
) -> Image.Image:
    if plain.mode not in ("RGBA", "LA"):
        return to_srgb(plain)
    result = Image.new("RGB", plain.size, background)
    result.paste(to_srgb(plain.convert({"RGBA": "RGB", "LA": "L"}[plain.mode])), mask=plain.getchannel("A"))
    return result


def _eight_bit_converter(image: Image.Image, key_scale: int) -> Callable[[Image.Image], Image.Image]:
    # Palettes and transparent colours become channels, deep greys L: modes RGB, RGBA, L, LA and CMYK are left.
    if image.mode.startswith("I") or image.mode == "F":
        white = _white_point(image)
        return lambda band: _deep_grey(band, white)
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        return ImageChops.invert  # Pillow takes every such JPEG for one of Adobe's, which store 255 - ink
    return lambda band: _eight_bit(band, key_scale)


def _eight_bit(image: Image.Image, key_scale: int) -> Image.Image:
    key = image.info.get("transparency")
    if image.mode in ("1", "L") and key is not None:
        return _with_key(image.convert("L"), key * key_scale)
    if image.mode == "RGB" and isinstance(key, tuple):
        # The key of a 16-bit file has 16 bits, its pixels the upper 8.
        image.info["transparency"] = tuple(value >> 8 for value in key) if max(key) > 255 else key
    if image.mode in ("P", "PA", "RGBa") or key is not None:
        return image.convert("RGBA")
    if image.mode in ("RGB", "RGBA", "L", "LA", "CMYK"):
        return image
    return image.convert({"1": "L", "La": "LA"}.get(image.mode, "RGB"))


def _with_key(grey: Image.Image, key: int) -> Image.Image:
    return Image.merge("LA", (grey, grey.point([0 if value == key else 255 for value in range(256)])))


def _white_point(image: Image.Image) -> float:
    if image.mode.startswith("I;"):
        return 65535.0
    largest = max(float(_finite(band).max()) for _, band in _bands(image))
    if image.mode == "I":
        return 65535.0 if largest <= 65535 else 2.0**31 - 1
    return next((each for each in (1.0, 255.0, 65535.0) if largest <= each), largest)


def _finite(image: Image.Image) -> Float32[np.ndarray, "h w"]:
    return np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0.0, neginf=0.0)


def _deep_grey(image: Image.Image, white: float) -> Image.Image:
    grey = Image.fromarray((_finite(image) * (255 / white)).round().clip(0, 255).astype(np.uint8))
    key = image.info.get("transparency")
    if key is None:
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))))


def _srgb_converter(mode: str, profile: bytes | None) -> Callable[[Image.Image], Image.Image]:
    # For the colours of 8-bit images of this mode.
    if profile:
        try:
            return _profile_converter({"RGBA": "RGB", "LA": "L"}.get(mode, mode), profile)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # the image is still worth more than its damaged profile
    return lambda image: image.convert("RGB")


def _profile_converter(mode: str, profile: bytes) -> Callable[[Image.Image], Image.Image]:
    opened = ImageCms.core.profile_frombytes(profile)
    space = opened.xcolor_space.strip()
    # A grey image with the profile of a colour one is common, and well defined.
    given = "RGB" if space == "RGB" and mode == "L" else mode
    if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space) != given:
        raise ValueError(f"a profile for {space} on an image of mode {mode}")
    target = ImageCms.createProfile("sRGB")
    # Of four inks lcms keeps a coarse table otherwise, which is five levels wrong where colours leave sRGB.
    flags = ImageCms.Flags.NOOPTIMIZE if given == "CMYK" else ImageCms.Flags.NONE
    transform = ImageCms.buildTransform(ImageCms.ImageCmsProfile(opened), target, given, "RGB", flags=flags)
    return lambda image: _applied(transform, image if image.mode == given else image.convert(given))


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = Image.new("RGB", image.size)
    transform.apply(image, converted)
    return converted


def _candidates(source: str) -> tuple[list[Path], str | None]:
    # The paths to choose from and the name of the place that holds them, or the one file that is meant and None.
    path = Path(source)
    if source and path.is_dir():
        return sorted(path.iterdir()), f"the folder {source}"
    if source and path.exists():
        return [path], None
    if glob.has_magic(source):
        return sorted(map(Path, glob.glob(source, recursive=True))), f"the pattern {source}"
    raise UsageError(f"{source or 'an empty path'} does not exist; expected an image, a folder or a glob.")


def _has_suffix(path: Path, suffixes: Sequence[str]) -> bool:
    return path.suffix.lower() in suffixes and not path.name.startswith(".") and os.path.isfile(path)
