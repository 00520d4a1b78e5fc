"""Which clips stay: rules over kept scores. A view, which can be taken again with other thresholds at no cost."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from ..config import config
from ..errors import UsageError
from .manifest import Row, is_number


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """A score that the paper filters by: the columns that may hold it, and which of its ends is dropped."""

    columns: tuple[str, ...]
    drops: Literal["low", "high"]
    paper_share: float  # section E.2 of the paper


AXES: dict[str, Axis] = {
    "motion": Axis(("motion", "samples.motion", "motion.speed"), "low", 0.25),
    "aesthetic": Axis(("aesthetic.score",), "low", 0.25),
    "text": Axis(("text.area",), "high", 0.25),
    "similarity": Axis(("clip.similarity",), "low", 0.5),
}
# Shorter sides in pixels; a tier holds what is at least as high and below the next.
TIERS = (256, 360, 480, 720, 1080, 2160)


@config
class Rule:
    """Drop a share at one end of a column, or whatever lies beyond a limit."""

    column: str
    drops: Annotated[
        Literal["low", "high"] | None, Field(description="Which end is dropped; for an axis of the paper its own.")
    ] = None
    share: Annotated[
        float | None, Field(ge=0, le=1, description="The share of clips to drop, of those that have a value.")
    ] = None
    limit: Annotated[
        float | None, Field(allow_inf_nan=False, description="Drop what is below (low) or above (high) this value.")
    ] = None

    def __post_init__(self) -> None:
        if (self.share is None) == (self.limit is None):
            raise ValueError(f"{self.column} has a share of {self.share} and a limit of {self.limit}; expected one.")
        if self.drops is None:
            axis = _axis_of(self.column)
            if axis is None:
                raise ValueError(f"the rule on {self.column} does not say which end it drops; expected low or high.")
            object.__setattr__(self, "drops", axis.drops)

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        if self.limit is not None:
            return f"{self.column}{'<' if self.drops == 'low' else '>'}{self.limit:g}"
        return f"{self.column}={self.drops}:{self.share:g}"


@config
class ViewConfig:
    """Which clips a view holds."""

    rules: Annotated[tuple[Rule, ...] | None, Field(description="What is dropped; none for the paper's shares.")] = None
    tiers: Annotated[bool, Field(description="Take each share within its own tier of sizes.")] = False
    missing: Annotated[Literal["keep", "drop"], Field(description="What happens to clips without a value.")] = "keep"
    duplicates: Annotated[bool, Field(description="Keep near-duplicates too.")] = False


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """What one rule did: how many had a value, how many it dropped, and the values at its borders.

    A border is the first value that stays, or a rule's limit; `borders` has one for each tier of heights, under 0
    where all clips are together. `missing` counts clips without a value.
    """

    rule: Rule
    having: int
    missing: int
    dropped: int
    borders: Mapping[int, float]

    def told(self) -> str:
        """The borders in a few words, the tiers' from low to high; empty where there is none."""
        each = sorted(self.borders.items())
        return ", ".join(f"{border:.4g}" + (f" at {tier}p" if tier else "") for tier, border in each)


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """The kept clips, in the manifest's order, and for each dropped one the names of all rules that dropped it."""

    kept: tuple[str, ...]
    dropped: dict[str, tuple[str, ...]]
    cuts: tuple[Cut, ...]


DUPLICATE = "duplicate"


def parse_rule(text: str) -> Rule:
    """A rule as `motion=0.25` (an axis of AXES or its column, at the paper's end), `COLUMN=low:0.1`,
    `COLUMN=high:0.1`, `COLUMN<VALUE` or `COLUMN>VALUE`. Raises UsageError for anything else."""
    limits: tuple[tuple[str, Literal["low", "high"]], ...] = (("<", "low"), (">", "high"))
    for sign, drops in limits:
        column, found, value = text.partition(sign)
        if found:
            return Rule(column=column.strip(), drops=drops, limit=_number(value, text))
    column, found, value = (part.strip() for part in text.partition("="))
    if not found or not column:
        raise UsageError(f"the rule {text!r} has no threshold; expected motion=0.25, COLUMN=high:0.1 or COLUMN>VALUE.")
    end, colon, rest = value.partition(":")
    if colon and end not in ("low", "high"):
        raise UsageError(f"the rule {text!r} drops the end {end!r}; expected low or high.")
    share = _number(rest if colon else value, text)
    if not 0 <= share <= 1:
        raise UsageError(f"the rule {text!r} drops the share {share:g}; expected a number from 0 to 1.")
    if colon:
        return Rule(column=column, drops="low" if end == "low" else "high", share=share)
    axis = _axis_of(column)
    if axis is None:
        raise UsageError(
            f"the rule {text!r} does not say which end of {column} is worse; "
            f"expected {column}=low:{share:g} or {column}=high:{share:g}."
        )
    return Rule(column=column, drops=axis.drops, share=share)


def _axis_of(column: str) -> Axis | None:
    return next((axis for name, axis in AXES.items() if column in (name, *axis.columns)), None)


def _number(text: str, rule: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"the rule {rule!r} has the threshold {text.strip()!r}; expected a number.")
    return value


def paper_rules(axes: Sequence[str]) -> tuple[Rule, ...]:
    """The paper's shares for those of its axes that the manifest has."""
    found = []
    for name, axis in AXES.items():
        if any(column in axes for column in axis.columns):
            found.append(Rule(column=name, drops=axis.drops, share=axis.paper_share))
    return tuple(found)


def column_of(name: str, axes: Sequence[str]) -> str:
    """The column that a rule's name means. Raises UsageError where the manifest has none."""
    named = (name, *AXES[name].columns) if name in AXES else (name,)
    column = next((each for each in named if each in axes), None)
    if column is None:
        raise UsageError(
            f"there is no column {name}; expected one of {', '.join(axes) or 'none, as nothing was scored'}."
        )
    return column


def take_view(rows: Sequence[Row], axes: Sequence[str], cfg: ViewConfig) -> View:
    """Apply every rule to all rows; a clip stays where no rule drops it. Raises UsageError for an unknown column.

    A share of N clips with a value drops exactly round(share N) of them, halves up; equal values are told apart by id.
    Of footage that is there several times, the best of those that no rule drops stays.
    """
    rules = paper_rules(axes) if cfg.rules is None else cfg.rules
    why: dict[str, list[str]] = {}
    cuts = []
    for rule in rules:
        cut, dropped = _apply(rule, column_of(rule.column, axes), rows, cfg)
        cuts.append(cut)
        for clip in dropped:
            why.setdefault(clip, []).append(rule.name)
    if not cfg.duplicates:
        for clip in _spare(rows, why):
            why.setdefault(clip, []).append(DUPLICATE)
    kept = tuple(row["id"] for row in rows if row["id"] not in why)
    return View(kept, {clip: tuple(reasons) for clip, reasons in why.items()}, tuple(cuts))


def _spare(rows: Sequence[Row], dropped: Mapping[str, object]) -> list[str]:
    """Near-duplicates of a clip that stays: of each group the first that no rule drops, the original before others."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.get("duplicate.of") or row["id"], []).append(row)
    spare = []
    for original, group in groups.items():
        best = sorted(group, key=lambda row: (row["id"] != original, -row["width"] * row["height"], row["id"]))
        staying = next((row["id"] for row in best if row["id"] not in dropped), original)
        spare += [row["id"] for row in group if row["id"] != staying and row.get("duplicate.of")]
    return spare


def _apply(rule: Rule, column: str, rows: Sequence[Row], cfg: ViewConfig) -> tuple[Cut, list[str]]:
    having = [row for row in rows if is_number(row.get(column))]
    lacking = [row["id"] for row in rows if not is_number(row.get(column))]
    if rule.limit is not None:
        limit = rule.limit
        beyond: Callable[[Row], bool] = (
            (lambda row: row[column] < limit) if rule.drops == "low" else (lambda row: row[column] > limit)
        )
        dropped, borders = [row["id"] for row in having if beyond(row)], {0: limit}
    else:
        dropped, borders = _shares(having, column, rule, cfg.tiers)
    cut = Cut(rule, len(having), len(lacking), len(dropped), borders)
    return cut, dropped + (lacking if cfg.missing == "drop" else [])


def _shares(having: Sequence[Row], column: str, rule: Rule, tiers: bool) -> tuple[list[str], dict[int, float]]:
    groups: dict[int, list[Row]] = {}
    for row in having:
        groups.setdefault(tier_of(row) if tiers else 0, []).append(row)
    dropped, borders = [], {}
    sign = 1 if rule.drops == "low" else -1
    for tier, group in groups.items():
        ordered = sorted(group, key=lambda row: (sign * row[column], row["id"]))
        count = math.floor((rule.share or 0) * len(ordered) + 0.5)
        dropped += [row["id"] for row in ordered[:count]]
        if count < len(ordered):
            borders[tier] = float(ordered[count][column])
    return dropped, borders


def tier_of(row: Row) -> int:
    """The tier of a clip: the largest of TIERS that is not above its shorter side, or 0."""
    return max((tier for tier in TIERS if tier <= min(row["width"], row["height"])), default=0)


def retention(view: View, total: int) -> dict[str, Any]:
    """The share that each rule keeps by itself, and all of them together; of nothing it is 0."""
    counts = collections.Counter(rule for reasons in view.dropped.values() for rule in reasons)
    alone = {cut.rule.name: 1 - counts[cut.rule.name] / total if total else 0.0 for cut in view.cuts}
    return {"rules": alone, "together": len(view.kept) / total if total else 0.0}
