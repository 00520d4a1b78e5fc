"""Figures, what each must be, and whether it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

Verdict = Literal["aim met", "must met", "missed", "no bound"]


@dataclasses.dataclass(frozen=True, slots=True)
class Bound:
    """What a value has to reach: at least `low`, at most `high`, or both."""

    low: float = -math.inf
    high: float = math.inf

    def holds(self, value: float) -> bool:
        """Whether the value lies inside; NaN never does."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f">= {self.low:g}"
        return f"<= {self.high:g}" if math.isinf(self.low) else f"{self.low:g} to {self.high:g}"


def at_least(value: float) -> Bound:
    """A bound from below."""
    return Bound(low=value)


def at_most(value: float) -> Bound:
    """A bound from above."""
    return Bound(high=value)


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table. `unit` is that of ours and of the peer's; the bounds are about the value between them."""

    name: str
    title: str
    unit: str
    # What the value is: a ratio of the two sides, or ours itself.
    value_is: str
    must: Bound | None = None
    aim: Bound | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What was found for one figure: ours, the peer's where there is one, and the value that is judged."""

    ours: float
    peer: float | None
    value: float
    # One clause for the table, such as how far the two sides' results lie apart.
    note: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Experiment:
    """One measurement and the figures that it gives, by name; they are stored together."""

    name: str
    figures: tuple[Figure, ...]
    run: Callable[[], Mapping[str, Measured]]


def times_faster(ours: float, peer: float, note: str = "", **details: Any) -> Measured:
    """The peer's time over ours."""
    return Measured(ours, peer, peer / ours, note, details)


def share_of_peer(ours: float, peer: float, note: str = "", **details: Any) -> Measured:
    """Ours over the peer's."""
    return Measured(ours, peer, ours / peer, note, details)


def alone(ours: float, note: str = "", peer: float | None = None, **details: Any) -> Measured:
    """Ours itself is judged; the peer's stands beside it where there is one."""
    return Measured(ours, peer, ours, note, details)


def verdict(figure: Figure, value: float) -> Verdict:
    """How a value stands to the figure's bounds."""
    if figure.must is None:
        return "no bound"
    if not figure.must.holds(value):
        return "missed"
    return "aim met" if figure.aim is not None and figure.aim.holds(value) else "must met"


def select(experiments: Iterable[Experiment], names: Iterable[str]) -> list[Experiment]:
    """The experiments that are named, or that give a figure that is; all where nothing is named.

    Raises KeyError with the first name that is neither.
    """
    every, wanted = list(experiments), list(names)
    found = {name: [e for e in every if name == e.name or name in (f.name for f in e.figures)] for name in wanted}
    for name, matches in found.items():
        if not matches:
            raise KeyError(name)
    chosen = {e.name for matches in found.values() for e in matches}
    return [e for e in every if not wanted or e.name in chosen]
