"""Contact sheets: frames of several videos on one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from ..errors import UsageError

GAP_PX = 4  # between the frames of a contact sheet
LABEL_PX = 14  # Pillow's default font is 10 px high, with descenders below


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


def _row(clip: UInt8[np.ndarray, "t h w 3"], columns: int) -> Image.Image:
    chosen = np.linspace(0, len(clip) - 1, min(columns, len(clip))).round().astype(int)
    _, height, width, _ = clip.shape
    row = Image.new("RGB", (len(chosen) * (width + GAP_PX) - GAP_PX, height), "white")
    for column, index in enumerate(chosen):
        row.paste(Image.fromarray(clip[index]), (column * (width + GAP_PX), 0))
    return row
