"""The camera between two frames: the one shift, zoom and roll that most of the picture follows."""

from __future__ import annotations

import cmath
import dataclasses
from functools import lru_cache, partial

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, UInt8
from torch.nn import functional as F

from .opencv import cv2

Grey = Float[np.ndarray, "h w"]

FINEST_PX = 216  # the shorter side at which the fit ends: a hundredth of a pixel there is 0.00005 heights
COARSEST_PX = 24
STARTING_ZOOM = 1.13  # a fit that starts from no zoom loses its way above ten percent a frame
COARSE_STEPS, FINE_STEPS = 8, 6
SETTLED_PX = 0.002
# The fit reads pictures of twice its grid, smoothed, for there linear interpolation shifts edges by 0.3 % of a pixel
# at most. On the grid itself it is 4 %, always the same way.
OVERSAMPLING = 2
SMOOTHING_PX = 2.0
# Pixels below this share of the mean squared gradient say nothing of motion, only of noise.
TEXTURE_SHARE = 0.25
TEXTURE_LEVELS = 2.0  # a gradient in grey levels a pixel that counts as texture in any picture
MIN_PIXELS = 32
# Tukey's biweight: 95 % efficient on normal residuals. Source: Holland and Welsch 1977.
TUKEY = 4.685
MEDIAN_OF = 20_000  # residuals, evenly taken: their median is known to a hundredth of their spread
FLOOR_LEVELS = 0.2  # residuals of 8-bit pixels are never finer
RIDGE = 1e-2


@dataclasses.dataclass(frozen=True, slots=True)
class Camera:
    """How picture content moves from one frame to the next: z -> factor * z + shift.

    z = x + iy is a place in pixels, right and down, from the middle of the frame; `shift` is in pixels; `factor` is
    the zoom times a turn, clockwise where positive.
    """

    shift: complex = 0j
    factor: complex = 1 + 0j

    @property
    def zoom(self) -> float:
        """Natural logarithm of the growth: 0.01 is one percent larger."""
        return float(np.log(abs(self.factor)))

    @property
    def roll(self) -> float:
        """Radians by which the content turns clockwise."""
        return cmath.phase(self.factor)

    def scaled(self, scale: float) -> Camera:
        """The same camera in pictures of `scale` times the size."""
        return Camera(self.shift * scale, self.factor)

    def inverse(self) -> Camera:
        """The camera from the second frame back to the first."""
        return Camera(-self.shift / self.factor, 1 / self.factor)

    def flow(self, height: int, width: int) -> Float[np.ndarray, "h w 2"]:
        """Displacement in pixels, right and down, of every pixel."""
        moved = (self.factor - 1) * _places(height, width) + self.shift
        return np.stack([np.real(moved), np.imag(moved)], -1).astype(np.float32)


def fit_camera(
    first: UInt8[np.ndarray, "h w"], second: UInt8[np.ndarray, "h w"], before: Camera | None = None
) -> Camera:
    """The camera that most of the textured pixels follow, and no motion where there is no texture.

    Robust least squares on the brightness difference, from coarse to fine, with one brightness change as another
    unknown; both pictures are warped half-way, so that the fit backwards is its inverse. It starts from no motion,
    from the peak of phase correlation, from a zoom in and out, and from the camera of the step `before`, and keeps the
    best. Source: Odobez and Bouthemy 1995, equations 3 to 9, with
    the four parameters of a similarity.
    """
    return fit_between(pyramid(first), pyramid(second), first.shape[0], before)


def pyramid(picture: UInt8[np.ndarray, "h w"]) -> list[Grey]:
    """The picture as the fit sees it: at OVERSAMPLING times the sizes of its grids, smoothed, the coarsest first."""
    height, width = picture.shape
    scale = min(1.0, FINEST_PX / min(height, width))
    levels = []
    while not levels or min(height, width) * scale >= COARSEST_PX:
        size = (OVERSAMPLING * max(1, round(width * scale)), OVERSAMPLING * max(1, round(height * scale)))
        levels.append(_resized(picture, size))
        scale /= 2
    return levels[::-1]


def fit_between(first: list[Grey], second: list[Grey], whole_height: int, before: Camera | None = None) -> Camera:
    """What `fit_camera` finds, of the pyramids of two pictures of this height in pixels."""
    camera, height = Camera(), 0.0
    for a, b in zip(first, second, strict=True):
        grid_height = a.shape[0] / OVERSAMPLING
        if not height:
            starts = _starts(a, b, before or Camera(), grid_height / whole_height)
            camera = min((_refine(a, b, start, COARSE_STEPS) for start in starts), key=partial(_misfit, a, b))
        else:
            camera = _refine(a, b, camera.scaled(grid_height / height), FINE_STEPS)
        height = grid_height
    return camera.scaled(whole_height / height)


def _resized(picture: np.ndarray, size: tuple[int, int]) -> Grey:
    method = cv2.INTER_AREA if size[0] <= picture.shape[1] else cv2.INTER_LANCZOS4
    return cv2.GaussianBlur(cv2.resize(picture.astype(np.float32), size, interpolation=method), (0, 0), SMOOTHING_PX)


def _starts(a: Grey, b: Grey, before: Camera, scale: float) -> tuple[Camera, ...]:
    zooms = (Camera(factor=STARTING_ZOOM + 0j), Camera(factor=1 / STARTING_ZOOM + 0j))
    near = before.scaled(scale)
    return (Camera(), Camera(_correlated_shift(a, b)), *zooms, near)


def _correlated_shift(a: Grey, b: Grey) -> complex:
    if min(a.shape) < COARSEST_PX:
        return 0j
    window = cv2.createHanningWindow((a.shape[1], a.shape[0]), cv2.CV_32F)
    # Copies: OpenCV lays the window over its own arguments where their sizes suit its transform.
    (right, down), _ = cv2.phaseCorrelate(a.copy(), b.copy(), window)
    return complex(right, down) / OVERSAMPLING


def _refine(a: Grey, b: Grey, start: Camera, steps: int) -> Camera:
    """Gauss-Newton on the grid; the camera is written as shift and factor - 1 of the two half-way warps together."""
    growth = 2 * (start.factor - 1) / (start.factor + 1)
    shift = 2 * start.shift / (1 + start.factor)
    half_height = a.shape[0] / OVERSAMPLING / 2
    for _ in range(steps):
        change = _step(a, b, shift, growth)
        shift, growth = shift + change[0], growth + change[1]
        if abs(change[0]) + abs(change[1]) * half_height < SETTLED_PX:
            break
    factor = (1 + growth / 2) / (1 - growth / 2)
    return Camera((1 + factor) / 2 * shift, factor)


def _step(a: Grey, b: Grey, shift: complex, growth: complex) -> tuple[complex, complex]:
    """One weighted least-squares step: the change of shift and of growth."""
    places = _places(a.shape[0] // OVERSAMPLING, a.shape[1] // OVERSAMPLING)
    moved = (growth * places + shift) / 2
    before, after = _sample(a, places - moved), _sample(b, places + moved)
    middle = (before + after) / 2
    right = cv2.Scharr(middle, cv2.CV_32F, 1, 0, scale=1 / 32)
    down = cv2.Scharr(middle, cv2.CV_32F, 0, 1, scale=1 / 32)
    used = _textured(right, down, _inside(places - moved) & _inside(places + moved))
    if np.count_nonzero(used) < MIN_PIXELS:
        return 0j, 0j
    residual, gx, gy = (before - after)[used], right[used], down[used]
    x, y = np.real(places[used]), np.imag(places[used])
    slopes = np.stack([gx, gy, gx * x + gy * y, gy * x - gx * y, np.ones_like(gx)])
    weighted = slopes * _tukey(residual)
    ridge = RIDGE * np.array([1, 1, a.size, a.size, 1]) / OVERSAMPLING**2
    solved = np.linalg.solve(weighted @ slopes.T + np.diag(ridge), weighted @ residual)
    return complex(solved[0], solved[1]), complex(solved[2], solved[3])


def _tukey(residual: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    some = residual[:: 1 + residual.size // MEDIAN_OF]
    middle = np.median(some)
    spread = 1.4826 * np.median(np.abs(some - middle)) + FLOOR_LEVELS  # the median deviation as a standard deviation
    centred = residual - middle
    return np.square(np.clip(1 - np.square(centred / (TUKEY * spread)), 0, None))


def _textured(right: Grey, down: Grey, inside: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    strength = np.square(right) + np.square(down)
    mean = float(strength[inside].mean()) if inside.any() else 0.0
    return inside & (strength > 0) & (strength >= min(TEXTURE_SHARE * mean, TEXTURE_LEVELS**2))


def _misfit(a: Grey, b: Grey, camera: Camera) -> float:
    places = _places(a.shape[0] // OVERSAMPLING, a.shape[1] // OVERSAMPLING)
    moved = camera.factor * places + camera.shift
    inside = _inside(moved)
    if np.count_nonzero(inside) < MIN_PIXELS:
        return float("inf")
    return float(np.abs(_sample(b, moved) - _sample(a, places))[inside].mean())


@lru_cache(maxsize=8)
def _places(height: int, width: int) -> Complex[np.ndarray, "h w"]:
    """Complex pixel centres, (h, w), from the middle of the frame; not to be written to."""
    x = np.arange(width, dtype=np.float32) - (width - 1) / 2
    y = np.arange(height, dtype=np.float32) - (height - 1) / 2
    return (x[None, :] + 1j * y[:, None]).astype(np.complex64)


def _inside(places: Complex[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Which places lie in the frame, but for its outermost pixels, whose gradient is one-sided."""
    height, width = places.shape
    inside = (np.abs(np.real(places)) <= (width - 1) / 2) & (np.abs(np.imag(places)) <= (height - 1) / 2)
    inside[[0, -1]] = False
    inside[:, [0, -1]] = False
    return inside


def _sample(picture: Float[np.ndarray, "H W"], places: Complex[np.ndarray, "h w"]) -> Grey:
    """The picture, OVERSAMPLING times the grid, at places of the grid.

    OpenCV's own warps round places to a 32nd of a pixel, which is too coarse here.
    """
    height, width = places.shape
    pairs = places.view(np.float32).reshape(height, width, 2)
    grid = pairs * np.array([2 / width, 2 / height], np.float32)
    source = torch.from_numpy(picture)[None, None]
    return F.grid_sample(source, torch.from_numpy(grid)[None], padding_mode="border", align_corners=False)[0, 0].numpy()
