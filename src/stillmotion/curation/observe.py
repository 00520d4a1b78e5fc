"""One decode of a video feeds everything that looks at its frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Shaped

from ..errors import MediaError
from ..events import Progress, Watch, unwatched
from ..media.packets import steady_times
from ..media.scan import Sight, sights

REPORT_FRAMES = 100  # between two events of progress


@runtime_checkable
class Observer(Protocol):
    """Sees every frame of one video, in order, and says at the end what it found, in bounded memory."""

    def see(self, sight: Sight) -> None:
        """Take in one frame; its planes are gone afterwards."""
        ...

    def columns(self) -> Mapping[str, Shaped[np.ndarray, "n ..."]]:
        """What was found, by name; names begin with the observer's own, as in `shots.change`."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Observed:
    """What one pass over a video found: a number a frame, and the columns of every observer."""

    times_s: Float[np.ndarray, " n"]
    is_key: Bool[np.ndarray, " n"]
    is_corrupt: Bool[np.ndarray, " n"]
    columns: Mapping[str, Shaped[np.ndarray, "..."]]

    @property
    def frames(self) -> int:
        return len(self.times_s)


def observe(path: Path, observers: Sequence[Observer], watch: Watch = unwatched) -> Observed:
    """Decode a video once and show every frame to each observer.

    Raises MediaError for what cannot be decoded, or has no frame.
    """
    times, keys, corrupt = [], [], []
    for sight in sights(path):
        times.append(sight.time_s)
        keys.append(sight.is_key)
        corrupt.append(sight.is_corrupt)
        for observer in observers:
            observer.see(sight)
        if sight.number % REPORT_FRAMES == 0:
            watch(Progress("scan", sight.number, 0))
    if not times:
        raise MediaError(f"{path} has no frame that can be decoded; expected a whole video.")
    columns = {name: column for observer in observers for name, column in observer.columns().items()}
    return Observed(steady_times(np.array(times)), np.array(keys), np.array(corrupt), columns)
