"""Where every pixel goes from each frame to the next and back: what the measures along the motion are made from."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ..errors import UsageError
from .camera import Camera, fit_between, pyramid
from .opencv import cv2

MIN_SIDE_PX = 16  # dense inverse search refuses smaller pictures
# Frames of more pixels are averaged down for the search, whose finest pyramid level is half of what it is given.
SEARCHED_PX = 512 * 288
# A pixel is followed when the way there and back ends within this of its start. Source: Sundaram 2010, equation 5.
RETURN_SHARE, RETURN_PX = 0.01, 0.5
# With fewer pixels than this share followed, such as at a cut, pixels are compared in place.
MIN_FOLLOWED = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Search:
    """The motion between two pictures there and back, at the size of the search; displacements in its pixels.

    `before` and `after` are the lumas. `forward` and `followed` belong to the pixels of `before`, `backward` to those
    of `after`. A pixel is followed where the way back ends at its start.
    """

    before: UInt8[np.ndarray, "h w"]
    after: UInt8[np.ndarray, "h w"]
    forward: Float[np.ndarray, "h w 2"]
    backward: Float[np.ndarray, "h w 2"]
    followed: Bool[np.ndarray, "h w"]


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """Two neighbouring frames and the motion between them; displacements in pixels, right and down.

    `forward`, `followed` and `change` belong to the pixels of `first`. `change` is how far their colours go along
    `forward`: the mean over red, green and blue of the squared levels.
    """

    first: UInt8[np.ndarray, "h w 3"]
    second: UInt8[np.ndarray, "h w 3"]
    camera: Camera
    forward: Float[np.ndarray, "h w 2"]
    followed: Bool[np.ndarray, "h w"]
    change: Float[np.ndarray, "h w"]
    search: Search


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
    alone it is off by several percent on a plain pan. The search sees at most SEARCHED_PX, and its displacements are
    interpolated to the frames' size. Pixels that the camera takes out of the frame follow it. Raises UsageError for
    what are not frames, or fewer than two.
    """
    check_frames(frames)
    dense = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    steps: list[Step] = []
    second = _seen(frames[0])
    for frame in frames[1:]:
        first, second = second, _seen(frame)
        before = steps[-1].camera if steps else Camera()
        camera = fit_between(first.pyramid, second.pyramid, frames.shape[1], before)
        steps.append(_step(dense, first, second, camera))
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


def is_followed(step: Step) -> bool:
    """Whether enough pixels are followed to compare the two frames along the motion."""
    return bool(step.followed.mean() >= MIN_FOLLOWED)


def compared(step: Step) -> tuple[Float[np.ndarray, "h w 2"], Bool[np.ndarray, "h w"]]:
    """The displacements along which to compare the two frames, and at which pixels: in place where motion is lost."""
    if is_followed(step):
        return step.forward, step.followed
    return np.zeros_like(step.forward), np.ones_like(step.followed)


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """A frame, its luma as the search sees it, and as the fit of the camera does."""

    frame: UInt8[np.ndarray, "h w 3"]
    searched: UInt8[np.ndarray, "h2 w2"]
    pyramid: list[np.ndarray]


def _seen(frame: UInt8[np.ndarray, "h w 3"]) -> _Seen:
    whole = luma(frame)
    return _Seen(frame, _searched(whole), pyramid(whole))


def _step(dense: cv2.DISOpticalFlow, first: _Seen, second: _Seen, camera: Camera) -> Step:
    size, scale = first.frame.shape[:2], first.searched.shape[0] / first.frame.shape[0]
    search = _search(dense, first.searched, second.searched, camera.scaled(scale), scale)
    forward, followed = search.forward, search.followed
    if first.searched.shape != size:
        forward = _enlarged(forward, size)
        followed = cv2.resize(followed.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) > 0
    moved = along(second.frame.astype(np.float32), forward)
    moved -= first.frame
    change = np.einsum("hwc,hwc->hw", moved, moved) / np.float32(3)
    return Step(first.frame, second.frame, camera, forward, followed, change, search)


def _enlarged(flow: Float[np.ndarray, "h w 2"], size: tuple[int, int]) -> Float[np.ndarray, "h2 w2 2"]:
    """Displacements in pixels of a larger picture, (height, width)."""
    enlarged = cv2.resize(flow, size[::-1], interpolation=cv2.INTER_LINEAR)
    enlarged *= np.array([size[1] / flow.shape[1], size[0] / flow.shape[0]], np.float32)
    return enlarged


def _searched(whole: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h2 w2"]:
    scale = (SEARCHED_PX / whole.size) ** 0.5
    if scale >= 1:
        return whole
    size = (max(1, round(whole.shape[1] * scale)), max(1, round(whole.shape[0] * scale)))
    return cv2.resize(whole, size, interpolation=cv2.INTER_AREA)


def _search(dense: cv2.DISOpticalFlow, a: np.ndarray, b: np.ndarray, camera: Camera, scale: float) -> Search:
    forward, backward = _flow(dense, a, b, camera), _flow(dense, b, a, camera.inverse())
    returned = along(backward, forward)
    gap = squared_length(forward + returned)
    lengths = squared_length(forward) + squared_length(returned)
    followed = in_frame(forward) & (gap <= RETURN_SHARE * lengths + RETURN_PX * scale**2)
    return Search(a, b, forward, backward, followed)


def _flow(dense: cv2.DISOpticalFlow, a: np.ndarray, b: np.ndarray, camera: Camera) -> Float[np.ndarray, "h w 2"]:
    """The camera's flow, and the residual that is seen once `b` is warped back by it."""
    height, width = a.shape
    whole = camera.flow(height, width)
    back = cv2.remap(b, *_ends(whole), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    back = np.where(in_frame(whole), back, a)
    residual = _residual(dense, a, back)
    # The residual is seen in the first frame's pixels; the camera turns and grows it on its way.
    real, imaginary = np.float32(camera.factor.real), np.float32(camera.factor.imag)
    whole[..., 0] += real * residual[..., 0] - imaginary * residual[..., 1]
    whole[..., 1] += imaginary * residual[..., 0] + real * residual[..., 1]
    return whole


def _residual(dense: cv2.DISOpticalFlow, a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "h w 2"]:
    height, width = a.shape
    padding = ((0, max(0, MIN_SIDE_PX - height)), (0, max(0, MIN_SIDE_PX - width)))
    a, b = np.pad(a, padding, mode="edge"), np.pad(b, padding, mode="edge")
    return dense.calc(a, b, np.zeros((*a.shape, 2), np.float32))[:height, :width]


def _ends(displacement: Float[np.ndarray, "h w 2"]) -> tuple[np.ndarray, np.ndarray]:
    height, width = displacement.shape[:2]
    x = np.arange(width, dtype=np.float32)[None, :] + displacement[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + displacement[..., 1]
    return x, y
