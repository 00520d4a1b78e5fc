"""Pictures with rendered text whose place is known, and without: what a detector of text learns from.

The letters come from the fonts that Pillow and OpenCV 5 carry, so that every machine draws the same.
"""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from ..errors import StillmotionError
from ..evaluation.opencv import cv2
from .lookalikes import Picture, draw_ground

Mask = UInt8[np.ndarray, "h w"]
Script = Literal["latin", "cyrillic", "han", "digits"]

# The detector never sees OpenCV's "uni" in Latin letters: a figure is measured on it.
FACES: dict[str, tuple[Script, ...]] = {
    "aileron": ("latin", "digits"),
    "sans": ("latin", "cyrillic", "digits"),
    "italic": ("latin", "cyrillic", "digits"),
    "uni": ("cyrillic", "han"),
    "bitmap": ("latin", "digits"),
}
PLAIN_FACES = ("aileron", "bitmap")  # without accents
HELD_OUT_FACES: dict[str, tuple[Script, ...]] = {"uni": ("latin", "digits")}
LETTERS = {
    "latin": "eeeeeettttaaaoooiiinnnsssrrrhhlldducmfpgwybvkxjqzéüøçñ",
    "cyrillic": "оооееааиинннтттсссррввллкмдпуяыьгзбчйхжшюцщэф",
    "digits": "01234567890123456789.:-%",
}
HAN = (0x4E00, 0x8FFF)
RENDERED_PX = 64  # letters are drawn at this size and scaled, but for the bitmap face
LARGEST = 0.33
LEAST_CONTRAST = 40  # levels between letters and what is around them


@dataclasses.dataclass(frozen=True, slots=True)
class Lettered:
    """A picture, and where the boxes of its words are."""

    picture: Picture
    boxes: Bool[np.ndarray, "h w"]

    @property
    def area(self) -> float:
        """The share of the picture that the boxes cover."""
        return float(self.boxes.mean())


def draw_lettered(
    seed: int,
    size: tuple[int, int],
    photographs: Sequence[Picture],
    faces: dict[str, tuple[Script, ...]] = FACES,
    bare: float = 0.3,
    largest: float = LARGEST,
) -> Lettered:
    """The picture of this seed, of so many pixels across and down; the share `bare` of them has no text.

    Letters are at most `largest` of its shorter side.
    """
    rng = np.random.default_rng(seed)
    picture = draw_ground(rng, size, photographs).astype(np.float32)
    boxes = np.zeros(picture.shape[:2], bool)
    blocks = 0 if rng.random() < bare else int(rng.choice((1, 2, 3, 5), p=(0.5, 0.25, 0.15, 0.1)))
    for _ in range(blocks):
        ink, words = _block(rng, size, faces, largest)
        if not (boxes & (words > 127)).any():
            picture = _inked(rng, picture, ink)
            boxes |= words > 127
    return Lettered(_worn(rng, np.clip(picture, 0, 255).astype(np.uint8)), boxes)


def _block(
    rng: np.random.Generator, size: tuple[int, int], faces: dict[str, tuple[Script, ...]], largest: float
) -> tuple[Mask, Mask]:
    """Lines of text somewhere in the frame: how much ink is where, and the boxes of words."""
    face = str(rng.choice(list(faces)))
    script = faces[face][int(rng.integers(len(faces[face])))]
    lines = int(rng.choice((1, 2, 3, 7), p=(0.55, 0.25, 0.12, 0.08)))
    ink, words = _lines(rng, face, script, lines)
    height = float(np.exp(rng.uniform(np.log(7), np.log(min(size) * largest / lines**0.5))))
    scale = height / RENDERED_PX
    angle = 0.0 if rng.random() < 0.7 else rng.normal(0, 12)
    angle += 90 * (rng.random() < 0.04)
    stretch = np.exp(rng.normal(0, 0.18))
    middle = (rng.uniform(0.15, 0.85) * size[0], rng.uniform(0.08, 0.92) * size[1])
    matrix = _placed(ink.shape, (scale * stretch, scale), float(angle), rng.normal(0, 0.08), middle)
    if rng.random() < 0.15:
        matrix[2, :2] = rng.normal(0, 0.06, 2) / max(ink.shape)
    if scale < 0.6:  # a warp reads single pixels, so that thin letters would break
        ink = cv2.GaussianBlur(ink, (0, 0), 0.27 / scale)
    return cv2.warpPerspective(ink, matrix, size), cv2.warpPerspective(words, matrix, size)


def _placed(
    shape: tuple[int, ...], scale: tuple[float, float], angle: float, shear: float, middle: tuple[float, float]
) -> Float[np.ndarray, "3 3"]:
    turn = np.radians(angle)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = linear @ np.array([[1, shear], [0, 1]]) @ np.diag(scale)
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = np.array(middle) - linear @ np.array([shape[1] / 2, shape[0] / 2])
    return matrix


def _lines(rng: np.random.Generator, face: str, script: Script, count: int) -> tuple[Mask, Mask]:
    weight = int(rng.integers(200, 801))
    upper = rng.random() < 0.35
    spacing = rng.uniform(1.15, 1.7)
    rows = [
        [_word(rng, face, script, weight, upper) for _ in range(rng.integers(1, 3 if script == "han" else 6))]
        for _ in range(count)
    ]
    gap = round(RENDERED_PX * rng.uniform(0.25, 0.5))
    width = max(sum(word.shape[1] + gap for word in row) for row in rows) + gap
    tall = rows[0][0].shape[0]
    ink = np.zeros((round(tall * spacing * count) + tall, width), np.uint8)
    boxes = np.zeros_like(ink)
    is_centred = rng.random() < 0.5
    for number, row in enumerate(rows):
        left = (width - sum(word.shape[1] + gap for word in row)) // 2 if is_centred else gap
        top = round(number * tall * spacing) + tall // 4
        for word in row:
            _put(ink[top : top + tall], boxes[top : top + tall], word, left)
            left += word.shape[1] + gap
    return ink, boxes


def _put(ink: Mask, boxes: Mask, word: Mask, left: int) -> None:
    across, down = np.flatnonzero(word.max(0) > 60), np.flatnonzero(word.max(1) > 60)
    if not len(across):
        return
    place = slice(left, left + word.shape[1])
    part = ink[:, place]
    np.maximum(part, word[: part.shape[0], : part.shape[1]], out=part)
    boxes[down[0] : down[-1] + 1, left + across[0] : left + across[-1] + 1] = 255


def _word(rng: np.random.Generator, face: str, script: Script, weight: int, upper: bool) -> Mask:
    count = int(rng.integers(1, 11))
    if script == "han":
        text = "".join(chr(rng.integers(*HAN)) for _ in range(count))
    else:
        text = "".join(rng.choice(list(LETTERS[script]), count))
        if rng.random() < 0.1:
            text += str(rng.choice(list("!?,.:&@'")))
    if upper:
        text = text.upper()
    elif rng.random() < 0.3:
        text = text.capitalize()
    if face in PLAIN_FACES:
        text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode() or "x"
    return _drawn(text, face, weight)


def _drawn(text: str, face: str, weight: int) -> Mask:
    """The ink of a word, RENDERED_PX high letters on a canvas of 3/2 of that."""
    width, height = round(RENDERED_PX * 1.3 * len(text)) + 20, RENDERED_PX * 3 // 2
    if face in ("sans", "italic", "uni"):
        ink = np.zeros((height, width), np.uint8)
        cv2.putText(ink, text, (8, RENDERED_PX), 255, _opencv_face(face), RENDERED_PX, weight)
        return _trimmed(ink)
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    if face == "bitmap":
        draw.text((2, 2), text, 255, ImageFont.load_default_imagefont())
        small = np.asarray(canvas)[:16, : 8 * len(text) + 8]
        return _trimmed(cv2.resize(small, None, fx=6, fy=6, interpolation=cv2.INTER_LINEAR)[:height])
    bold = max(0, (weight - 400) // 160)
    draw.text((8, 4), text, 255, ImageFont.load_default(RENDERED_PX), stroke_width=bold, stroke_fill=255)
    return _trimmed(np.asarray(canvas))


def _trimmed(ink: Mask) -> Mask:
    across = np.flatnonzero(ink.max(0))
    return ink[:, : across[-1] + 2] if len(across) else ink[:, :2]


@functools.cache
def _opencv_face(name: str) -> cv2.FontFace:
    try:
        return cv2.FontFace(name)
    except (AttributeError, cv2.error):
        raise StillmotionError(
            f"OpenCV {cv2.__version__} carries no font {name!r}; expected version 5 or later with its fonts."
        ) from None


def _inked(rng: np.random.Generator, picture: Float[np.ndarray, "h w 3"], ink: Mask) -> Float[np.ndarray, "h w 3"]:
    """Letters in one colour that stands out, perhaps on a panel, with an outline or a shadow."""
    around = cv2.dilate(ink, np.ones((9, 9), np.uint8)) > 40
    if not around.any():
        return picture
    behind, uneven = float(picture[around].mean()), float(picture[around].std())
    colour = _standing_out(rng, behind, LEAST_CONTRAST + uneven / 2)
    style = rng.choice(("plain", "outline", "shadow", "panel"), p=(0.5, 0.2, 0.15, 0.15))
    light = np.float32(rng.uniform(0.75, 1.0))
    other = _standing_out(rng, float(colour.mean()), LEAST_CONTRAST)
    if style == "panel":
        left, top, width, height = cv2.boundingRect(around.astype(np.uint8))
        part = picture[top : top + height, left : left + width]
        part += (other - part) * np.float32(rng.uniform(0.5, 1.0))
    elif style != "plain":
        reach = int(rng.integers(1, 3)) * 2 + 1
        edge = cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
        if style == "shadow":
            edge = cv2.GaussianBlur(np.roll(edge, (reach // 2, reach // 2), (0, 1)), (0, 0), 0.8)
        picture = picture + (other - picture) * (edge[..., None] / np.float32(255)) * light
    return picture + (colour - picture) * (ink[..., None] / np.float32(255)) * light


def _standing_out(rng: np.random.Generator, level: float, contrast: float) -> Float[np.ndarray, " 3"]:
    for _ in range(20):
        colour = rng.uniform(0, 255) + rng.normal(0, 60 * (rng.random() < 0.4), 3)
        if rng.random() < 0.35:
            colour = np.full(3, 255.0 if level < 128 else 0.0)
        colour = np.clip(colour, 0, 255)
        if abs(float(colour @ (0.299, 0.587, 0.114)) - level) >= contrast:
            return colour.astype(np.float32)
    return np.full(3, 255.0 if level < 128 else 0.0, np.float32)


def _worn(rng: np.random.Generator, picture: Picture) -> Picture:
    """As a camera and a codec leave a picture: blurred, noisy, compressed, darker."""
    if rng.random() < 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.0))
    if rng.random() < 0.4:
        noise = rng.normal(0, rng.uniform(1, 10), picture.shape)
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        picture = np.clip(picture * rng.uniform(0.5, 1.2), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 95))])
        picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return picture
