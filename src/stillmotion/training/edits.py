"""Edited videos whose transitions are known to the frame, each a pure function of a seed.

They train and judge what finds transitions. Shots come from `footage`; between them stand cuts, dissolves, fades
through black or white and wipes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from ..config import config
from ..curation.records import Transition, TransitionKind
from ..evaluation.opencv import cv2
from ..files import atomic_path
from ..media.writer import FrameWriter, StreamSettings
from .footage import Picture, Shot, draw_canvas, draw_shot, make_grain, render

Pattern = Literal["edge", "iris", "clock", "doors"]
JUMP = 0.35  # a cut within one place moves the camera at least so far
PATTERNS: tuple[Pattern, ...] = ("edge", "iris", "clock", "doors")


@config
class EditConfig:
    """What the edited videos are made of; pairs are the ends of uniform draws."""

    width: int = 640
    height: int = 360
    shots: int = 24
    shot_s: tuple[float, float] = (1.2, 4.5)
    fps: tuple[float, ...] = (24.0, 25.0, 30.0, 60.0)
    # Share of the videos whose frames come at uneven times.
    uneven: float = 0.15
    # Weights of cuts, dissolves, fades and wipes.
    weights: tuple[float, float, float, float] = (0.5, 0.24, 0.13, 0.13)
    gradual_frames: tuple[int, int] = (8, 48)
    crf: tuple[int, int] = (18, 35)
    bars: float = 0.25


@dataclasses.dataclass(frozen=True, slots=True)
class Join:
    """How one shot becomes the next: `frames` lie between the last of the old alone and the first of the new alone."""

    kind: TransitionKind
    frames: int
    is_eased: bool = False
    level: int = 0  # brightness that a fade goes through
    hold: int = 0  # frames of that brightness alone
    half: Literal["", "out", "in"] = ""  # a fade with a cut at its other end
    pattern: Pattern = "edge"
    angle: float = 0.0
    softness: float = 0.02


@dataclasses.dataclass(frozen=True, slots=True)
class Edit:
    """One edited video before it is rendered."""

    seed: int
    size: tuple[int, int]
    fps: float
    shots: tuple[Shot, ...]
    joins: tuple[Join, ...]
    starts: tuple[int, ...]  # the video's frame at which each shot is alone first
    times: tuple[Fraction, ...]
    grain: Picture | None
    bars: tuple[int, int]  # rows and columns of black at each edge
    stream: StreamSettings

    @property
    def frames(self) -> int:
        return len(self.times)

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """The truth."""
        return tuple(
            Transition(join.kind, start - join.frames - 1, start)
            for join, start in zip(self.joins, self.starts[1:], strict=True)
        )

    @property
    def flashes(self) -> tuple[tuple[int, int], ...]:
        """First and last frame of every flash, none of which is a transition."""
        found = []
        for shot, start in zip(self.shots, self.starts, strict=True):
            lit = np.flatnonzero(shot.lift > 0)
            runs = np.split(lit, np.flatnonzero(np.diff(lit) > 1) + 1) if len(lit) else []
            found += [(start + int(run[0]), start + int(run[-1])) for run in runs]
        return tuple(found)


def draw_edit(cfg: EditConfig, seed: int, photographs: Sequence[Picture] = ()) -> Edit:
    """The video of this seed, the same on every machine of one kind. `photographs` are RGB."""
    rng = np.random.default_rng(seed)
    size = (cfg.width, cfg.height)
    fps = float(rng.choice(cfg.fps))
    hold = 2 if rng.random() < 0.12 and fps < 50 else 1
    joins = tuple(_draw_join(rng, cfg) for _ in range(cfg.shots - 1))
    shots, starts, place = [], [], 0
    canvas = draw_canvas(rng, photographs, size)
    for number in range(cfg.shots):
        # Every eighth shot or so shows the place of the one before, as a jump cut or an answering shot does.
        if rng.random() > 0.12 or _is_flat(canvas):
            previous = canvas
            canvas = draw_canvas(rng, photographs, size)
            while _is_flat(canvas) and _is_flat(previous):  # nobody could see the cut
                canvas = draw_canvas(rng, photographs, size)
        length = max(10, round(rng.uniform(*cfg.shot_s) * fps))
        shot = draw_shot(rng, canvas, length, fps, hold)
        while shots and shots[-1].canvas is canvas and _distance(shots[-1], shot) < JUMP:
            shot = draw_shot(rng, canvas, length, fps, hold)
        shots.append(shot)
        starts.append(place)
        place += length + (joins[number].frames if number < len(joins) else 0)
    return Edit(
        seed=seed,
        size=size,
        fps=fps,
        shots=tuple(shots),
        joins=joins,
        starts=tuple(starts),
        times=_times(rng, place, fps, rng.random() < cfg.uneven),
        grain=make_grain(rng, rng.uniform(1, 5), size) if rng.random() < 0.5 else None,
        bars=_bars(rng, cfg),
        stream=_stream(rng, cfg),
    )


def _is_flat(canvas: Picture) -> bool:
    return bool(canvas.max() == canvas.min())


def _distance(old: Shot, new: Shot) -> float:
    """How far the camera jumps from one shot to the next: frame heights, and the logarithm of the zoom."""
    return float(np.abs(old.path[-1] - new.path[0])[:3].sum())


def _stream(rng: np.random.Generator, cfg: EditConfig) -> StreamSettings:
    crf = int(rng.integers(cfg.crf[0], cfg.crf[1] + 1))
    return StreamSettings(crf, int(rng.choice((24, 60, 120, 250))), int(rng.integers(0, 4)))


def _bars(rng: np.random.Generator, cfg: EditConfig) -> tuple[int, int]:
    if rng.random() > cfg.bars:
        return (0, 0)
    rows, columns = round(cfg.height * rng.uniform(0.06, 0.15)), round(cfg.width * rng.uniform(0.08, 0.3))
    return (rows, 0) if rng.random() < 0.6 else (0, columns)


def _times(rng: np.random.Generator, frames: int, fps: float, is_uneven: bool) -> tuple[Fraction, ...]:
    step = 1 / Fraction(fps).limit_denominator(1001)
    if not is_uneven:
        return tuple(number * step for number in range(frames))
    steps = rng.choice((1, 1, 1, 2, 3), frames)
    return tuple(int(total) * step / 2 for total in np.cumsum(steps))


def _draw_join(rng: np.random.Generator, cfg: EditConfig) -> Join:
    weights = np.array(cfg.weights) / sum(cfg.weights)
    kind: TransitionKind = ("cut", "dissolve", "fade", "wipe")[int(rng.choice(4, p=weights))]
    frames = int(rng.integers(cfg.gradual_frames[0], cfg.gradual_frames[1] + 1))
    is_eased = rng.random() < 0.4
    if kind == "cut":
        return Join("cut", 0)
    if kind == "dissolve":
        return Join("dissolve", frames, is_eased)
    if kind == "fade":
        level = 0 if rng.random() < 0.7 else 255
        half: Literal["", "out", "in"] = ("", "", "", "out", "in")[int(rng.integers(5))]
        hold = (
            int(rng.integers(0, min(8, frames // 3) + 1)) if rng.random() < 0.75 else int(frames * rng.uniform(0, 0.6))
        )
        return Join("fade", frames, is_eased, level, hold, half)
    softness = 0.02 if rng.random() < 0.5 else rng.uniform(0.05, 0.3)
    angle = rng.integers(8) * math.pi / 4 if rng.random() < 0.7 else rng.uniform(0, 2 * math.pi)
    pattern = PATTERNS[int(rng.choice(4, p=(0.6, 0.15, 0.15, 0.1)))]
    return Join("wipe", frames, is_eased, pattern=pattern, angle=float(angle), softness=float(softness))


def edit_frames(edit: Edit) -> Iterator[Picture]:
    """Every frame in order, in RGB. In each transition both shots go on."""
    dice = np.random.default_rng((edit.seed, 1))
    for index, shot in enumerate(edit.shots):
        for number in range(shot.frames):
            yield _barred(render(shot, number, edit.size, edit.grain, dice), edit.bars)
        if index == len(edit.joins):
            return
        join, following = edit.joins[index], edit.shots[index + 1]
        arrival = arrival_map(join, edit.size) if join.kind == "wipe" else None
        for step in range(join.frames):
            old = render(shot, shot.frames + step, edit.size, edit.grain, dice)
            new = render(following, step - join.frames, edit.size, edit.grain, dice)
            yield _barred(blend(join, step, old, new, arrival), edit.bars)


def blend(join: Join, step: int, old: Picture, new: Picture, arrival: Float[np.ndarray, "h w"] | None) -> Picture:
    """Frame `step` of a gradual transition."""
    if join.kind == "fade":
        return _faded(join, step, old, new)
    progress = _eased((step + 1) / (join.frames + 1), join.is_eased)
    if arrival is None:
        return cv2.addWeighted(new, progress, old, 1 - progress, 0)
    weight = np.clip((progress * (1 + join.softness) - arrival) / join.softness, 0, 1).astype(np.float32)
    return cv2.blendLinear(new, old, weight, 1 - weight)


def _faded(join: Join, step: int, old: Picture, new: Picture) -> Picture:
    """`join.level` is met after the way out, held, and left on the way in; half a fade has one way alone."""
    ways = join.frames - join.hold
    out = {"": ways // 2, "out": ways, "in": 0}[join.half]
    if out <= step < out + join.hold:
        return np.full_like(old, join.level)
    if step < out:
        picture, share = old, 1 - (step + 1) / (out + 1)
    else:
        picture, share = new, (step - out - join.hold + 1) / (ways - out + 1)
    share = _eased(share, join.is_eased)
    return cv2.convertScaleAbs(picture, alpha=share, beta=join.level * (1 - share))


def _eased(share: float, is_eased: bool) -> float:
    return share * share * (3 - 2 * share) if is_eased else share


def arrival_map(join: Join, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """When the new shot arrives at each pixel, from 0 to 1."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = (x + 0.5 - width / 2) / height, (y + 0.5 - height / 2) / height
    across = x * math.cos(join.angle) + y * math.sin(join.angle)
    if join.pattern == "edge":
        when = across
    elif join.pattern == "doors":
        when = np.abs(across)
    elif join.pattern == "clock":
        when = np.mod(np.arctan2(y, x) - join.angle, 2 * math.pi)
    else:
        when = np.hypot(x, y)
    if join.pattern in ("doors", "iris") and join.angle > math.pi:
        when = -when
    when = when - when.min()
    return (when / when.max()).astype(np.float32)


def _barred(picture: Picture, bars: tuple[int, int]) -> Picture:
    rows, columns = bars
    if rows:
        picture[:rows] = 0
        picture[-rows:] = 0
    if columns:
        picture[:, :columns] = 0
        picture[:, -columns:] = 0
    return picture


def write_edit(path: Path, edit: Edit) -> tuple[Transition, ...]:
    """Render a video into an H.264 file and return the truth; memory does not grow with its length."""
    with atomic_path(path) as temporary:
        rate = Fraction(edit.fps).limit_denominator(1001)
        with FrameWriter(temporary, edit.size, rate, edit.stream) as writer:
            for time, picture in zip(edit.times, edit_frames(edit), strict=True):
                writer.write(picture, time)
    return edit.transitions
