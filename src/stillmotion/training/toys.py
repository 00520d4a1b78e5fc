"""Procedural clips whose motion is known: textures under a moving camera, bright shapes that fly and bounce.

A clip is a pure function of its seed, so a data set is a range of integers.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..config import config
from .leaves import dead_leaves

VERSION = 4  # changes whenever a seed could give another clip; encoded data sets are named by it
# A motion score of this many frame heights a second is bucket 255; slower motion is proportionally lower.
FULL_SCALE_SPEED = 0.12
CANVAS_HEIGHTS = 3.0  # the background canvas covers this many frame heights in each direction, then mirrors itself
CANVAS_SIZE_PX = 256
PALETTE = {
    "red": (0.93, 0.16, 0.14),
    "orange": (1.0, 0.55, 0.05),
    "yellow": (0.98, 0.88, 0.1),
    "green": (0.12, 0.8, 0.22),
    "cyan": (0.1, 0.82, 0.9),
    "blue": (0.14, 0.3, 0.95),
    "purple": (0.62, 0.2, 0.9),
    "pink": (1.0, 0.4, 0.75),
}
SHAPES = ("disc", "square", "triangle", "star")
CAMERAS = ("still", "pan", "zoom", "turn")
CAMERA_SHARES = (0.05, 0.25, 0.6, 0.1)
# The camera's way shows in the picture: a pan goes to the lit side, a picture that is lit from below turns, and an
# evenly lit one comes closer. The lit edge is this share brighter than the middle, the other edge darker.
LIGHT = 0.35


@config
class ToyConfig:
    """What the scenes look like."""

    width: int = 128
    height: int = 80
    frames: int = 14
    # Frames a second of the camera, drawn uniformly.
    fps: tuple[int, int] = (5, 12)
    # Objects a scene, drawn uniformly.
    objects: tuple[int, int] = (1, 3)
    # Share of the scenes before dead leaves, which stand for photographs, instead of a muted pattern.
    leaves: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """One bright object. Lengths in frame heights, times in seconds, angles in radians."""

    kind: str
    colour: str
    radius: float
    position: tuple[float, float]
    velocity: tuple[float, float]
    angle: float
    spin: float


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """Everything that happens in one clip."""

    camera: str
    pan: tuple[float, float]  # heights a second
    zoom: float  # natural logarithm a second
    turn: float  # radians a second
    shapes: tuple[Shape, ...]
    fps: int
    texture_seed: int
    # The background is dead leaves.
    has_leaves: bool = False

    @property
    def light(self) -> tuple[float, float]:
        """Where the picture's lit edge lies, from the middle: to the right, and downwards."""
        if self.camera == "pan":
            return (-math.copysign(1.0, self.pan[0]), 0.0)  # what is seen moves to the left where the camera goes right
        return (0.0, 1.0) if self.camera == "turn" else (0.0, 0.0)

    @property
    def caption(self) -> str:
        """The scene in words."""
        things = " and ".join(f"a {shape.colour} {shape.kind}" for shape in self.shapes)
        camera = "a still camera" if self.camera == "still" else f"the camera making a {self.camera}"
        return f"{things} moving over a patterned background, {camera}" if things else f"a pattern, {camera}"


@dataclasses.dataclass(frozen=True, slots=True)
class Clip:
    """Rendered frames in [-1, 1] with their true labels."""

    frames: Float[Tensor, "t c h w"]
    fps: float
    motion_bucket: float
    scene: Scene


def render_clip(cfg: ToyConfig, seed: int) -> Clip:
    """The clip of this seed, the same on every machine of one kind."""
    rng = np.random.default_rng(seed)
    scene = draw_scene(cfg, rng)
    times = torch.arange(cfg.frames) / scene.fps
    frames = _background(cfg, scene, times)
    for shape in scene.shapes:
        frames = _paint(cfg, frames, shape, times)
    return Clip(frames * 2 - 1, float(scene.fps), motion_bucket(motion_speed(cfg, scene)), scene)


def motion_bucket(speed: float) -> float:
    """The bucket of a motion score in frame heights a second."""
    return float(min(255, round(255 * speed / FULL_SCALE_SPEED)))


def motion_speed(cfg: ToyConfig, scene: Scene) -> float:
    """The motion score: mean speed over the frame's area, in frame heights a second."""
    aspect = cfg.width / cfg.height
    y, x = np.meshgrid(np.linspace(-0.5, 0.5, 9), np.linspace(-0.5, 0.5, 9) * aspect, indexing="ij")
    flow_x = scene.pan[0] + scene.zoom * x - scene.turn * y
    flow_y = scene.pan[1] + scene.zoom * y + scene.turn * x
    background = float(np.hypot(flow_x, flow_y).mean())
    covered = sum(math.pi * shape.radius**2 for shape in scene.shapes) / aspect
    moving = sum(math.pi * shape.radius**2 / aspect * math.hypot(*shape.velocity) for shape in scene.shapes)
    return background * max(0.0, 1 - covered) + moving


def draw_scene(cfg: ToyConfig, rng: np.random.Generator) -> Scene:
    """A scene with one energy for camera and objects, so that the motion score says how lively all of it is.

    The camera has few ways, and `Scene.light` tells them: a small network learns a motion that the picture decides in
    minutes, and one that it would have to find in the noise not in hours.
    """
    energy = rng.uniform(0.0, 1.0)
    camera = str(rng.choice(CAMERAS, p=CAMERA_SHARES))
    pan = (float(rng.choice((-1.0, 1.0))), 0.0) if camera == "pan" else (0.0, 0.0)
    zoom, turn = float(camera == "zoom"), float(camera == "turn")
    fps = int(rng.integers(cfg.fps[0], cfg.fps[1] + 1))
    count = int(rng.integers(cfg.objects[0], cfg.objects[1] + 1))
    colours = rng.choice(list(PALETTE), size=count, replace=False)
    shapes = tuple(_draw_shape(cfg, rng, str(colour), energy) for colour in colours)
    seed = int(rng.integers(2**31))
    # Drawn last and by a number of its own, so that scenes without leaves stay as they are.
    has_leaves = bool(np.random.default_rng(seed).random() < cfg.leaves)
    unit = Scene(camera, pan, zoom, turn, (), fps, seed, has_leaves)
    speed = motion_speed(cfg, unit)
    scale = energy * FULL_SCALE_SPEED / speed if speed > 0 else 0.0
    pan = (pan[0] * scale, pan[1] * scale)
    return dataclasses.replace(unit, pan=pan, zoom=zoom * scale, turn=turn * scale, shapes=shapes)


def _draw_shape(cfg: ToyConfig, rng: np.random.Generator, colour: str, energy: float) -> Shape:
    """Its way can be seen before it moves: the lit side leads, and the energy says how fast it flies and spins."""
    aspect = cfg.width / cfg.height
    radius = rng.uniform(0.12, 0.21)
    direction, speed = rng.uniform(0, 2 * math.pi), (0.02 + 0.16 * energy) * rng.uniform(0.9, 1.1)
    return Shape(
        kind=str(rng.choice(SHAPES)),
        colour=colour,
        radius=radius,
        position=(rng.uniform(radius, aspect - radius), rng.uniform(radius, 1 - radius)),
        velocity=(speed * math.cos(direction), speed * math.sin(direction)),
        angle=rng.uniform(0, 2 * math.pi),
        spin=0.8 * energy,
    )


def texture(seed: int, size_px: int = CANVAS_SIZE_PX) -> Float[Tensor, "c h w"]:
    """A muted square pattern in [0, 1]: clouds, stripes, tiles, pebbles or a landscape, in two or three colours."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(0, 1, size_px), np.linspace(0, 1, size_px), indexing="ij")
    clouds = _clouds(rng, size_px)
    kind = rng.choice(("clouds", "stripes", "tiles", "pebbles", "landscape"))
    if kind == "stripes":
        angle, count = rng.uniform(0, math.pi), rng.uniform(6, 22)
        wave = np.sin(2 * math.pi * count * (x * math.cos(angle) + y * math.sin(angle)) + 3 * clouds)
        field = 0.5 + 0.5 * np.clip(wave * rng.uniform(1, 4), -1, 1)
    elif kind == "tiles":
        count = int(rng.integers(8, 24))
        levels = rng.uniform(0, 1, (count, count))
        field = levels[(y * (count - 1e-6)).astype(int), (x * (count - 1e-6)).astype(int)]
    elif kind == "pebbles":
        field = _pebbles(rng, size_px)
    elif kind == "landscape":
        field = np.clip((y - 0.5) * 6 + 2.5 * (clouds - 0.5), 0, 1)
    else:
        field = clouds
    colours = _muted_colours(rng)
    image = _between(colours[0], colours[1], field) * 0.8 + _between(colours[1], colours[2], clouds) * 0.2
    grain = rng.normal(0, rng.uniform(0, 0.02), (1, size_px, size_px))
    return torch.from_numpy(np.clip(image + grain, 0, 1).astype(np.float32))


def _clouds(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Noise of several octaves, each finer and fainter, stretched to [0, 1]."""
    total = torch.zeros(1, 1, size_px, size_px)
    fall = rng.uniform(0.45, 0.75)
    for octave, cells in enumerate((4, 8, 16, 32, 64)):
        noise = torch.from_numpy(rng.normal(size=(1, 1, cells, cells)).astype(np.float32))
        total += fall**octave * F.interpolate(noise, size=(size_px, size_px), mode="bicubic", align_corners=True)
    field = total[0, 0].numpy()
    return (field - field.min()) / (field.max() - field.min())


def _pebbles(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Cells around random points, each of one brightness with a dark rim."""
    points = torch.from_numpy(rng.uniform(0, 1, (int(rng.integers(40, 160)), 2)).astype(np.float32))
    axis = torch.linspace(0, 1, size_px)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    near, index = torch.cdist(grid, points).topk(2, dim=1, largest=False)
    rim = ((near[:, 1] - near[:, 0]) * 40).clamp(0, 1)
    level = torch.from_numpy(rng.uniform(0.2, 1, len(points)).astype(np.float32))[index[:, 0]]
    return (rim * level).reshape(size_px, size_px).numpy()


def _muted_colours(rng: np.random.Generator) -> np.ndarray:
    """Three colours of low saturation and differing brightness, so that the objects stand out."""
    grey = rng.permutation(np.array([0.18, 0.48, 0.8])) + rng.uniform(-0.12, 0.12, 3)
    return np.clip(grey[:, None] + rng.uniform(-0.13, 0.13, (3, 3)), 0, 1)


def _between(first: np.ndarray, second: np.ndarray, field: np.ndarray) -> np.ndarray:
    return first[:, None, None] * (1 - field) + second[:, None, None] * field


def _canvas(scene: Scene) -> Float[Tensor, "c h w"]:
    if scene.has_leaves:
        return (dead_leaves(scene.texture_seed, CANVAS_SIZE_PX, CANVAS_SIZE_PX, oversampling=1) + 1) / 2
    return texture(scene.texture_seed)


def _background(cfg: ToyConfig, scene: Scene, times: Tensor) -> Float[Tensor, "t c h w"]:
    """The canvas as the moving camera sees it."""
    aspect = cfg.width / cfg.height
    y = (torch.arange(cfg.height) + 0.5) / cfg.height - 0.5
    x = ((torch.arange(cfg.width) + 0.5) / cfg.width - 0.5) * aspect
    gy, gx = torch.meshgrid(y, x, indexing="ij")
    # Content moves along the flow, so a screen point looks up the canvas where the flow took it from.
    scale = torch.exp(-scene.zoom * times)[:, None, None]
    cosine, sine = torch.cos(-scene.turn * times)[:, None, None], torch.sin(-scene.turn * times)[:, None, None]
    sx = scale * (cosine * gx - sine * gy) - scene.pan[0] * times[:, None, None]
    sy = scale * (sine * gx + cosine * gy) - scene.pan[1] * times[:, None, None]
    grid = torch.stack([sx, sy], -1) * (2 / CANVAS_HEIGHTS)
    canvas = _canvas(scene)[None].expand(len(times), -1, -1, -1)
    seen = F.grid_sample(canvas, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    light = 1 + LIGHT * (scene.light[0] * gx * (2 / aspect) + scene.light[1] * gy * 2)
    return (seen * light).clamp(0, 1)


def _paint(cfg: ToyConfig, frames: Tensor, shape: Shape, times: Tensor) -> Tensor:
    """Lay a shape over the frames, antialiased over one pixel, with a dark rim and a lit front."""
    aspect = cfg.width / cfg.height
    centre_x = bounce(shape.position[0] + shape.velocity[0] * times, shape.radius, aspect - shape.radius)
    centre_y = bounce(shape.position[1] + shape.velocity[1] * times, shape.radius, 1 - shape.radius)
    y = ((torch.arange(cfg.height) + 0.5) / cfg.height)[None, :, None] - centre_y[:, None, None]
    x = ((torch.arange(cfg.width) + 0.5) / cfg.height)[None, None, :] - centre_x[:, None, None]
    angle = (shape.angle + shape.spin * times)[:, None, None]
    u = (torch.cos(angle) * x + torch.sin(angle) * y) / shape.radius
    v = (-torch.sin(angle) * x + torch.cos(angle) * y) / shape.radius
    distance = _distance(shape.kind, u, v) * shape.radius * cfg.height  # pixels outside the outline
    cover = (0.5 - distance).clamp(0, 1)[:, None]
    rim = (distance + 2.5).clamp(0, 1)[:, None] * 0.55
    speed = max(math.hypot(*shape.velocity), 1e-9)
    front = (shape.velocity[0] * x + shape.velocity[1] * y) / (speed * shape.radius)
    light = (1 + 0.5 * front).clamp(0.45, 1.3)[:, None]
    colour = torch.tensor(PALETTE[shape.colour])[None, :, None, None]
    painted = (colour * light * (1 - rim)).clamp(0, 1)
    return frames * (1 - cover) + painted * cover


def bounce(position: Tensor, low: float, high: float) -> Tensor:
    """Positions of something that reflects between two walls instead of passing them."""
    span = high - low
    phase = torch.remainder(position - low, 2 * span)
    return low + torch.minimum(phase, 2 * span - phase)


def _distance(kind: str, u: Tensor, v: Tensor) -> Tensor:
    """Signed distance, in radii, from the outline of a shape of radius 1; exact enough for one pixel of blending."""
    radius = torch.hypot(u, v)
    if kind == "disc":
        return radius - 0.9
    if kind == "square":
        return torch.maximum(u.abs(), v.abs()) - 0.75
    angle = torch.atan2(v, u)
    if kind == "triangle":
        sector = torch.remainder(angle, 2 * math.pi / 3) - math.pi / 3
        return radius * torch.cos(sector) - 0.52
    sector = (torch.remainder(angle, 2 * math.pi / 5) - math.pi / 5).abs()
    edge = 0.45 / torch.cos(math.pi / 5 - sector).clamp_min(0.3) * (1 + 0.9 * (sector / (math.pi / 5)) ** 2)
    return (radius - edge) * 0.8
