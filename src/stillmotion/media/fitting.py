"""Pictures to the size that a model needs: cropped, padded or stretched; and the sizes that a model was trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from PIL import Image, ImageFilter, ImageOps

from ..errors import UsageError
from .images import colour_of

Fit = Literal["crop", "pad", "stretch"]
CENTRE = (0.5, 0.5)


def fit(
    image: Image.Image,
    width: int,
    height: int,
    mode: Fit,
    focus: tuple[float, float] = CENTRE,
    pad_colour: str | None = None,
) -> Image.Image:
    """Resample an RGB image to exactly `width` x `height` pixels with Lanczos.

    "crop" keeps the aspect ratio, fills the frame, and cuts so that `focus` comes as near to the centre as the image
    allows; "pad" keeps the aspect ratio and the whole image, over `pad_colour`, or over a blurred copy that fills the
    frame; "stretch" changes the aspect ratio. `focus` is a point of the image, (0, 0) its upper left corner and
    (1, 1) its lower right one. Raises UsageError for a size below 1, a focus outside the image, another mode, a
    colour that `colour_of` refuses, or an image that is not RGB.
    """
    check_rgb(image)
    if width < 1 or height < 1:
        raise UsageError(f"the size {width}x{height} is empty; expected at least 1x1 pixels.")
    if not (0 <= focus[0] <= 1 and 0 <= focus[1] <= 1):
        raise UsageError(f"the focus is {focus[0]:g},{focus[1]:g}; expected two numbers from 0 to 1.")
    if mode == "stretch":
        return image.resize((width, height), Image.Resampling.LANCZOS)
    if mode == "crop":
        return image.resize((width, height), Image.Resampling.LANCZOS, box=_crop_box(image, width / height, focus))
    if mode == "pad":
        return _pad(image, width, height, None if pad_colour is None else colour_of(pad_colour))
    raise UsageError(f"the fit {mode!r} is unknown; expected one of {', '.join(get_args(Fit))}.")


def is_trained(size: tuple[int, int], trained: Sequence[tuple[int, int]]) -> bool:
    """Whether a model was trained on this (width, height), `trained` being the sizes that it was."""
    return tuple(size) in {tuple(each) for each in trained}


def nearest_trained_size(image_size: tuple[int, int], trained: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The trained (width, height) whose aspect ratio is nearest to that of an image of `image_size`.

    Nearest by |log(ratio / ratio)|, for which twice as wide is as far as half as wide; of equals the first. Raises
    UsageError where `trained` is empty, or a size is below 1.
    """
    if not trained or min(*image_size, *(side for size in trained for side in size)) < 1:
        raise UsageError(f"the trained sizes for {image_size} are {list(trained)}; expected sizes of at least 1x1.")
    wanted = math.log(image_size[0] / image_size[1])
    return min(trained, key=lambda size: abs(math.log(size[0] / size[1]) - wanted))


def check_rgb(image: Image.Image) -> None:
    """Raise UsageError unless the image has the mode RGB and a pixel."""
    if image.mode != "RGB":
        raise UsageError(f"the image has the mode {image.mode}; expected RGB, as upright_rgb gives it.")
    if 0 in image.size:
        raise UsageError(f"the image has {image.width}x{image.height} pixels; expected at least 1x1.")


def _crop_box(image: Image.Image, aspect: float, focus: tuple[float, float]) -> tuple[float, float, float, float]:
    # The largest part of the image with this aspect ratio.
    width, height = min(image.width, aspect * image.height), min(image.height, image.width / aspect)
    left = _start(image.width, width, focus[0])
    top = _start(image.height, height, focus[1])
    return left, top, left + width, top + height


def _start(whole: int, part: float, focus: float) -> float:
    spare = whole - part
    return min(max(spare / 2 + (focus - 0.5) * whole, 0.0), spare)


def _pad(image: Image.Image, width: int, height: int, colour: tuple[int, int, int] | None) -> Image.Image:
    scale = min(width / image.width, height / image.height)
    # min: the product may round up to one pixel more than the frame
    inner = (
        min(width, max(1, round(image.width * scale))),
        min(height, max(1, round(image.height * scale))),
    )
    if inner == (width, height):
        return ImageOps.fit(image, inner, Image.Resampling.LANCZOS)
    frame = _blurred(image, width, height) if colour is None else Image.new("RGB", (width, height), colour)
    whole = image.resize(inner, Image.Resampling.LANCZOS)
    frame.paste(whole, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return frame


def _blurred(image: Image.Image, width: int, height: int) -> Image.Image:
    filled = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    # A twentieth of the frame: no shape of the copy is left to compete with the image.
    return filled.filter(ImageFilter.GaussianBlur(max(width, height) / 20))
