"""Clips whose motion is known exactly, from photographs and rendered scenes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from stillmotion.media.pixels import to_uint8
from stillmotion.training.toys import ToyConfig, render_clip

ROOT = Path(__file__).parents[3]
PHOTOGRAPHS = {"chelsea": ROOT / "tests/data/media/chelsea.png", "rocket": ROOT / "examples/rocket.jpg"}
WIDTH, HEIGHT = 128, 80
FINE = 4  # pixels of the canvas to one of the clip, so that quarters of a pixel are whole steps


def _canvas(name: str) -> np.ndarray:
    picture = np.asarray(Image.open(PHOTOGRAPHS[name]).convert("RGB"))
    return cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_LANCZOS4)


def _pan(name: str, right: float, down: float, frames: int = 5) -> np.ndarray:
    canvas = _canvas(name)
    step = np.round(np.array([down, right]) * FINE).astype(int)
    middle = (np.array(canvas.shape[:2]) - np.array([HEIGHT, WIDTH]) * FINE) // 2
    clip = []
    for number in range(frames):
        y, x = middle + step * (frames - 1) // 2 - step * number
        window = canvas[y : y + HEIGHT * FINE, x : x + WIDTH * FINE]
        assert window.shape[:2] == (HEIGHT * FINE, WIDTH * FINE)
        clip.append(cv2.resize(window, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))
    return np.stack(clip)


def _turned(name: str, growth: float, degrees: float, frames: int = 5) -> np.ndarray:
    canvas = _canvas(name)
    centre = ((canvas.shape[1] - 1) / 2, (canvas.shape[0] - 1) / 2)
    y, x = ((side - size * FINE) // 2 for side, size in zip(canvas.shape[:2], (HEIGHT, WIDTH), strict=True))
    clip = []
    for number in range(frames):
        # OpenCV turns anticlockwise for positive angles.
        matrix = cv2.getRotationMatrix2D(centre, -degrees * number, growth**number)
        moved = cv2.warpAffine(canvas, matrix, canvas.shape[1::-1], flags=cv2.INTER_CUBIC)
        window = moved[y : y + HEIGHT * FINE, x : x + WIDTH * FINE]
        clip.append(cv2.resize(window, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))
    return np.stack(clip)


@pytest.fixture(scope="session")
def pan_clip() -> Callable[..., np.ndarray]:
    """(photograph, right, down, frames) -> a clip whose content goes so many pixels a frame, in quarters of one."""
    return _pan


@pytest.fixture(scope="session")
def turned_clip() -> Callable[..., np.ndarray]:
    """(photograph, growth, degrees clockwise, frames) -> a clip that grows and turns so much a frame."""
    return _turned


@pytest.fixture(scope="session")
def scenes() -> list[np.ndarray]:
    """Rendered scenes: a pan, a still camera, a zoom, each with flying shapes."""
    found: dict[str, np.ndarray] = {}
    for seed in range(100):
        clip = render_clip(ToyConfig(frames=10), seed)
        if clip.motion_bucket < (10 if clip.scene.camera == "still" else 150):
            continue
        # Above a tenth a frame, a zoom shows the canvas mirrored and too fine for its pixels within ten frames.
        if clip.scene.camera in ("pan", "still", "zoom") and abs(clip.scene.zoom) < 0.08 * clip.fps:
            found.setdefault(clip.scene.camera, to_uint8(clip.frames))
        if len(found) == 3:
            break
    return list(found.values())
