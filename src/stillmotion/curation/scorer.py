"""How a clip is looked at, and what looks at it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from .records import Clip, Number


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """Evenly spaced frames of one clip, the first and the last among them, upright, in RGB."""

    clip: Clip
    path: Path
    frames: UInt8[np.ndarray, "k h w 3"]
    # What earlier scorers said of the clip, by captioner.
    captions: Mapping[str, str] = dataclasses.field(default_factory=dict)


@runtime_checkable
class Scorer(Protocol):
    """A pure function of a clip. Its name stands in the manifest beside its columns, with the version of its Looker."""

    name: str
    # How many evenly spaced frames it wants to see; 3 are the first, the middle and the last.
    frames: int

    def score(self, look: Look) -> Mapping[str, Number | tuple[float, ...]]:
        """Columns by name, which begin with the scorer's own, as in `text.area`."""
        ...
