"""Small animated pictures of a video in the making, written fast; what is to be kept goes through `write_video`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import StillmotionError, UsageError
from ..files import atomic_path
from .document import DOCUMENT_KEY, GIF_PREFIX, as_xmp, read_document

STRIP_SUFFIXES = (".gif", ".webp", ".png")
SHOWN_PX = 128  # the longer side to which smaller pictures are enlarged by a whole factor
GAP_PX = 2  # between the pictures of a .png
WEBP_QUALITY = 80
# Browsers show frames of 10 ms or less for 100 ms.
SHORTEST_MS = 20
# By it a file is known as one that may be replaced.
MARK = json.dumps({"schema": "stillmotion/preview"})


def write_strip(path: Path, frames: UInt8[np.ndarray, "t h w 3"], play_fps: float) -> None:
    """Write all frames to `path`, replacing it whole: animated as .gif or .webp, side by side as .png.

    Raises StillmotionError where the file cannot be written; then the old one is still there.
    """
    height, width, _ = frames[0].shape
    factor = max(1, SHOWN_PX // max(height, width))
    size = (width * factor, height * factor)
    pictures = [Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in frames]
    duration = max(SHORTEST_MS, round(1000 / play_fps))
    with atomic_path(path) as temporary:
        WRITERS[path.suffix.lower()](temporary, pictures, duration)


def check_strip(path: Path, force: bool = False) -> None:
    """Raise UsageError for a suffix of no strip, and for a file that exists and is none, unless `force`."""
    if path.suffix.lower() not in STRIP_SUFFIXES or path.is_dir():
        raise UsageError(f"preview is {path}; expected a file name that ends in {', '.join(STRIP_SUFFIXES)}.")
    if path.exists() and not force and not _is_strip(path):
        raise UsageError(f"preview {path} already exists and is no preview; expected a free name, or --force.")


def _is_strip(path: Path) -> bool:
    try:
        return read_document(path) == MARK
    except StillmotionError:
        return False


def _write_gif(path: Path, pictures: list[Image.Image], duration: int) -> None:
    # One palette of all frames, so that colours do not jump from one to the next.
    tall = Image.fromarray(np.concatenate([np.asarray(picture) for picture in pictures]))
    reduced = tall.quantize(256, Image.Quantize.FASTOCTREE)
    width, height = pictures[0].size
    first, *others = (reduced.crop((0, top, width, top + height)) for top in range(0, reduced.height, height))
    comment = GIF_PREFIX + MARK.encode()
    first.save(
        path, "GIF", save_all=True, append_images=others, duration=duration, loop=0, comment=comment, optimize=False
    )


def _write_webp(path: Path, pictures: list[Image.Image], duration: int) -> None:
    first, *others = pictures
    options = {"quality": WEBP_QUALITY, "method": 0, "xmp": as_xmp(MARK)}
    first.save(path, "WEBP", save_all=True, append_images=others, duration=duration, loop=0, **options)


def _write_png(path: Path, pictures: list[Image.Image], duration: int) -> None:
    width, height = pictures[0].size
    sheet = Image.new("RGB", (len(pictures) * (width + GAP_PX) - GAP_PX, height), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number * (width + GAP_PX), 0))
    text = PngInfo()
    text.add_itxt(DOCUMENT_KEY, MARK)
    sheet.save(path, "PNG", compress_level=1, pnginfo=text)


WRITERS = {".gif": _write_gif, ".webp": _write_webp, ".png": _write_png}
