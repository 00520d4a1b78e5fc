"""The file in which a person can watch a video come into being."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ..errors import StillmotionError
from ..events import Progress, Watch
from ..media.strip import write_strip

# Of the time of denoising, where nobody says how often the file is to be written.
WRITING_SHARE = 0.01
PLACEHOLDER = np.full((1, 64, 64, 3), 127, np.uint8)


class PreviewFile:
    """A Watch that writes the previews of the events to a file, and passes every event on.

    With `is_sparing` it leaves previews out, so that writing takes WRITING_SHARE of the time. Raises StillmotionError
    at once where the file cannot be written; where it no longer can be later, the generation goes on without it.
    """

    def __init__(self, path: Path, play_fps: float, watch: Watch, is_sparing: bool) -> None:
        self._path = path
        self._play_fps = play_fps
        self._watch = watch
        self._is_sparing = is_sparing
        self._began = self._spent = 0.0
        self._failure: str | None = None
        write_strip(path, PLACEHOLDER, play_fps)

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence where the file could not be written to the end."""
        return () if self._failure is None else (f"previews ended early: {self._failure}",)

    def __call__(self, event: Progress) -> None:
        now = time.perf_counter()
        if event.stage == "denoise" and event.done == 0:
            self._began, self._spent = now, 0.0
        has_time = not self._is_sparing or self._spent <= WRITING_SHARE * (now - self._began)
        if event.preview is not None and self._failure is None and has_time:
            self._write(event.preview)
            self._spent += time.perf_counter() - now
        self._watch(event)

    def _write(self, frames: np.ndarray) -> None:
        try:
            write_strip(self._path, frames, self._play_fps)
        except StillmotionError as error:
            self._failure = str(error)
