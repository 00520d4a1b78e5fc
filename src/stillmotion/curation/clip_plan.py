"""Which frames of a video become clips: within shots, off transitions and damage, neither too short nor too long."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field

from ..config import checked, config
from ..errors import ConfigError
from ..media.packets import GAP_S, gaps_in
from .observe import Observed
from .records import Clip, ClipMode, Span, Transition

KEY_REACH = 0.25  # a long shot is split at a keyframe within this share of a piece from where it would be even

MAX_REORDER = 32  # pictures; H.264 and H.265 hold 16 at most


@config
class ClipConfig:
    """How shots become clips."""

    mode: Annotated[
        ClipMode,
        Field(
            description="copy: packets as they are, from keyframe on. edges: also re-encode heads and tails where more "
            "than max_loss would be lost. encode: re-encode whole."
        ),
    ] = "edges"
    min_s: Annotated[float, Field(gt=0, allow_inf_nan=False, description="Shorter clips are dropped, seconds.")] = 2.0
    max_s: Annotated[float, Field(gt=0, allow_inf_nan=False, description="Longer shots are split, seconds.")] = 20.0
    cut_margin: Annotated[int, Field(ge=0, description="Frames left out on each side of a cut.")] = 0
    gradual_margin: Annotated[
        int, Field(ge=0, description="Frames left out on each side of a dissolve, a fade or a wipe.")
    ] = 0  # what was found has margins of its own
    damage_margin: Annotated[
        int, Field(ge=0, description="Frames left out ahead of a damaged one; behind it, all up to a keyframe.")
    ] = 2
    max_clips: Annotated[
        int | None, Field(ge=1, description="At most so many clips a video, spread evenly over it.")
    ] = None
    max_loss: Annotated[
        float, Field(ge=0, le=1, description="The share of a clip that copying may lose before edges are re-encoded.")
    ] = 0.02
    fps: Annotated[
        float | None, Field(gt=0, allow_inf_nan=False, description="Keep at most so many frames a second.")
    ] = None
    rate_factor: Annotated[
        int, Field(ge=1, le=40, description="Constant rate factor of what is re-encoded; smaller is better.")
    ] = 14
    verify: Annotated[bool, Field(description="Decode each clip and compare its frames with the video's.")] = True

    def __post_init__(self) -> None:
        if self.min_s > self.max_s:
            raise ConfigError(f"min_s is {self.min_s:g} and max_s {self.max_s:g}; expected min_s to be the smaller.")


@dataclasses.dataclass(frozen=True, slots=True)
class Loss:
    """Seconds of a video: in its shots, and in its clips."""

    good_s: float
    kept_s: float

    @property
    def share(self) -> float:
        """The share of good footage that no clip has, 0 where there is none."""
        return max(0.0, 1 - self.kept_s / self.good_s) if self.good_s else 0.0


def plan_clips(
    shots: Sequence[Span], transitions: Sequence[Transition], observed: Observed, cfg: ClipConfig
) -> list[Span]:
    """The spans of frames that become clips: within shots, off transitions and damage, of the lengths in `cfg`.

    A shot longer than `max_s` is split evenly, at keyframes where they are near, and one whose times have a gap there.
    Raises ConfigError.
    """
    cfg = checked(cfg)
    ends = _ends(observed)
    whole = _whole(observed, cfg.damage_margin)
    planned = []
    for shot in shots:
        inner = _within_margins(shot, transitions, observed.frames, cfg)
        for run in _runs(whole, inner):
            for span in _unbroken(run, observed, ends):
                planned += _split(span, observed, ends, cfg)
    kept = [span for span in planned if ends[span.last] - observed.times_s[span.first] >= cfg.min_s - 1e-6]
    if cfg.max_clips is not None and len(kept) > cfg.max_clips:
        chosen = np.linspace(0, len(kept) - 1, cfg.max_clips).round().astype(int)
        kept = [kept[each] for each in sorted(set(chosen.tolist()))]
    return kept


def footage_loss(shots: Sequence[Span], clips: Sequence[Clip] | Sequence[Span], observed: Observed) -> Loss:
    """How much of the shots is in the clips; a shot is good whatever its length."""
    ends = _ends(observed)

    def seconds(spans: Sequence[Clip] | Sequence[Span]) -> float:
        return float(sum(ends[span.last] - observed.times_s[span.first] for span in spans))

    return Loss(seconds(shots), seconds(clips))


def _ends(observed: Observed) -> Float[np.ndarray, " n"]:
    """When each frame makes room for the next, or would where there is a gap; the last is shown as the one before."""
    times = observed.times_s
    if len(times) == 1:
        return times
    gaps, usual = gaps_in(np.diff(times))
    steps = np.where(gaps, usual, np.diff(times))
    return times + np.append(steps, steps[-1])


def _unbroken(span: Span, observed: Observed, ends: Float[np.ndarray, " n"]) -> Iterator[Span]:
    """The parts of a span without a gap in its times, where a frame begins long after the one before has ended."""
    waits = observed.times_s[span.first + 1 : span.last + 1] - ends[span.first : span.last]
    borders = np.flatnonzero(waits > GAP_S / 2) + span.first + 1
    for first, stop in itertools.pairwise([span.first, *borders.tolist(), span.last + 1]):
        yield Span(first, stop - 1)


def _whole(observed: Observed, margin: int) -> Bool[np.ndarray, " n"]:
    """Which frames are sound: damage spoils what may refer to it, up to the next keyframe that is not damaged itself.

    Pictures that are stored behind a damaged one and shown ahead of it are spoiled too.
    """
    whole = np.ones(observed.frames, bool)
    places = observed.columns.get("prints.packet", np.arange(observed.frames))
    for number in np.flatnonzero(observed.is_corrupt):
        clean = np.flatnonzero(observed.is_key[number:] & ~observed.is_corrupt[number:])
        end = number + int(clean[0]) if len(clean) else observed.frames
        window = max(0, number - MAX_REORDER)
        later = np.flatnonzero(places[window:number] > places[number])
        start = window + int(later[0]) if len(later) else number
        whole[max(0, start - margin) : end] = False
    return whole


def _within_margins(shot: Span, transitions: Sequence[Transition], frames: int, cfg: ClipConfig) -> Span:
    margin = {True: cfg.cut_margin, False: cfg.gradual_margin}
    first, last = max(0, shot.first), min(frames - 1, shot.last)
    for each in transitions:
        if each.before < shot.first <= each.after:
            first = max(first, each.after + margin[each.kind == "cut"])
        if each.before <= shot.last < each.after:
            last = min(last, each.before - margin[each.kind == "cut"])
    return Span(first, last)


def _runs(whole: Bool[np.ndarray, " n"], span: Span) -> Iterator[Span]:
    """The parts of a span without a damaged frame."""
    if span.frames < 1:
        return
    marks = np.concatenate([[False], whole[span.first : span.last + 1], [False]])
    edges = np.flatnonzero(marks[1:] != marks[:-1]) + span.first
    for first, stop in edges.reshape(-1, 2):
        yield Span(int(first), int(stop) - 1)


def _split(span: Span, observed: Observed, ends: np.ndarray, cfg: ClipConfig) -> Iterator[Span]:
    """Even pieces of at most `max_s`, give or take a frame; each border moves to a keyframe that is near enough."""
    first = span.first
    pieces = _pieces(float(ends[span.last] - observed.times_s[first]), cfg)
    if pieces > 1 and (ends[span.last] - observed.times_s[first]) / pieces < cfg.min_s:
        pieces -= 1  # even pieces would all be too short: whole ones, and what is left over is lost
        span = Span(first, _last_within(observed, ends, first, pieces * cfg.max_s))
    for left in range(pieces, 1, -1):
        border = _border(Span(first, span.last), left, observed, ends, cfg)
        if first < border <= span.last:
            yield Span(first, border - 1)
            first = border
    yield Span(first, span.last)


def _last_within(observed: Observed, ends: np.ndarray, first: int, seconds: float) -> int:
    """The last frame that ends at most so many seconds after the frame `first` begins."""
    return int(np.searchsorted(ends, observed.times_s[first] + seconds + 1e-6, side="right")) - 1


def _pieces(duration_s: float, cfg: ClipConfig) -> int:
    return max(1, int(np.ceil(duration_s / cfg.max_s - 1e-6)))


def _border(span: Span, pieces: int, observed: Observed, ends: np.ndarray, cfg: ClipConfig) -> int:
    """The frame with which the second of several even pieces begins."""
    times = observed.times_s
    start, end = float(times[span.first]), float(ends[span.last])
    length = (end - start) / pieces
    even = start + length
    # Neither this piece nor those behind it may become longer than a clip.
    low = max(even - length * KEY_REACH, end - (pieces - 1) * cfg.max_s, start + cfg.min_s)
    # Nor may any become too short to be one.
    high = min(even + length * KEY_REACH, start + cfg.max_s, end - (pieces - 1) * cfg.min_s)
    reach = slice(*np.searchsorted(times, [low - 1e-6, high + 1e-6]))
    keys = np.flatnonzero(observed.is_key[reach]) + reach.start
    if len(keys):
        return int(keys[np.argmin(np.abs(times[keys] - even))])
    return int(np.searchsorted(times, even - 1e-6))
