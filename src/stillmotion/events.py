"""Progress of long work, and the one way to stop it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` units of `stage` are finished. A stage opens with `done` at 0."""

    stage: str
    done: int
    total: int
    # How the video looks so far, one pixel a latent pixel: on some events of `denoise`, where previews were asked for.
    preview: UInt8[np.ndarray, "t h w 3"] | None = dataclasses.field(default=None, compare=False, repr=False)


# Receives every event; raising `errors.Cancelled` from it stops the work at that point, with nothing half-written.
Watch = Callable[[Progress], None]


def unwatched(event: Progress) -> None:
    """A Watch that ignores every event."""
