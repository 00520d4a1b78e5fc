"""How well found transitions agree with known ones, by the rules of TRECVID's shot boundary task.

A found cut agrees within one frame; a gradual transition where the middle of what was found lies within the true
interval or two frames beside it. Each true transition takes one found one, the first in order; the rest are false.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from .records import Span, Transition
from .shots import shots_between

CUT_SLACK, GRADUAL_SLACK = 1, 2  # frames


@dataclasses.dataclass(frozen=True, slots=True)
class Agreement:
    """Counts, which add up over videos."""

    found: dict[str, int]  # true transitions that were found, by kind
    truth: dict[str, int]  # all of them
    false: int
    flashes: int
    flash_cuts: int  # flashes at which a false cut stands
    clips: int
    mixed_clips: int  # that still hold a transition
    frames: int  # of one shot alone
    lost_frames: int  # of those, in no clip

    @property
    def recall(self) -> float:
        return sum(self.found.values()) / max(1, sum(self.truth.values()))

    @property
    def precision(self) -> float:
        hits = sum(self.found.values())
        return hits / max(1, hits + self.false)

    @property
    def f1(self) -> float:
        total = self.recall + self.precision
        return 2 * self.recall * self.precision / total if total else 0.0

    def __add__(self, other: Agreement) -> Agreement:
        kinds = self.truth.keys() | other.truth.keys()
        found, truth = (
            {kind: one.get(kind, 0) + two.get(kind, 0) for kind in sorted(kinds)}
            for one, two in ((self.found, other.found), (self.truth, other.truth))
        )
        names = [field.name for field in dataclasses.fields(self)[2:]]
        return Agreement(found, truth, *(getattr(self, name) + getattr(other, name) for name in names))


def agreement(
    found: Sequence[Transition],
    truth: Sequence[Transition],
    frames: int,
    flashes: Sequence[tuple[int, int]] = (),
) -> Agreement:
    """Compare what was found in a video of so many frames with the truth; `flashes` are first and last frames."""
    left = list(found)
    hits: dict[str, int] = {}
    totals: dict[str, int] = {}
    for true in truth:
        totals[true.kind] = totals.get(true.kind, 0) + 1
        match = next((each for each in left if _agrees(each, true)), None)
        hits[true.kind] = hits.get(true.kind, 0) + (match is not None)
        if match is not None:
            left.remove(match)
    spans = shots_between(found, frames)
    alone = np.ones(frames, bool)
    kept = np.zeros(frames, bool)
    for true in truth:
        alone[true.before + 1 : true.after] = False
    for span in spans:
        kept[span.first : span.last + 1] = True
    return Agreement(
        found=hits,
        truth=totals,
        false=len(left),
        flashes=len(flashes),
        flash_cuts=sum(any(_is_cut_at(each, *flash) for each in left) for flash in flashes),
        clips=len(spans),
        mixed_clips=sum(any(_holds(span, true) for true in truth) for span in spans),
        frames=int(alone.sum()),
        lost_frames=int((alone & ~kept).sum()),
    )


def _agrees(found: Transition, true: Transition) -> bool:
    slack = CUT_SLACK if true.kind == "cut" else GRADUAL_SLACK
    if found.kind == "cut" and true.kind == "cut":
        return abs(found.after - true.after) <= slack
    middle = (found.before + found.after) / 2
    return true.before - slack <= middle <= true.after + slack


def _is_cut_at(found: Transition, first: int, last: int) -> bool:
    """A cut at the first frame of the flash, or at the first after it."""
    return found.kind == "cut" and first - 1 <= found.after <= last + 2


def _holds(span: Span, true: Transition) -> bool:
    """Frames of both shots, or more of a gradual transition than the slack."""
    if true.kind == "cut":
        return span.first < true.after <= span.last
    return span.first < true.after - GRADUAL_SLACK and span.last > true.before + GRADUAL_SLACK
