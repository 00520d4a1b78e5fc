"""Pictures without text, many of them with what is easily taken for it: bricks, fences, keys, windows, leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8

from ..evaluation.opencv import cv2
from .leaves import dead_leaves

Picture: TypeAlias = UInt8[np.ndarray, "h w 3"]
Colour = tuple[int, int, int]

# Photographs, leaves, a gradient, one colour, noise.
GROUNDS = (0.6, 0.15, 0.13, 0.1, 0.02)
LEAVES_PX = (120, 90)  # leaves are painted at this size and enlarged: they take long


def draw_ground(rng: np.random.Generator, size: tuple[int, int], photographs: Sequence[Picture]) -> Picture:
    """A picture of this many pixels across and down, that has no text unless a photograph has."""
    picture = _plain_ground(rng, size, photographs)
    for _ in range(int(rng.choice((0, 1, 2), p=(0.45, 0.4, 0.15)))):
        picture = _with_lookalike(rng, picture)
    return picture


def _plain_ground(rng: np.random.Generator, size: tuple[int, int], photographs: Sequence[Picture]) -> Picture:
    kind = int(rng.choice(len(GROUNDS), p=GROUNDS))
    if kind == 0 and photographs:
        return _photograph(rng, size, photographs[int(rng.integers(len(photographs)))])
    if kind <= 1:
        leaves = dead_leaves(int(rng.integers(2**31)), *LEAVES_PX, oversampling=1)
        painted = ((leaves.permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8)
        return cv2.resize(painted, size, interpolation=cv2.INTER_CUBIC)
    if kind == 2:
        cells = int(rng.integers(2, 7))
        corners = rng.integers(0, 256, (cells, cells, 3), np.uint8)
        return cv2.resize(corners, size, interpolation=cv2.INTER_CUBIC)
    if kind == 3:
        return np.full((size[1], size[0], 3), rng.integers(0, 256, 3), np.uint8)
    grain = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    return cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.5, 4))


def _photograph(rng: np.random.Generator, size: tuple[int, int], photograph: Picture) -> Picture:
    rows, columns = photograph.shape[:2]
    most = min(rows / size[1], columns / size[0])
    scale = float(np.exp(rng.uniform(np.log(0.3 * most), np.log(most))))
    width, height = int(size[0] * scale), int(size[1] * scale)
    left, top = int(rng.integers(columns - width + 1)), int(rng.integers(rows - height + 1))
    part = photograph[top : top + height, left : left + width]
    method = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    picture = cv2.resize(part, size, interpolation=method)
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    gain, offset = rng.uniform(0.6, 1.3), rng.uniform(-40, 40)
    picture = np.clip(picture * gain + offset, 0, 255).astype(np.uint8)
    return 255 - picture if rng.random() < 0.1 else np.ascontiguousarray(picture)


def _with_lookalike(rng: np.random.Generator, picture: Picture) -> Picture:
    """A pattern over all of the picture or a part of it, seen from the front or aslant."""
    height, width = picture.shape[:2]
    drawn = LOOKALIKES[int(rng.integers(len(LOOKALIKES)))](rng, picture)
    if rng.random() < 0.5:
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        moved = corners + rng.normal(0, 0.15, corners.shape).astype(np.float32) * (width, height)
        matrix = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
        drawn = cv2.warpPerspective(drawn, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    if rng.random() < 0.4:
        drawn = cv2.addWeighted(drawn, float(rng.uniform(0.4, 1)), picture, float(rng.uniform(0, 0.6)), 0)
    if rng.random() < 0.5:
        return drawn
    part = picture.copy()
    left, top = int(rng.uniform(0, 0.7) * width), int(rng.uniform(0, 0.7) * height)
    right, bottom = int(rng.uniform(left, width)) + 1, int(rng.uniform(top, height)) + 1
    part[top:bottom, left:right] = drawn[top:bottom, left:right]
    return part


def _colour(rng: np.random.Generator) -> Colour:
    base = rng.integers(0, 256)
    red, green, blue = (int(np.clip(base + each, 0, 255)) for each in rng.normal(0, 30, 3))
    return red, green, blue


def _pitch(rng: np.random.Generator) -> int:
    return int(np.exp(rng.uniform(np.log(5), np.log(50))))


def _bricks(rng: np.random.Generator, picture: Picture) -> Picture:
    """Rows of rectangles, every second one shifted by half of one; each has its own shade."""
    pitch, aspect, joint = _pitch(rng), rng.uniform(1, 3.5), int(rng.integers(1, 4))
    drawn = np.full_like(picture, _colour(rng))
    base, shift = np.array(_colour(rng)), rng.choice((0, 0.5))
    wide = max(3, int(pitch * aspect))
    for row in range(0, picture.shape[0], pitch):
        for column in range(-wide, picture.shape[1], wide):
            left = column + int(shift * wide * (row // pitch % 2))
            shade = np.clip(base + rng.normal(0, 18), 0, 255).tolist()
            cv2.rectangle(drawn, (left, row), (left + wide - 1 - joint, row + pitch - 1 - joint), shade, -1)
    return drawn


def _keys(rng: np.random.Generator, picture: Picture) -> Picture:
    """Separate cells with gaps, as keys, windows or tiles; some have a light or a dark middle."""
    pitch = max(8, _pitch(rng))
    inner = int(pitch * rng.uniform(0.4, 0.85))
    across, down = int(pitch * rng.uniform(0.7, 1.6)), pitch
    drawn = picture.copy() if rng.random() < 0.5 else np.full_like(picture, _colour(rng))
    shades = [_colour(rng) for _ in range(3)]
    for top in range(0, picture.shape[0], down):
        for left in range(0, picture.shape[1], across):
            shade = shades[int(rng.choice(3, p=(0.7, 0.2, 0.1)))]
            cv2.rectangle(drawn, (left, top), (left + inner, top + inner), shade, -1)
            if rng.random() < 0.3:
                cv2.circle(drawn, (left + inner // 2, top + inner // 2), max(1, inner // 5), shades[2], -1)
    return drawn


def _stripes(rng: np.random.Generator, picture: Picture) -> Picture:
    """Bars of uneven or even width, as in blinds, fences and bar codes."""
    drawn = picture.copy()
    colour, pitch, is_even = _colour(rng), _pitch(rng), rng.random() < 0.6
    vertical, place = rng.random() < 0.5, 0
    while place < max(picture.shape[:2]):
        thick = max(1, int(pitch * (0.4 if is_even else rng.uniform(0.1, 0.9))))
        part = drawn[:, place : place + thick] if vertical else drawn[place : place + thick]
        part[:] = colour
        place += pitch if is_even else thick + max(1, int(pitch * rng.uniform(0.1, 0.9)))
    return drawn


def _checks(rng: np.random.Generator, picture: Picture) -> Picture:
    pitch = _pitch(rng)
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    return np.where((((x // pitch) + (y // pitch)) % 2 == 0)[..., None], _colour(rng), picture).astype(np.uint8)


def _lattice(rng: np.random.Generator, picture: Picture) -> Picture:
    """Crossing lines: wire, trellis, tiles."""
    drawn, pitch, colour = picture.copy(), max(6, _pitch(rng)), _colour(rng)
    thick, lean = int(rng.integers(1, 4)), float(rng.choice((0, 0, 1, 0.5)))
    height, width = picture.shape[:2]
    for place in range(-2 * height, width + 2 * height, pitch):
        cv2.line(drawn, (place, 0), (int(place + lean * height), height), colour, thick, cv2.LINE_AA)
        if lean:
            cv2.line(drawn, (place, 0), (int(place - lean * height), height), colour, thick, cv2.LINE_AA)
        elif place < height:
            cv2.line(drawn, (0, place), (width, place), colour, thick, cv2.LINE_AA)
    return drawn


def _foliage(rng: np.random.Generator, picture: Picture) -> Picture:
    """Many small ellipses of a few near colours."""
    drawn = picture.copy()
    base, length = np.array(_colour(rng)), _pitch(rng) / 2
    for _ in range(int(rng.integers(60, 400))):
        centre = (int(rng.integers(picture.shape[1])), int(rng.integers(picture.shape[0])))
        axes = (int(length * rng.uniform(0.5, 1.5)) + 1, int(length * rng.uniform(0.15, 0.6)) + 1)
        shade = np.clip(base + rng.normal(0, 45), 0, 255).tolist()
        cv2.ellipse(drawn, centre, axes, float(rng.uniform(0, 180)), 0, 360, shade, -1, cv2.LINE_AA)
    return drawn


def _twigs(rng: np.random.Generator, picture: Picture) -> Picture:
    """Thin curved strokes: twigs, hair, cracks, cables."""
    drawn, colour = picture.copy(), _colour(rng)
    length, thick = float(_pitch(rng)), int(rng.integers(1, 4))
    for _ in range(int(rng.integers(10, 120))):
        start = rng.uniform(0, 1, 2) * (picture.shape[1], picture.shape[0])
        steps = np.cumsum(rng.normal(0, length / 3, (int(rng.integers(2, 7)), 2)), axis=0)
        path = np.concatenate([start[None], start + steps]).astype(np.int32)
        cv2.polylines(drawn, [path], False, colour, thick, cv2.LINE_AA)
    return drawn


def _dots(rng: np.random.Generator, picture: Picture) -> Picture:
    """Scattered discs, rings and blocks: pebbles, lights, rivets."""
    drawn, colours = picture.copy(), [_colour(rng) for _ in range(3)]
    radius = max(1, _pitch(rng) // 4)
    for _ in range(int(rng.integers(10, 150))):
        x, y = int(rng.integers(picture.shape[1])), int(rng.integers(picture.shape[0]))
        size, colour = max(1, int(radius * rng.uniform(0.5, 1.5))), colours[int(rng.integers(3))]
        thick = -1 if rng.random() < 0.7 else 1
        if rng.random() < 0.6:
            cv2.circle(drawn, (x, y), size, colour, thick, cv2.LINE_AA)
        else:
            cv2.rectangle(drawn, (x, y), (x + size, y + size), colour, thick)
    return drawn


def _frames(rng: np.random.Generator, picture: Picture) -> Picture:
    """Edges of a few large shapes: signs, screens, doors, roads, without anything on them."""
    drawn = picture.copy()
    for _ in range(int(rng.integers(1, 6))):
        first, second = ((int(rng.integers(picture.shape[1])), int(rng.integers(picture.shape[0]))) for _ in range(2))
        thick = int(rng.choice((-1, 1, 2, 4)))
        if rng.random() < 0.6:
            cv2.rectangle(drawn, first, second, _colour(rng), thick)
        else:
            cv2.line(drawn, first, second, _colour(rng), abs(thick), cv2.LINE_AA)
    return drawn


LOOKALIKES: tuple[Callable[[np.random.Generator, Picture], Picture], ...] = (
    _bricks,
    _keys,
    _stripes,
    _checks,
    _lattice,
    _foliage,
    _twigs,
    _dots,
    _frames,
)
