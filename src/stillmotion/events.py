"""Progress of long work, and the one way to stop it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` units of `stage` are finished. A stage opens with `done` at 0."""

    stage: str
    done: int
    total: int


# Receives every event; raising `errors.Cancelled` from it stops the work at that point, with nothing half-written.
Watch = Callable[[Progress], None]


def unwatched(event: Progress) -> None:
    """A Watch that ignores every event."""
