"""How near one image is to another: the first frame to the image that was given."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from ..errors import UsageError

# Source: Wang 2004, section III.B: an 11 x 11 Gaussian window of 1.5 pixels, K1 = 0.01 and K2 = 0.03 of 255.
WINDOW_PX, WINDOW_SIGMA_PX = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
LUMA = np.array([0.299, 0.587, 0.114])


def psnr(first: UInt8[np.ndarray, "..."], second: UInt8[np.ndarray, "..."]) -> float:
    """Peak signal-to-noise ratio in decibels of two images or videos; infinite where they are equal."""
    error = np.square(first.astype(np.float64) - second.astype(np.float64)).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(first: UInt8[np.ndarray, "h w 3"], second: UInt8[np.ndarray, "h w 3"]) -> float:
    """Structural similarity of the luma of two images: 1 where they are equal, about 0 where nothing is shared.

    The mean over all windows that lie in the image. Source: Wang 2004, equation 13. Raises UsageError for sizes that
    differ, or a side below WINDOW_PX.
    """
    if first.shape != second.shape:
        raise UsageError(f"the images have the shapes {first.shape} and {second.shape}; expected equal ones.")
    if min(first.shape[:2]) < WINDOW_PX:
        size = f"{first.shape[1]}x{first.shape[0]}"
        raise UsageError(f"the images have {size} pixels; expected at least {WINDOW_PX}x{WINDOW_PX} for their SSIM.")
    x, y = first @ LUMA, second @ LUMA
    mean_x, mean_y = _window(x), _window(y)
    var_x, var_y = _window(x * x) - mean_x**2, _window(y * y) - mean_y**2
    covariance = _window(x * y) - mean_x * mean_y
    alike = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    return float((alike / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))).mean())


def _window(field: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h2 w2"]:
    """Weighted means over all windows that lie whole in the field."""
    offsets = np.arange(WINDOW_PX) - WINDOW_PX // 2
    weights = np.exp(-np.square(offsets) / (2 * WINDOW_SIGMA_PX**2))
    weights /= weights.sum()
    for axis in (0, 1):
        length = field.shape[axis] - WINDOW_PX + 1
        field = np.sum([weight * field.take(range(i, i + length), axis) for i, weight in enumerate(weights)], axis=0)
    return field
