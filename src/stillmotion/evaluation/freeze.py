"""Whether a video stands still, told from noise and compression. Needs numpy alone, so that generation can ask it."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
from jaxtyping import Float, UInt8

from ..errors import UsageError

# The picture is measured at about this height, in blocks of this side.
SHORT_SIDE_PX = 64
BLOCK_PX = 16
# The clip is cut into this many parts, whose means hold little grain and are far enough apart to see slow motion.
PARTS = 4
# Texture in squared levels a pixel below which a difference is taken for noise.
NOISE_LEVELS = 1.0
# In frame heights. A whole clip that moves less than FROZEN is frozen: 0.28 pixels of an 80-pixel frame.
FROZEN = 0.0035
# A frame that moves less than this from the one before is held.
HELD = 0.001
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def is_frozen(frames: UInt8[np.ndarray, "t h w 3"]) -> bool:
    """Whether nothing moves through the whole clip: its `wander` is below FROZEN.

    A single frame is frozen. Grain, compression, flicker of brightness and shimmer do not count as motion. A shape of
    a few percent of the frame that moves by less than a tenth of the height may be missed.
    """
    return wander(frames) < FROZEN


def wander(frames: UInt8[np.ndarray, "t h w 3"]) -> float:
    """How far the picture gets from itself: mean displacement, in frame heights, of its blocks.

    The largest between any two of the PARTS of the clip, so that motion that comes back counts. True to scale up to
    about 0.03; beyond, only known to be large. 0 for a single frame. Raises UsageError for no frame.
    """
    pictures = _pictures(frames)
    parts = [part.mean(0) for part in np.array_split(pictures, min(PARTS, len(pictures)))]
    return max((_displacement(a, b) for a, b in combinations(parts, 2)), default=0.0)


def held_share(frames: UInt8[np.ndarray, "t h w 3"]) -> float:
    """The share of neighbouring pairs of frames that are nearly equal: moved by less than HELD.

    Heavy grain hides held frames from it, which `wander` sees through. Raises UsageError for fewer than two frames.
    """
    if len(frames) < 2:
        raise UsageError(f"the video has {len(frames)} frame(s); expected at least 2 to look for held ones.")
    return float(np.mean([_displacement(a, b) < HELD for a, b in pairwise(_pictures(frames))]))


def _pictures(frames: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "t h2 w2"]:
    """Luma, averaged down to about SHORT_SIDE_PX and smoothed."""
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise UsageError(f"the frames have the shape {frames.shape}; expected (t, h, w, 3) with at least one frame.")
    size = max(1, round(min(frames.shape[1:3]) / SHORT_SIDE_PX))
    return np.stack([_smooth(_averaged(frame @ LUMA, size)) for frame in frames])


def _averaged(picture: Float[np.ndarray, "h w"], size: int) -> Float[np.ndarray, "h2 w2"]:
    height, width = picture.shape[0] // size, picture.shape[1] // size
    return picture[: height * size, : width * size].reshape(height, size, width, size).mean((1, 3))


def _smooth(picture: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    for axis in (0, 1):
        length = picture.shape[axis]
        padded = np.pad(picture, [(2, 2) if each == axis else (0, 0) for each in (0, 1)], mode="edge")
        weights = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
        picture = np.sum([weight * padded.take(range(i, i + length), axis) for i, weight in enumerate(weights)], axis=0)
    return picture


def _displacement(a: Float[np.ndarray, "h w"], b: Float[np.ndarray, "h w"]) -> float:
    """Mean length over blocks, in heights, of the shift that best explains their difference.

    Brightness and contrast are matched first. Source: Lucas and Kanade 1981, one step.
    """
    if min(a.shape) < 2:
        return 0.0
    b = (b - b.mean()) * (a.std() + 1e-3) / (b.std() + 1e-3) + a.mean()
    down, right = np.gradient((a + b) / 2)
    change = a - b
    change = change - np.median(change)
    ridge = NOISE_LEVELS * BLOCK_PX**2
    xx, yy = _sums(np.square(right)) + ridge, _sums(np.square(down)) + ridge
    xy, x, y = (_sums(np.multiply(*pair)) for pair in ((right, down), (right, change), (down, change)))
    lengths = np.hypot(yy * x - xy * y, xx * y - xy * x) / (xx * yy - xy * xy)
    return float(lengths.mean() / a.shape[0])


def _sums(field: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h2 w2"]:
    height, width = field.shape
    whole = np.pad(field, ((0, -height % BLOCK_PX), (0, -width % BLOCK_PX)))
    rows, columns = whole.shape[0] // BLOCK_PX, whole.shape[1] // BLOCK_PX
    return whole.reshape(rows, BLOCK_PX, columns, BLOCK_PX).sum((1, 3))
