"""Images: any file to upright sRGB, to the size that a model needs, and to pixels and back."""

from __future__ import annotations

import glob
import http.client
import io
import os
import struct
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageCms, ImageDraw, ImageFilter, ImageFont, ImageOps
from torch import Tensor

from ..errors import MediaError, UsageError
from ..files import atomic_path

Fit = Literal["crop", "pad", "stretch"]

MAX_FILE_BYTES = 256 * 1024**2  # a 100-megapixel photo as an 8-bit png is about 200 MiB
MAX_PIXELS = 120_000_000  # the 100-megapixel sensors of cameras and phones, with a margin
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif"),
    *(".gif", ".bmp", ".dib", ".tif", ".tiff", ".mpo"),
)
# Pillow opens some sixty formats; those left out run other programs (EPS), or are old code that few people use.
# An MPO, several JPEGs in one file, is found by the JPEG decoder.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
EXPECTED = "expected a whole " + ", ".join(FORMATS[:-1]) + f" or {FORMATS[-1]} image"

# What Pillow's decoders raise on damaged bytes, beside OSError.
DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, AttributeError, AssertionError),
    *(ArithmeticError, RuntimeError, MemoryError, struct.error, Image.DecompressionBombError),
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
_OPEN_LOCK = threading.Lock()  # warnings.catch_warnings changes the whole process

DOWNLOAD_WAIT_S = 10.0  # for any one answer of a server
DOWNLOAD_TOTAL_S = 120.0  # for the whole image, so that a server which drips bytes cannot hold a caller for ever
MAX_REDIRECTS = 3

GAP_PX = 4  # between the frames of a contact sheet
LABEL_PX = 14  # Pillow's default font is 10 px high, with descenders below


def read_image(path: Path, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Read an image file as upright sRGB, mode "RGB"; the first picture of a file that has several.

    The bytes choose the decoder, not the suffix. With `at_least` (width, height in pixels, of the upright image) a
    larger JPEG is decoded at 1/2, 1/4 or 1/8 of its size, as long as neither side gets smaller than that. Raises
    MediaError for a missing, damaged, truncated or unknown file, and, before decoding anything, for one of more than
    MAX_FILE_BYTES or MAX_PIXELS.
    """
    path = Path(path)
    try:
        if not path.is_file():
            kind = "is not a file" if path.exists() else "does not exist"
            raise MediaError(f"{path} {kind}; expected an image file.")
        with path.open("rb") as file:
            _check_bytes(os.fstat(file.fileno()).st_size, str(path))
            return _decode(file, str(path), at_least)
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror or error}; {EXPECTED}.") from None


def upright_rgb(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says, in sRGB, over white where it is transparent, as mode "RGB".

    A 16-bit image is scaled by 255/65535. In mode I the white point is 65535, or 2^31 - 1 if any value is larger; in
    mode F it is the first of 1, 255 and 65535 that no value exceeds, or else the largest value. An ICC profile that
    is damaged, or made for other channels than the image has, is ignored. Metadata is not kept: it describes the
    image before this function. Raises MediaError if the image cannot be decoded, or its mode has no way to RGB.
    """
    try:
        return _upright_rgb(image)
    except DECODER_ERRORS as error:
        raise MediaError(f"the image of mode {image.mode} cannot be decoded: {_reason(error)}; {EXPECTED}.") from None


def find_images(source: str | os.PathLike[str]) -> list[Path]:
    """The image files that `source` means: a file, the images directly in a folder, or those that a glob matches.

    A file is taken whatever its suffix; in folders and globs only those in SUFFIXES count, in any case, and hidden
    files do not. Sorted by name. Raises UsageError where nothing is found.
    """
    source = os.fspath(source)
    try:
        candidates, place = _candidates(source)
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}; expected an image, a folder or a glob.") from None
    found = [each for each in candidates if place is None or _looks_like_image(each)]
    if not found:
        raise UsageError(f"{place} holds no image; expected a file that ends with {', '.join(SUFFIXES)}.")
    return found


def fit(image: Image.Image, width: int, height: int, mode: Fit) -> Image.Image:
    """Resample an RGB image to exactly `width` x `height` pixels with Lanczos.

    "crop" keeps the aspect ratio, fills the frame and cuts equally from both ends; "pad" keeps the aspect ratio and
    the whole image, over a blurred copy that fills the frame; "stretch" changes the aspect ratio. Raises UsageError
    for a size below 1, another mode, or an image that is not RGB.
    """
    _check_rgb(image)
    if width < 1 or height < 1:
        raise UsageError(f"the size {width}x{height} is empty; expected at least 1x1 pixels.")
    if mode == "stretch":
        return image.resize((width, height), Image.Resampling.LANCZOS)
    if mode == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    if mode == "pad":
        return _pad(image, width, height)
    raise UsageError(f"the fit {mode!r} is unknown; expected one of {', '.join(get_args(Fit))}.")


def to_pixels(images: Sequence[Image.Image]) -> Float[Tensor, "b c h w"]:
    """Float32 pixels in [-1, 1]: value / 127.5 - 1. Raises UsageError unless all are RGB and of one size."""
    if not images:
        raise UsageError("no image was given; expected at least one.")
    for image in images:
        _check_rgb(image)
    sizes = sorted({f"{image.width}x{image.height}" for image in images})
    if len(sizes) > 1:
        raise UsageError(f"the images have the sizes {', '.join(sizes)}; expected one size.")
    values = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return values.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 127.5 - 1


def to_uint8(frames: Float[Tensor, "t c h w"]) -> UInt8[np.ndarray, "t h w c"]:
    """Frames in [-1, 1] as bytes: (x + 1) / 2 x 255, clamped and rounded; `to_pixels` is undone exactly.

    Any float dtype and device. Raises MediaError if a value is NaN: the network that made it has failed, and a black
    frame would hide that.
    """
    if frames.ndim != 4:
        raise UsageError(f"the frames have the shape {tuple(frames.shape)}; expected (t, c, h, w).")
    return np.stack([_frame_to_uint8(frame) for frame in frames]) if len(frames) else _no_frames(frames)


def to_images(frames: Float[Tensor, "t 3 h w"]) -> list[Image.Image]:
    """One RGB image a frame; the values are those of `to_uint8`, and so are the errors."""
    if frames.ndim == 4 and frames.shape[1] != 3:
        raise UsageError(f"the frames have {frames.shape[1]} channels; expected 3.")
    return [Image.fromarray(frame) for frame in to_uint8(frames)]


def load_image(source: str | os.PathLike[str] | Image.Image) -> Image.Image:
    """An image as `read_image` gives it, from a path, an open image, or an http or https address.

    For callers who may read any path and reach any address of this machine; a server must not pass on what its
    clients send. Raises MediaError, for a download also where it takes more than DOWNLOAD_WAIT_S for an answer,
    DOWNLOAD_TOTAL_S in all, MAX_FILE_BYTES or MAX_REDIRECTS.
    """
    if isinstance(source, Image.Image):
        return upright_rgb(source)
    address = os.fspath(source)
    scheme, separator, _ = address.partition("://")
    if not separator:
        return read_image(Path(address))
    if scheme.lower() not in ("http", "https"):
        raise MediaError(f"{address} has the scheme {scheme}; expected a path, or an http or https address.")
    return _decode(io.BytesIO(_download(address)), address, None)


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG that is whole or absent. Raises StillmotionError where it cannot be written."""
    with atomic_path(Path(path)) as temporary:
        try:
            image.save(temporary, format="PNG")
        except OSError as error:
            if error.errno is not None:
                raise
            raise MediaError(f"{path} cannot hold an image of mode {image.mode}; expected RGB.") from None


def contact_sheet(
    clips: Sequence[UInt8[np.ndarray, "t h w 3"]], columns: int, labels: Sequence[str] = ()
) -> Image.Image:
    """One row a clip, of `columns` frames from its first to its last at even distances, on white.

    A clip of fewer frames shows each of them once. `labels`, one a clip or none, stand above the rows. Raises
    UsageError for no clip, an empty clip, fewer than one column, or another number of labels.
    """
    if not clips or columns < 1 or any(clip.ndim != 4 or 0 in clip.shape for clip in clips):
        raise UsageError("a contact sheet needs at least one column, and clips (t, h, w, 3) of at least one frame.")
    if labels and len(labels) != len(clips):
        raise UsageError(f"{len(labels)} labels were given for {len(clips)} clips; expected one a clip, or none.")
    rows = [_row(clip, columns) for clip in clips]
    label_height = LABEL_PX if labels else 0
    height = sum(row.height + GAP_PX + label_height for row in rows) + GAP_PX
    sheet = Image.new("RGB", (max(row.width for row in rows) + 2 * GAP_PX, height), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(), GAP_PX
    for number, row in enumerate(rows):
        if labels:
            draw.text((GAP_PX, top), labels[number].replace("\n", " "), fill="black", font=font)
        sheet.paste(row, (GAP_PX, top + label_height))
        top += row.height + GAP_PX + label_height
    return sheet


def _check_bytes(size: int, name: str) -> None:
    if size > MAX_FILE_BYTES:
        limit = MAX_FILE_BYTES // 1024**2
        raise MediaError(f"{name} has {size / 1024**2:.0f} MiB; expected an image of at most {limit} MiB.")


def _decode(file: IO[bytes], name: str, at_least: tuple[int, int] | None) -> Image.Image:
    try:
        with _open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width}x{image.height}"
                raise MediaError(f"{name} has {size} pixels; expected at most {MAX_PIXELS // 10**6} megapixels.")
            if at_least is not None and image.format in ("JPEG", "MPO"):
                image.draft(None, (at_least[1], at_least[0]) if _orientation(image) >= 5 else at_least)
            return _upright_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter where warnings are errors
        raise MediaError(f"{name} is too large; expected at most {MAX_PIXELS // 10**6} megapixels.") from None
    except DECODER_ERRORS as error:
        raise MediaError(f"{name} cannot be decoded: {_reason(error)}; {EXPECTED}.") from None


def _open(file: IO[bytes]) -> Image.Image:
    # Pillow warns from 89 megapixels on, which photos of 100 have: MAX_PIXELS is checked instead. Its other warnings
    # here announce the error that follows.
    with _OPEN_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(file, formats=FORMATS)


def _reason(error: BaseException) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "its bytes are not those of an image"
    return str(error).rstrip(".") or type(error).__name__


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except DECODER_ERRORS:
        return 1  # damaged EXIF says nothing about the pixels
    return value if value in range(1, 9) else 1


def _upright_rgb(image: Image.Image) -> Image.Image:
    turned = _turn(image)
    plain = _eight_bit(turned)
    result = _to_srgb(_without_alpha(plain), turned.info.get("icc_profile"))
    if plain.mode in ("RGBA", "LA"):
        white = Image.new("RGB", plain.size, "white")
        white.paste(result, mask=plain.getchannel("A"))
        result = white
    result.info = {}  # a new image by now: each way through _to_srgb makes one
    return result


def _turn(image: Image.Image) -> Image.Image:
    image.load()  # first, for a TIFF is turned while it loads and loses its tag
    turn = TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _eight_bit(image: Image.Image) -> Image.Image:
    # Palettes and transparent colours become channels; deep greys become L.
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image)
    if image.mode in ("P", "PA", "La", "RGBa") or "transparency" in image.info:
        return image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("RGB", "RGBA", "L", "LA", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0.0, neginf=0.0)
    white = 65535.0
    largest = float(values.max())
    if image.mode == "I" and largest > white:
        white = 2.0**31 - 1
    if image.mode == "F":
        white = next((each for each in (1.0, 255.0, white) if largest <= each), largest)
    return Image.fromarray((values * (255 / white)).round().clip(0, 255).astype(np.uint8))


def _without_alpha(image: Image.Image) -> Image.Image:
    return image.convert({"RGBA": "RGB", "LA": "L"}[image.mode]) if image.mode in ("RGBA", "LA") else image


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            return _convert_profile(image, profile)
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # the image is still worth more than its damaged profile
    return image.convert("RGB")


def _convert_profile(image: Image.Image, profile: bytes) -> Image.Image:
    opened = ImageCms.core.profile_frombytes(profile)
    space = opened.xcolor_space.strip()
    if space == "RGB" and image.mode == "L":
        image = image.convert("RGB")  # a grey image with the profile of a colour one: common, and well defined
    if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space) != image.mode:
        raise ValueError(f"a profile for {space} on an image of mode {image.mode}")
    target = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(opened), target, outputMode="RGB")
    if converted is None:
        raise ValueError("the profile gave no image")
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


def _looks_like_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _check_rgb(image: Image.Image) -> None:
    if image.mode != "RGB":
        raise UsageError(f"the image has the mode {image.mode}; expected RGB, as upright_rgb gives it.")
    if 0 in image.size:
        raise UsageError(f"the image has {image.width}x{image.height} pixels; expected at least 1x1.")


def _pad(image: Image.Image, width: int, height: int) -> Image.Image:
    scale = min(width / image.width, height / image.height)
    # min: the product may round up to one pixel more than the frame
    inner = (
        min(width, max(1, round(image.width * scale))),
        min(height, max(1, round(image.height * scale))),
    )
    filled = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    if inner == (width, height):
        return filled
    # A twentieth of the frame: no shape of the copy is left to compete with the image.
    frame = filled.filter(ImageFilter.GaussianBlur(max(width, height) / 20))
    whole = image.resize(inner, Image.Resampling.LANCZOS)
    frame.paste(whole, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return frame


def _frame_to_uint8(frame: Float[Tensor, "c h w"]) -> UInt8[np.ndarray, "h w c"]:
    values = frame.detach().to("cpu", torch.float32)
    if values.isnan().any():
        bad = int(values.isnan().sum())
        raise MediaError(f"a frame holds {bad} values that are not numbers; expected values in [-1, 1].")
    return ((values + 1) / 2).clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _no_frames(frames: Float[Tensor, "0 c h w"]) -> UInt8[np.ndarray, "0 h w c"]:
    _, channels, height, width = frames.shape
    return np.zeros((0, height, width, channels), np.uint8)


def _row(clip: UInt8[np.ndarray, "t h w 3"], columns: int) -> Image.Image:
    chosen = np.linspace(0, len(clip) - 1, min(columns, len(clip))).round().astype(int)
    _, height, width, _ = clip.shape
    row = Image.new("RGB", (len(chosen) * (width + GAP_PX) - GAP_PX, height), "white")
    for column, index in enumerate(chosen):
        row.paste(Image.fromarray(clip[index]), (column * (width + GAP_PX), 0))
    return row


class _Redirects(urllib.request.HTTPRedirectHandler):
    # The parent refuses all schemes but http, https and ftp, and counts.
    max_redirections = MAX_REDIRECTS
    max_repeats = MAX_REDIRECTS

    # Handed on as they come.
    def redirect_request(self, *arguments):  # pyright: ignore[reportIncompatibleMethodOverride]
        request = super().redirect_request(*arguments)
        if request is not None and request.type not in ("http", "https"):
            raise urllib.error.URLError(f"it redirects to the scheme {request.type}")
        return request


def _opener() -> urllib.request.OpenerDirector:
    # Not build_opener, which also opens file: and ftp: addresses.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _download(address: str) -> bytes:
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "stillmotion", "Accept": "image/*"})
        with _opener().open(request, timeout=DOWNLOAD_WAIT_S) as response:
            return _read_body(response, address)
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"the server answered {error.code} {error.msg.splitlines()[0] if error.msg else ''}".rstrip()
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(error.reason if isinstance(error, urllib.error.URLError) else error) or type(error).__name__
    raise MediaError(f"{address} cannot be fetched: {reason.rstrip('.')}; expected an image.")


def _read_body(response: http.client.HTTPResponse, address: str) -> bytes:
    declared = response.headers.get("Content-Length", "")
    if declared.isdecimal():
        _check_bytes(int(declared), address)
    body, deadline = bytearray(), time.monotonic() + DOWNLOAD_TOTAL_S
    while piece := response.read1(1 << 16):
        body += piece
        _check_bytes(len(body), address)
        if time.monotonic() > deadline:
            raise TimeoutError(f"the image was not complete after {DOWNLOAD_TOTAL_S:.0f} s")
    if declared.isdecimal() and len(body) != int(declared):
        raise ConnectionError(f"the connection ended after {len(body)} of {declared} bytes")
    return bytes(body)
