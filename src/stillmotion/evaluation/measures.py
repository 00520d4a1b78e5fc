"""All measures of one video at once; the motion is followed a single time."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import UInt8

from ..errors import UsageError
from .drift import colour_drift, sharpness_drift
from .fidelity import WINDOW_PX, psnr, ssim
from .flicker import brightness_flicker, local_flicker, warping_error
from .freeze import FROZEN, held_share, wander
from .motion import Motion, motion
from .opencv import cv2
from .seam import Seam, loop_seam, seam
from .steps import check_frames, follow

# Larger frames are averaged down to this many pixels: the largest that the released models were trained on.
MEASURED_PX = 1024 * 576


@dataclasses.dataclass(frozen=True, slots=True)
class Measures:
    """What the functions of the same names say; None where the video is too short, or no image was given."""

    motion: Motion
    frozen: bool
    wander: float
    held_share: float
    warping_error: float
    brightness_flicker: float | None
    local_flicker: float | None
    sharpness_drift: float
    colour_drift: float
    seam: Seam | None
    loop_seam: float
    first_frame_psnr: float | None
    first_frame_ssim: float | None


def measure(
    frames: UInt8[np.ndarray, "t h w 3"], fps: float, given: UInt8[np.ndarray, "h w 3"] | None = None
) -> Measures:
    """Measure a video of `fps` frames a second, and its first frame against the `given` image of the same size.

    Videos of more than MEASURED_PX are averaged down first, but for the comparison with the image. Raises UsageError
    for fewer than two frames, another size of the image, or a rate that is no positive number.
    """
    check_frames(frames)
    if not (math.isfinite(fps) and fps > 0):
        raise UsageError(f"the rate is {fps} frames a second; expected a number over 0.")
    if given is not None and given.shape != frames[0].shape:
        raise UsageError(f"the image has the shape {given.shape}; expected the video's {frames[0].shape}.")
    first, frames = frames[0], _shrunk(frames)
    steps = follow(frames)
    long_enough, wandered = len(frames) >= 3, wander(frames)
    return Measures(
        motion=motion(frames, fps, steps),
        frozen=wandered < FROZEN,
        wander=wandered,
        held_share=held_share(frames),
        warping_error=warping_error(frames, steps),
        brightness_flicker=brightness_flicker(frames) if long_enough else None,
        local_flicker=local_flicker(frames, steps) if long_enough else None,
        sharpness_drift=sharpness_drift(frames, steps),
        colour_drift=colour_drift(frames, steps),
        seam=seam(frames, steps) if long_enough else None,
        loop_seam=loop_seam(frames),
        first_frame_psnr=None if given is None else psnr(first, given),
        first_frame_ssim=None if given is None or min(first.shape[:2]) < WINDOW_PX else ssim(first, given),
    )


def _shrunk(frames: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t h w 3"]:
    height, width = frames.shape[1:3]
    scale = math.sqrt(MEASURED_PX / (height * width))
    if scale >= 1:
        return frames
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
