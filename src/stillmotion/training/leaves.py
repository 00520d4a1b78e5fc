"""Dead leaves: pictures whose edges, sizes and colours are distributed as those of photographs are.

Leaves of all sizes fall on one another until nothing else shows. Their statistics (edges at all scales, occlusion,
flat, shaded and textured regions) are those an autoencoder needs for photographs, without a photograph.
Source: Lee, Mumford and Huang 2001, "Occlusion models for natural images".
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

SMALLEST_RADIUS_PX, LARGEST_RADIUS_PX = 2.0, 70.0
LEAVES = (15, 150)  # on AREA_PX, and in proportion on other sizes
AREA_PX = 128 * 80


def dead_leaves(seed: int, width: int, height: int, oversampling: int = 2) -> Float[Tensor, "c h w"]:
    """The picture of this seed, in [-1, 1], painted `oversampling` times larger and averaged down."""
    rng = np.random.default_rng(seed)
    palette = _palette(rng)
    image = np.tile(palette[0], (height * oversampling, width * oversampling, 1))
    for radius in _radii(rng, width * height / AREA_PX):
        _drop_leaf(rng, image, radius * oversampling, palette)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    if rng.random() < 0.5:
        pixels = _lit(rng, pixels)
    pixels = F.avg_pool2d(pixels, oversampling)
    if rng.random() < 0.3:
        pixels = _blurred(pixels, rng.uniform(0.4, 1.5))
    return pixels[0].clamp(0, 1) * 2 - 1


def _palette(rng: np.random.Generator) -> np.ndarray:
    """Colours of one picture: brightness from dark to light, hues near one another, a few strong ones."""
    count = 24
    light = rng.beta(0.9, 1.1, count)[:, None]
    tint = rng.normal(0, 0.09, 3) + rng.normal(0, rng.uniform(0.02, 0.2), (count, 3))
    strong = rng.random(count) < rng.uniform(0, 0.4)
    vivid = rng.random((count, 3))
    return np.where(strong[:, None], vivid, np.clip(light + tint, 0, 1)).astype(np.float32)


def _radii(rng: np.random.Generator, area: float) -> np.ndarray:
    """Radii with density proportional to r^-3 between the limits, large ones first, the order a painter would use.

    A strict r^-3 in falling order would bury all large leaves under small ones; half of the order is kept random.
    """
    smallest, largest = SMALLEST_RADIUS_PX * rng.uniform(1, 5), LARGEST_RADIUS_PX
    count = max(1, round(rng.integers(*LEAVES) * area))
    uniform = rng.random(count)
    radii = 1 / np.sqrt(uniform * smallest**-2 + (1 - uniform) * largest**-2)
    cover = rng.uniform(largest / 2, largest, max(1, round(8 * area)))
    rank = -np.log(radii) + rng.normal(0, 0.7, count)
    return np.concatenate([cover, radii[np.argsort(rank)]])


def _drop_leaf(rng: np.random.Generator, image: np.ndarray, radius: float, palette: np.ndarray) -> None:
    height, width, _ = image.shape
    cx, cy = rng.uniform(0, width), rng.uniform(0, height)
    x0, x1 = max(0, math.floor(cx - radius)), min(width, math.ceil(cx + radius))
    y0, y1 = max(0, math.floor(cy - radius)), min(height, math.ceil(cy + radius))
    if x0 >= x1 or y0 >= y1:
        return
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    angle, aspect = rng.uniform(0, math.pi), rng.uniform(0.25, 1.0)
    u = ((x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)) / radius
    v = ((y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)) / (radius * aspect)
    kind = rng.integers(4)
    if kind == 0:
        outside = np.hypot(u, v) - 1
    elif kind == 1:
        outside = np.maximum(np.abs(u), np.abs(v)) - 0.7
    elif kind == 2:
        outside = np.maximum(np.abs(u) * 0.9 + v * 0.5, -v) - 0.5
    else:
        wave = 1 + 0.25 * np.sin(np.arctan2(v, u) * int(rng.integers(2, 7)) + rng.uniform(0, 6))
        outside = np.hypot(u, v) - 0.8 * wave
    softness = 1.0 if rng.random() < 0.8 else rng.uniform(2, 12)
    cover = np.clip(0.5 - outside * radius / softness, 0, 1)[..., None]
    paint = _painted(rng, u, v, palette)
    part = image[y0:y1, x0:x1]
    part += cover * (paint - part)


def _painted(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The colours of a leaf: flat, shaded from one colour to another, striped, or grained."""
    first, second = palette[rng.integers(len(palette), size=2)]
    kind = rng.random()
    if kind < 0.3:
        mix = np.zeros_like(u)
    elif kind < 0.75:
        mix = 0.5 + 0.5 * np.clip(u if rng.random() < 0.5 else np.hypot(u, v) * 2 - 1, -1, 1)
    elif kind < 0.88:
        mix = 0.5 + 0.5 * np.clip(np.sin(u * rng.uniform(4, 30) + v * rng.uniform(-6, 6)) * rng.uniform(1, 4), -1, 1)
    else:
        mix = np.clip(0.5 + rng.normal(0, 0.25, u.shape), 0, 1)
    strength = np.float32(rng.uniform(0.1, 1.0))
    return (first + (strength * mix[..., None]) * (second - first)).astype(np.float32)


def _lit(rng: np.random.Generator, pixels: Tensor) -> Tensor:
    """Slowly varying light over everything."""
    cells = torch.from_numpy(rng.uniform(0.35, 1.25, (1, 1, 3, 4)).astype(np.float32))
    return pixels * F.interpolate(cells, size=pixels.shape[-2:], mode="bicubic", align_corners=True)


def _blurred(pixels: Tensor, sigma_px: float) -> Tensor:
    """Out of focus: a Gaussian blur of up to a pixel and a half."""
    taps = torch.arange(-4, 5, dtype=torch.float32)
    kernel = torch.exp(-(taps**2) / (2 * sigma_px**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(pixels, (4, 4, 4, 4), mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, 9).expand(3, 1, 1, 9), groups=3)
    return F.conv2d(rows, kernel.view(1, 1, 9, 1).expand(3, 1, 9, 1), groups=3)
