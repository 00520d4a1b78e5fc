"""Procedural shots for edited videos: a canvas under a moving camera, things that fly past, light that changes.

Made for detectors of transitions, so every shot may hold what is easily taken for one: flashes, whip pans, exposure
that drifts, flicker, shaking, objects near the lens, subtitles that come and go, bars that slide in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from ..evaluation.opencv import cv2
from .leaves import dead_leaves
from .toys import texture

Picture = UInt8[np.ndarray, "h w 3"]

CAMERAS = {"still": 0.2, "drift": 0.22, "pan": 0.18, "whip": 0.08, "zoom": 0.12, "turn": 0.06, "shake": 0.14}
# Photographs, leaves, patterns, gradients, noise, flat cards.
KINDS = (0.38, 0.28, 0.17, 0.07, 0.04, 0.06)
WORDS = ("the", "light", "moved", "over", "every", "quiet", "hill", "nobody", "said", "why", "it", "came", "so", "late")
CANVAS_PX = (320, 200)  # leaves are painted at this size at most, then enlarged
GRAIN_ROOM = 64  # pixels by which the grain is moved, at most
GRAIN_LEVEL = np.array((12.0, 12.0, 12.0, 0.0))  # as OpenCV takes a colour
LAYERS = (1.0, 0.7, 0.35)  # large things are not of one colour


@dataclasses.dataclass(frozen=True, slots=True)
class Sprite:
    """Something that crosses the picture on a straight line. Lengths in frame heights, times in seconds."""

    colour: tuple[int, int, int]
    corners: int  # 0 is an ellipse
    radius: float
    aspect: float
    start: tuple[float, float]
    velocity: tuple[float, float]
    spin: float
    enters_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Caption:
    """A line of text that is shown for a while."""

    text: str
    height: float  # of the frame's height, from the top
    size: float
    first: int
    last: int
    fade: int  # frames in which it appears, and in which it goes


@dataclasses.dataclass(frozen=True, slots=True)
class Shot:
    """Everything that one shot shows; frames count from the shot's own first one."""

    canvas: Picture
    frames: int
    fps: float
    path: Float[np.ndarray, "t 4"]  # centre x and y in frame heights, natural logarithm of the zoom, angle
    blur: Float[np.ndarray, " t"]  # motion blur in frame widths
    gain: Float[np.ndarray, " t"]
    lift: Float[np.ndarray, " t"]  # share of the way to white: flashes
    bars: Float[np.ndarray, " t"]  # height of each black bar in frame heights
    sprites: tuple[Sprite, ...]
    captions: tuple[Caption, ...]
    hold: int  # each picture is shown for so many frames


def draw_canvas(rng: np.random.Generator, photographs: Sequence[Picture], size: tuple[int, int]) -> Picture:
    """What the camera looks at, of about twice the frame's size: a pattern, leaves, a gradient, noise, a photograph."""
    seed = int(rng.integers(2**31))
    width, height = int(size[0] * 1.7), int(size[1] * 1.7)
    kind = rng.choice(("photograph", "leaves", "texture", "gradient", "noise", "card"), p=KINDS)
    if kind == "card":  # titles stand on it
        return np.full((height, width, 3), (0, 0, 0, 0, 255, int(rng.integers(256)))[int(rng.integers(6))], np.uint8)
    if kind == "photograph" and photographs:
        image = _crop(rng, photographs[int(rng.integers(len(photographs)))])
    elif kind in ("photograph", "leaves"):
        across, down = min(width, CANVAS_PX[0]), min(height, CANVAS_PX[1])
        image = _bytes((dead_leaves(seed, across, down, oversampling=1).numpy() + 1) / 2)
    elif kind == "texture":
        image = _bytes(texture(seed).numpy())
    else:
        image = _gradient(rng, cells=3 if kind == "gradient" else 40)
    enlarged = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    return _graded(rng, enlarged)


def _bytes(image: Float[np.ndarray, "3 h w"]) -> Picture:
    return np.ascontiguousarray((image.transpose(1, 2, 0) * 255).clip(0, 255).astype(np.uint8))


def _crop(rng: np.random.Generator, photograph: Picture) -> Picture:
    height, width, _ = photograph.shape
    share = rng.uniform(0.35, 0.95)
    h, w = max(2, int(height * share)), max(2, int(width * share))
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    cut = photograph[y : y + h, x : x + w]
    return np.ascontiguousarray(cut[:, ::-1] if rng.random() < 0.5 else cut)


def _gradient(rng: np.random.Generator, cells: int) -> Picture:
    grid = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return cv2.resize(grid, CANVAS_PX, interpolation=cv2.INTER_CUBIC)


def _graded(rng: np.random.Generator, image: Picture) -> Picture:
    """Another brightness, contrast and tint, so that a canvas used twice looks like two places."""
    gamma = math.exp(rng.normal(0.1, 0.4))
    tint = 1 + rng.normal(0, 0.08, 3)
    top = rng.uniform(0.55, 1.05)
    ramp = np.linspace(0, 1, 256)[:, None] ** gamma * top * tint * 255
    if rng.random() < 0.12:  # fog, a wall, a road
        ramp = rng.uniform(30, 220) + (ramp - ramp.mean()) * rng.uniform(0.08, 0.4)
    table = ramp.clip(0, 255).astype(np.uint8)[None]
    return cv2.LUT(image, table)


def draw_shot(rng: np.random.Generator, canvas: Picture, frames: int, fps: float, hold: int) -> Shot:
    """A shot of so many frames over a canvas, with whatever happens in it; a flat one is a card with a title."""
    is_card = canvas[0, 0, 0] == canvas.max() == canvas.min()
    path, blur = _camera(rng, frames, fps)
    gain, lift = _light(rng, frames)
    return Shot(
        canvas=canvas,
        frames=frames,
        fps=fps,
        path=path,
        blur=blur,
        gain=gain,
        lift=lift,
        bars=_sliding_bars(rng, frames),
        sprites=() if is_card else _sprites(rng, frames / fps),
        captions=_captions(rng, frames, 0.8 if is_card else 0.22),
        hold=hold,
    )


def _camera(rng: np.random.Generator, frames: int, fps: float) -> tuple[np.ndarray, np.ndarray]:
    kind = str(rng.choice(list(CAMERAS), p=tuple(CAMERAS.values())))
    time = np.arange(frames) / fps
    path = np.zeros((frames, 4))
    path[:] = (*rng.uniform(-0.3, 0.3, 2), rng.uniform(-0.1, 0.35), rng.normal(0, 0.05))
    direction = rng.uniform(0, 2 * math.pi)
    heading = np.array((math.cos(direction), math.sin(direction)))
    speed = {"drift": rng.uniform(0.01, 0.1), "pan": rng.uniform(0.1, 0.8), "shake": rng.uniform(0, 0.1)}.get(kind, 0.0)
    path[:, :2] += (time - time.mean())[:, None] * speed * heading
    if kind == "whip":
        middle, width = rng.uniform(0.2, 0.8) * time[-1], rng.uniform(0.04, 0.15)
        swing = 1 / (1 + np.exp(-(time - middle) / (width / 4)))
        path[:, :2] += swing[:, None] * rng.uniform(0.7, 2.2) * heading
    elif kind == "zoom":
        path[:, 2] += time * rng.choice((-1, 1)) * rng.uniform(0.03, 0.5)
    elif kind == "turn":
        path[:, 3] += time * rng.choice((-1, 1)) * rng.uniform(0.03, 0.6)
    elif kind == "shake":
        tremor = rng.normal(0, rng.uniform(0.003, 0.02), (frames, 2))
        path[:, :2] += cv2.blur(tremor, (1, 3))
    step = np.abs(np.diff(path[:, 0], prepend=path[0, 0]))
    return path, step * rng.uniform(0, 0.5)


def _light(rng: np.random.Generator, frames: int) -> tuple[np.ndarray, np.ndarray]:
    number = np.arange(frames)
    gain, lift = np.ones(frames), np.zeros(frames)
    if rng.random() < 0.16:  # the exposure drifts
        middle, width = rng.uniform(0, frames), rng.uniform(3, 25)
        gain *= np.exp(rng.normal(0, 0.4) / (1 + np.exp(-(number - middle) / width * 4)))
    if rng.random() < 0.08:  # a camera that measures the light anew, and once more
        middle, width = rng.uniform(0, frames), rng.uniform(4, 40)
        gain *= np.exp(rng.normal(0, 0.25) * np.exp(-(((number - middle) / width) ** 2)))
    if rng.random() < 0.1:  # flicker
        gain *= 1 + rng.normal(0, rng.uniform(0.02, 0.08), frames)
    if rng.random() < 0.17 and frames > 16:
        for _ in range(int(rng.integers(1, 4))):
            first, length = int(rng.integers(4, frames - 8)), int(rng.integers(1, 4))
            lift[first : first + length] = rng.uniform(0.3, 1.0)
    return gain, lift


def _sliding_bars(rng: np.random.Generator, frames: int) -> np.ndarray:
    if rng.random() > 0.03:
        return np.zeros(frames)
    first, length = rng.uniform(0, frames), rng.uniform(6, 30)
    slide = np.clip((np.arange(frames) - first) / length, 0, 1)
    return rng.uniform(0.06, 0.14) * (slide if rng.random() < 0.5 else 1 - slide)


def _sprites(rng: np.random.Generator, seconds: float) -> tuple[Sprite, ...]:
    kind = rng.choice(("none", "some", "fast", "near"), p=(0.36, 0.32, 0.14, 0.18))
    if kind == "none":
        return ()
    count = int(rng.integers(1, 3 if kind == "near" else 5))
    speeds = {"some": (0.02, 0.5), "fast": (0.8, 3.0), "near": (0.3, 6.0)}[str(kind)]
    radii = (0.4, 1.6) if kind == "near" else (0.05, 0.25)
    return tuple(_sprite(rng, seconds, speeds, radii) for _ in range(count))


def _sprite(
    rng: np.random.Generator, seconds: float, speeds: tuple[float, float], radii: tuple[float, float]
) -> Sprite:
    direction, speed = rng.uniform(0, 2 * math.pi), rng.uniform(*speeds)
    velocity = (speed * math.cos(direction), 0.4 * speed * math.sin(direction))
    return Sprite(
        colour=(int(rng.integers(256)), int(rng.integers(256)), int(rng.integers(256))),
        corners=int(rng.choice((0, 3, 4, 5, 8))),
        radius=rng.uniform(*radii),
        aspect=rng.uniform(0.4, 1.0),
        start=(rng.uniform(-0.6, 0.6), rng.uniform(-0.35, 0.35)),
        velocity=velocity,
        spin=rng.normal(0, 0.3 if radii[1] > 1 else 2),
        enters_s=rng.uniform(0, seconds),  # it is at `start` then, so fast ones are seen for a moment
    )


def _captions(rng: np.random.Generator, frames: int, share: float) -> tuple[Caption, ...]:
    if rng.random() > share:
        return ()
    text = " ".join(rng.choice(WORDS, int(rng.integers(1, 6))))
    first = int(rng.integers(0, frames))
    last = first + int(rng.integers(10, frames + 10))
    is_title = rng.random() < 0.25 or share > 0.5
    height, size = (rng.uniform(0.4, 0.6), rng.uniform(0.1, 0.2)) if is_title else (0.88, rng.uniform(0.05, 0.08))
    return (Caption(text, height, size, first, last, int(rng.choice((1, 1, 6, 15)))),)


def render(
    shot: Shot,
    number: int,
    size: tuple[int, int],
    grain: UInt8[np.ndarray, "h2 w2 3"] | None,
    dice: np.random.Generator,
) -> Picture:
    """One frame of a shot; numbers past its ends show what would have come before and after."""
    place = number // shot.hold * shot.hold
    at = min(max(place, 0), shot.frames - 1)
    picture = _seen(shot, at, size)
    for sprite in shot.sprites:
        _draw_sprite(picture, sprite, place / shot.fps)
    if shot.blur[at] * size[0] > 1.5:
        picture = cv2.blur(picture, (int(shot.blur[at] * size[0]) | 1, 1))
    if shot.gain[at] != 1 or shot.lift[at] > 0:
        picture = cv2.convertScaleAbs(picture, alpha=shot.gain[at] * (1 - shot.lift[at]), beta=255 * shot.lift[at])
    for caption in shot.captions:
        picture = _with_caption(picture, caption, number)
    if grain is not None:
        y, x = dice.integers(0, GRAIN_ROOM + 1, 2)
        picture = cv2.subtract(cv2.add(picture, grain[y : y + size[1], x : x + size[0]]), GRAIN_LEVEL)
    if (rows := round(shot.bars[at] * size[1])) > 0:
        picture[:rows] = 0
        picture[-rows:] = 0
    return picture


def make_grain(rng: np.random.Generator, deviation: float, size: tuple[int, int]) -> Picture:
    """Grain around 12, which `render` takes away again."""
    shape = (size[1] + GRAIN_ROOM, size[0] + GRAIN_ROOM)
    noise = rng.normal(12, deviation, (*shape, 1)) + rng.normal(0, deviation / 4, (*shape, 3))
    return noise.clip(0, 24).astype(np.uint8)


def _seen(shot: Shot, at: int, size: tuple[int, int]) -> Picture:
    """The canvas from the camera's place, mirrored beyond its edges."""
    width, height = size
    x, y, zoom, angle = shot.path[at]
    scale = math.exp(-zoom)
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    centre_x, centre_y = shot.canvas.shape[1] / 2 + x * height, shot.canvas.shape[0] / 2 + y * height
    matrix = np.array(
        [
            [cosine, -sine, centre_x - cosine * width / 2 + sine * height / 2],
            [sine, cosine, centre_y - sine * width / 2 - cosine * height / 2],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(shot.canvas, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT)


def _draw_sprite(picture: Picture, sprite: Sprite, time_s: float) -> None:
    height, width, _ = picture.shape
    since = time_s - sprite.enters_s
    x = width / 2 + (sprite.start[0] + sprite.velocity[0] * since) * height
    y = height / 2 + (sprite.start[1] + sprite.velocity[1] * since) * height
    radius = sprite.radius * height
    if not (-radius < x < width + radius and -radius < y < height + radius):
        return
    for part in LAYERS if sprite.radius > 0.3 else (1.0,):
        colour = tuple(int(value * (0.4 + 0.6 * part)) for value in sprite.colour)
        _fill(picture, sprite, (x, y), radius * part, sprite.spin * since, colour)


def _fill(
    picture: Picture, sprite: Sprite, at: tuple[float, float], radius: float, turn: float, colour: tuple[int, ...]
) -> None:
    if sprite.corners == 0:
        axes = (max(1, int(radius)), max(1, int(radius * sprite.aspect)))
        cv2.ellipse(picture, (int(at[0]), int(at[1])), axes, math.degrees(turn), 0, 360, colour, -1)
        return
    angles = turn + np.arange(sprite.corners) * 2 * math.pi / sprite.corners
    corners = np.stack([at[0] + radius * np.cos(angles), at[1] + radius * sprite.aspect * np.sin(angles)], 1)
    cv2.fillPoly(picture, [corners.astype(np.int32)], colour)


def _with_caption(picture: Picture, caption: Caption, number: int) -> Picture:
    shown = min(number - caption.first, caption.last - number) + 1
    if shown <= 0:
        return picture
    height, width, _ = picture.shape
    scale = caption.size * height / 22
    (long, _), _ = cv2.getTextSize(caption.text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    place = ((width - long) // 2, int(caption.height * height))
    written = picture.copy()
    thick = max(1, round(scale * 2))
    cv2.putText(written, caption.text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), thick * 3, cv2.LINE_AA)
    cv2.putText(written, caption.text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (250, 250, 240), thick, cv2.LINE_AA)
    weight = min(1.0, shown / caption.fade)
    return cv2.addWeighted(written, weight, picture, 1 - weight, 0) if weight < 1 else written
