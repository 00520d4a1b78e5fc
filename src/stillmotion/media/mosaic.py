"""Several clips as one: a labelled grid in which all of them play at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from ..errors import UsageError

GAP_PX = 4
MIN_LABEL_PX, MAX_LABEL_PX = 10, 24
MAX_SIDE_PX = 16384


def mosaic(
    clips: Sequence[UInt8[np.ndarray, "t h w 3"]], across: Sequence[str] = (), down: Sequence[str] = ()
) -> UInt8[np.ndarray, "T H W 3"]:
    """Lay clips out row by row on white, under the labels of the columns and beside those of the rows.

    Without labels down, all clips are one row; without labels across, one column. A clip that is shorter than the
    longest holds its last frame; a smaller one stands in the corner of its cell. Both sides come out even, for the
    codecs that need it. Raises UsageError where the labels do not fit the number of clips, or the result is too large.
    """
    columns, rows = len(across) or (1 if down else len(clips)), len(down) or 1
    if not clips or columns * rows != len(clips) or any(clip.ndim != 4 or 0 in clip.shape for clip in clips):
        raise UsageError(f"{len(clips)} clips were given for {columns} columns and {rows} rows; expected one a cell.")
    height, width = max(clip.shape[1] for clip in clips), max(clip.shape[2] for clip in clips)
    font = _font(width)
    left, top = _origin(font, across, down)
    page = Image.new("RGB", mosaic_size((width, height), columns, rows, across, down), "white")
    _label(page, font, across, down, (left, top), (width + GAP_PX, height + GAP_PX))
    frames = np.repeat(np.asarray(page)[None], max(len(clip) for clip in clips), axis=0)
    for number, clip in enumerate(clips):
        y, x = top + number // columns * (height + GAP_PX), left + number % columns * (width + GAP_PX)
        held = np.minimum(np.arange(len(frames)), len(clip) - 1)
        frames[:, y : y + clip.shape[1], x : x + clip.shape[2]] = clip[held]
    return frames


def mosaic_size(
    cell: tuple[int, int], columns: int, rows: int, across: Sequence[str] = (), down: Sequence[str] = ()
) -> tuple[int, int]:
    """Width and height of the mosaic of cells of this size. Raises UsageError where it is too large."""
    left, top = _origin(_font(cell[0]), across, down)
    width, height = left + columns * (cell[0] + GAP_PX), top + rows * (cell[1] + GAP_PX)
    if max(width, height) > MAX_SIDE_PX:
        raise UsageError(f"the mosaic would have {width}x{height} pixels; expected at most {MAX_SIDE_PX}.")
    return width + width % 2, height + height % 2


def _font(cell_width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(min(MAX_LABEL_PX, max(MIN_LABEL_PX, cell_width // 12)))


def _origin(
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont, across: Sequence[str], down: Sequence[str]
) -> tuple[int, int]:
    """Where the first cell begins, behind the labels."""
    top = _line_height(font) + 2 * GAP_PX if across else GAP_PX
    left = max((int(font.getlength(label)) for label in down), default=0) + (2 * GAP_PX if down else GAP_PX)
    return left, top


def _label(
    page: Image.Image,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    across: Sequence[str],
    down: Sequence[str],
    origin: tuple[int, int],
    step: tuple[int, int],
) -> None:
    draw = ImageDraw.Draw(page)
    for number, label in enumerate(across):
        draw.text((origin[0] + number * step[0], GAP_PX), _clipped(label, font, step[0] - GAP_PX), "black", font)
    for number, label in enumerate(down):
        draw.text((GAP_PX, origin[1] + number * step[1]), label, "black", font)


def _clipped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, or where a column is too narrow its value alone, or as much of that as fits."""
    if font.getlength(text) <= width:
        return text
    value = text.split(" ", 1)[-1]
    shown = value
    while shown and font.getlength(shown) > width:
        value = value[:-1]
        shown = f"{value}\u2026" if value else ""
    return shown


def _line_height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return int(font.getbbox("Ag")[3]) + 1
