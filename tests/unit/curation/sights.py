"""Videos that were never encoded, as a pass sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np
from PIL import Image

from stillmotion.curation.observe import Observed
from stillmotion.curation.records import Video
from stillmotion.curation.samples import SampleObserver
from stillmotion.media.scan import Sight

PHOTOGRAPHS = "tests/data/media"


def photograph(name: str = "coffee", width: int = 600) -> np.ndarray:
    grey = np.asarray(Image.open(f"{PHOTOGRAPHS}/{name}.png").convert("L"))
    scale = width / grey.shape[1]
    return cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def smooth(sigma: float, seed: int = 0) -> np.ndarray:
    grain = np.random.default_rng(seed).normal(size=(600, 900)).astype(np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), sigma)
    return cv2.normalize(grain, grain, 20, 230, cv2.NORM_MINMAX).astype(np.uint8)


def seen_from(canvas: np.ndarray, size: tuple[int, int], z: complex = 0j, factor: complex = 1 + 0j) -> np.ndarray:
    """The frame of so many pixels across and down whose content has moved by `z` pixels and grown by `factor`."""
    middle = complex(canvas.shape[1] / 2, canvas.shape[0] / 2)
    shift = complex(size[0] / 2, size[1] / 2) + z - factor * middle
    matrix = np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])
    return cv2.warpAffine(canvas, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def sights(pictures: Iterable[np.ndarray], fps: float) -> Iterator[Sight]:
    for number, luma in enumerate(pictures):
        yield Sight(number, number / fps, number == 0, False, luma, None, None, True, number)


def sampled(pictures: Iterable[np.ndarray], fps: float = 10.0) -> Observed:
    observer = SampleObserver()
    frames = 0
    for sight in sights(pictures, fps):
        observer.see(sight)
        frames += 1
    return Observed(np.arange(frames) / fps, np.zeros(frames, bool), np.zeros(frames, bool), observer.columns())


def filmed(
    canvas: np.ndarray, size: tuple[int, int], seconds: float, place: Callable[[float], tuple[complex, complex]]
) -> Iterator[np.ndarray]:
    """Ten frames a second of a canvas; `place` says where its content is, and how large, at each time."""
    for number in range(round(seconds * 10)):
        yield seen_from(canvas, size, *place(number / 10))


def video_of(width: int, height: int, rotation: int = 0) -> Video:
    return Video("a.mp4", "0" * 64, 1, "mp4", "h264", "yuv420p", width, height, rotation, 10.0, 10, 1.0)
