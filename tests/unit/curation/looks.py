from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stillmotion.curation.records import Clip
from stillmotion.curation.scorer import Look

CLIP = Clip(
    id="0" * 16 + "-0000000-0000002",
    video="0" * 64,
    source="video.mp4",
    first=0,
    last=2,
    start_s=0.0,
    duration_s=0.12,
    fps=25.0,
    width=32,
    height=32,
    mode="copy",
    sha256="0" * 64,
    bytes=1,
)


def look_at(frames: np.ndarray, captions: Mapping[str, str] | None = None) -> Look:
    return Look(CLIP, Path("clip.mp4"), frames, captions or {})
