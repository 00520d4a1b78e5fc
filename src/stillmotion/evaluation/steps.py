"""Where every pixel goes from each frame to the next and back: what the measures along the motion are made from."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ..errors import UsageError
from .camera import Camera, fit_camera
from .opencv import cv2

MIN_SIDE_PX = 16  # dense inverse search refuses smaller pictures
# A pixel is followed when the way there and back ends within this of its start. Source: Sundaram 2010, equation 5.
RETURN_SHARE, RETURN_PX = 0.01, 0.5
# With fewer pixels than this share followed, such as at a cut, pixels are compared in place.
MIN_FOLLOWED = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """Two neighbouring frames and the motion between them; displacements in pixels, right and down.

    `forward` belongs to the pixels of `first`, `backward` to those of `second`, `followed` to those of `first`.
    """

    first: UInt8[np.ndarray, "h w 3"]
    second: UInt8[np.ndarray, "h w 3"]
    camera: Camera
    forward: Float[np.ndarray, "h w 2"]
    backward: Float[np.ndarray, "h w 2"]
    followed: Bool[np.ndarray, "h w"]


def check_frames(frames: UInt8[np.ndarray, "t h w 3"], at_least: int = 2) -> None:
    """Raise UsageError unless these are uint8 frames (t, h, w, 3), at least so many, none of them empty."""
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        kind = frames.dtype if isinstance(frames, np.ndarray) else type(frames).__name__
        raise UsageError(f"the frames are {kind}; expected a numpy array of uint8.")
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape[1:]:
        raise UsageError(f"the frames have the shape {frames.shape}; expected (t, h, w, 3) with no side empty.")
    if len(frames) < at_least:
        raise UsageError(f"the video has {len(frames)} frame(s); expected at least {at_least} to measure this.")


def follow(frames: UInt8[np.ndarray, "t h w 3"]) -> list[Step]:
    """The steps of a video, one fewer than its frames.

    First the camera is fitted, then dense inverse search (Kroeger 2016) at its medium preset looks for what is left:
    alone it is off by several percent on a plain pan. Pixels that the camera takes out of the frame follow it. Raises
    UsageError for what are not frames, or fewer than two.
    """
    check_frames(frames)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    steps: list[Step] = []
    for first, second in pairwise(frames):
        steps.append(_step(search, first, second, steps[-1].camera if steps else Camera()))
    return steps


def luma(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """Brightness in levels from 0 to 255, by the weights of ITU-R BT.601."""
    return cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)


def along(picture: np.ndarray, displacement: Float[np.ndarray, "h w 2"]) -> np.ndarray:
    """The picture, (h, w) or (h, w, c), at the end of every pixel's displacement; over the edge, the edge's pixels.

    Linear interpolation, so that no value goes past its neighbours.
    """
    return cv2.remap(picture, *_ends(displacement), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def squared_length(displacement: Float[np.ndarray, "h w 2"]) -> Float[np.ndarray, "h w"]:
    """The square of how far every pixel goes."""
    # Written out: numpy's own sums over an axis of two are ten times slower.
    x, y = displacement[..., 0], displacement[..., 1]
    return x * x + y * y


def in_frame(displacement: Float[np.ndarray, "h w 2"]) -> Bool[np.ndarray, "h w"]:
    """Which pixels' displacements end in the frame."""
    height, width = displacement.shape[:2]
    x, y = _ends(displacement)
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def compared(step: Step) -> tuple[Float[np.ndarray, "h w 2"], Bool[np.ndarray, "h w"]]:
    """The displacements along which to compare the two frames, and at which pixels: in place where motion is lost."""
    if step.followed.mean() >= MIN_FOLLOWED:
        return step.forward, step.followed
    return np.zeros_like(step.forward), np.ones_like(step.followed)


def _step(search: cv2.DISOpticalFlow, first: np.ndarray, second: np.ndarray, before: Camera) -> Step:
    a, b = luma(first), luma(second)
    camera = fit_camera(a, b, before)
    forward, backward = _flow(search, a, b, camera), _flow(search, b, a, camera.inverse())
    returned = along(backward, forward)
    gap = squared_length(forward + returned)
    lengths = squared_length(forward) + squared_length(returned)
    followed = in_frame(forward) & (gap <= RETURN_SHARE * lengths + RETURN_PX)
    return Step(first, second, camera, forward, backward, followed)


def _flow(search: cv2.DISOpticalFlow, a: np.ndarray, b: np.ndarray, camera: Camera) -> Float[np.ndarray, "h w 2"]:
    """The camera's flow, and the residual that is seen once `b` is warped back by it."""
    height, width = a.shape
    whole = camera.flow(height, width)
    back = cv2.remap(b, *_ends(whole), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    back = np.where(in_frame(whole), back, a)
    residual = _search(search, a, back)
    # The residual is seen in the first frame's pixels; the camera turns and grows it on its way.
    real, imaginary = np.float32(camera.factor.real), np.float32(camera.factor.imag)
    whole[..., 0] += real * residual[..., 0] - imaginary * residual[..., 1]
    whole[..., 1] += imaginary * residual[..., 0] + real * residual[..., 1]
    return whole


def _search(search: cv2.DISOpticalFlow, a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "h w 2"]:
    height, width = a.shape
    padding = ((0, max(0, MIN_SIDE_PX - height)), (0, max(0, MIN_SIDE_PX - width)))
    a, b = np.pad(a, padding, mode="edge"), np.pad(b, padding, mode="edge")
    return search.calc(a, b, np.zeros((*a.shape, 2), np.float32))[:height, :width]


def _ends(displacement: Float[np.ndarray, "h w 2"]) -> tuple[np.ndarray, np.ndarray]:
    height, width = displacement.shape[:2]
    x = np.arange(width, dtype=np.float32)[None, :] + displacement[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + displacement[..., 1]
    return x, y
