"""The paper's cascade: a content detector at several frame rates and thresholds, and all that any of them finds.

Source: Stable Video Diffusion, appendix C. The paper gives neither rates nor thresholds; the detector is the
ContentDetector of PySceneDetect, here over thumbnails. It takes flashes for cuts and
misses wipes: for comparison, not for use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float, UInt8
from pydantic import Field

from ..config import config
from ..evaluation.opencv import cv2
from .records import Transition
from .thumbnails import CHROMA_PX, LUMA_BYTES, LUMA_PX

Level = Annotated[float, Field(ge=0, le=255)]


@config
class Cascade:
    """A content detector that looks at every frame, at every fourth, and at every tenth."""

    kind: Literal["cascade"] = "cascade"
    strides: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 4, 10)
    # Mean change of hue, saturation and brightness, of 255, from which on there is a cut: one for all, or one a stride.
    threshold: Level | tuple[Level, ...] = 27.0
    # A shot has at least so many frames.
    min_frames: Annotated[int, Field(ge=1)] = 15

    def __post_init__(self) -> None:
        if isinstance(self.threshold, tuple) and len(self.threshold) != len(self.strides):
            raise ValueError(f"{len(self.threshold)} thresholds for {len(self.strides)} strides; expected one each.")

    def thresholds(self) -> dict[int, float]:
        """That of each stride."""
        each = self.threshold if isinstance(self.threshold, tuple) else (self.threshold,) * len(self.strides)
        return dict(zip(self.strides, each, strict=True))


class ContentSteps:
    """The change of content since the frame `stride` before, at every frame that each stride looks at; 0 elsewhere."""

    def __init__(self, cfg: Cascade) -> None:
        self._last: dict[int, UInt8[np.ndarray, "h w 3"]] = {}
        self._steps: dict[int, list[float]] = {stride: [] for stride in cfg.strides}

    def add(self, row: UInt8[np.ndarray, " n"]) -> None:
        """Take in the next frame's thumbnail."""
        now = _hue_saturation_value(row)
        for stride, steps in self._steps.items():
            if len(steps) % stride:
                steps.append(0.0)
                continue
            last = self._last.get(stride, now)
            steps.append(float(cv2.absdiff(now, last).mean()))
            self._last[stride] = now

    def columns(self) -> Mapping[str, Float[np.ndarray, " n"]]:
        """One column a stride."""
        return {f"shots.content_{stride}": np.array(steps, np.float32) for stride, steps in self._steps.items()}


def _hue_saturation_value(row: UInt8[np.ndarray, " n"]) -> UInt8[np.ndarray, "h w 3"]:
    luma = row[:LUMA_BYTES].reshape(LUMA_PX[1], LUMA_PX[0])
    chroma = row[LUMA_BYTES:].reshape(2, CHROMA_PX[1], CHROMA_PX[0])
    blue, red = (cv2.resize(plane, LUMA_PX, interpolation=cv2.INTER_LINEAR) for plane in chroma)
    return cv2.cvtColor(cv2.cvtColor(cv2.merge([luma, red, blue]), cv2.COLOR_YCrCb2BGR), cv2.COLOR_BGR2HSV)


def find_cascade(columns: Mapping[str, Float[np.ndarray, " n"]], cfg: Cascade) -> tuple[Transition, ...]:
    """What any stride finds. Where one looked more closely than another, its interval stands."""
    found: list[Transition] = []
    for stride, threshold in sorted(cfg.thresholds().items()):
        for each in _content_cuts(columns[f"shots.content_{stride}"], stride, threshold, cfg.min_frames):
            if not any(each.before < other.after and other.before < each.after for other in found):
                found.append(each)
    return tuple(sorted(found, key=lambda each: each.before))


def _content_cuts(
    steps: Float[np.ndarray, " n"], stride: int, threshold: float, min_frames: int
) -> Iterator[Transition]:
    last = 0
    for number in np.flatnonzero(steps >= threshold):
        if number >= stride and number - last >= min_frames:
            last = int(number)
            yield Transition("cut" if stride == 1 else "dissolve", last - stride, last)
