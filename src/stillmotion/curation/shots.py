"""Where one shot becomes the next: cuts, dissolves, fades and wipes as intervals, from one pass over a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import Field

from ..config import CHOICE, config
from ..media.scan import Sight
from .cascade import Cascade, ContentSteps, find_cascade
from .observe import Observed
from .records import Span, Transition, TransitionKind
from .shot_features import HALO, features
from .shot_network import load_shot_network
from .thumbnails import sketches, thumbnail

FEATURE_BLOCK, NETWORK_BLOCK = 192, 2048  # frames at once
RISEN, MAX_RAMP = 0.6, 12  # of a gradual transition's peak, and frames
KINDS: tuple[TransitionKind, ...] = ("dissolve", "fade", "wipe")
Share = Annotated[float, Field(ge=0, le=1)]


@config
class OnePass:
    """A small network over features of thumbnails, trained on generated edits: all kinds of transitions, no flashes."""

    kind: Literal["one-pass"] = "one-pass"
    # From these probabilities on there is a cut, or a gradual transition.
    cut: Share = 0.2
    gradual: Share = 0.7
    # A gradual transition reaches as far as its probability stays above this.
    edge: Share = 0.06
    # Where the probability takes long to rise, the transition began before it could be seen: each end is moved out by
    # as many frames, times this, as lie between `edge` and RISEN of the peak.
    ramp: Annotated[float, Field(ge=0)] = 1.0
    # Fewer frames are no gradual transition.
    min_frames: Annotated[int, Field(ge=1)] = 4
    # Frames that the interval of a gradual transition is widened by at each end beside that.
    margin: Annotated[int, Field(ge=0)] = 0
    # Transitions with fewer frames between them are one, unless both are cuts.
    min_shot: Annotated[int, Field(ge=0)] = 6
    # Where at least this share of the picture is the same before, within and after, the light changed and not the shot,
    # unless the probability reaches `certain`: shots of one place dissolve into one another too.
    same: Share = 0.6
    certain: Share = 0.97
    # A cut of at least this probability takes the place of a gradual transition that it touches, unless the latter's
    # reaches `certain`: then both are one.
    sure: Share = 0.5


@config
class ShotConfig:
    """How shots are found."""

    detector: Annotated[OnePass | Cascade, CHOICE] = OnePass()


DEFAULT = ShotConfig()


class ShotObserver:
    """Watches every frame and keeps four numbers and a sketch of 72 bytes of each, whatever the length of the video."""

    def __init__(self, cfg: ShotConfig = DEFAULT) -> None:
        self._found: Mapping[str, Float[np.ndarray, " n"]] | None = None
        self._content = ContentSteps(cfg.detector) if isinstance(cfg.detector, Cascade) else None
        self._features = _Sliding(features, HALO, FEATURE_BLOCK)
        self._rows: list[UInt8[np.ndarray, " n"]] = []  # thumbnails that wait: a cold cache makes small work dear
        self._sketches: list[UInt8[np.ndarray, "n c"]] = []
        self._network = _Sliding(_probabilities, load_shot_network().halo, NETWORK_BLOCK)

    def see(self, sight: Sight) -> None:
        """Take in one frame."""
        row = thumbnail(sight)
        if self._content is not None:
            self._content.add(row)
            return
        self._rows.append(row)
        if len(self._rows) == FEATURE_BLOCK:
            self._look()

    def _look(self) -> None:
        rows = np.stack(self._rows)
        self._rows = []
        self._sketches.append(sketches(rows))
        for block in self._features.add(rows):
            self._network.collect(block)

    def columns(self) -> Mapping[str, Float[np.ndarray, " n"]]:
        """The probabilities of a cut before each frame and of each frame's being in a dissolve, a fade or a wipe.

        Beside them a sketch of each frame. For a cascade the changes of content at each of its rates.
        """
        if self._found is None:
            self._found = self._content.columns() if self._content is not None else self._probable()
        return self._found

    def _probable(self) -> Mapping[str, Float[np.ndarray, " n"]]:
        if self._rows:
            self._look()
        for block in self._features.finish():
            self._network.collect(block)
        found = self._network.collected()
        columns = {f"shots.{name}": found[:, k] for k, name in enumerate(("cut", *KINDS))}
        return {**columns, "shots.sketch": np.concatenate(self._sketches)}


class _Sliding:
    """Gives a function blocks of rows with `halo` more on each side; the first and last row stand for those beyond."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], halo: int, block: int) -> None:
        self._function, self._halo, self._enough = function, halo, block + 2 * halo
        self._parts: list[np.ndarray] = []
        self._rows = 0
        self._out: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Take rows; yields what became of those that are complete."""
        if not self._parts:
            rows = np.concatenate([np.repeat(rows[:1], self._halo, axis=0), rows])
        self._parts.append(rows)
        self._rows += len(rows)
        if self._rows >= self._enough:
            yield self._advance()

    def finish(self) -> Iterator[np.ndarray]:
        """Yields the rest."""
        if self._parts:
            self._parts.append(np.repeat(self._parts[-1][-1:], self._halo, axis=0))
            yield self._advance()

    def collect(self, rows: np.ndarray) -> None:
        """Take rows, and keep what becomes of them."""
        self._out.extend(self.add(rows))

    def collected(self) -> np.ndarray:
        """All that was kept, in order."""
        return np.concatenate([*self._out, *self.finish()])

    def _advance(self) -> np.ndarray:
        whole = np.concatenate(self._parts)
        self._parts = [whole[len(whole) - 2 * self._halo :]]
        self._rows = 2 * self._halo
        return self._function(whole)


def _probabilities(rows: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "m 4"]:
    network = load_shot_network()
    with torch.inference_mode():
        logits = network(torch.from_numpy(rows)[None])[0, network.halo : -network.halo]
        found = torch.cat([logits[:, :1].sigmoid(), logits[:, 1:].softmax(1)[:, 1:]], dim=1)
    return found.numpy()


def find_transitions(observed: Observed, cfg: ShotConfig = DEFAULT) -> tuple[Transition, ...]:
    """Every transition in order, none touching another. `observed` was seen by a ShotObserver of the same detector."""
    if isinstance(cfg.detector, Cascade):
        return find_cascade(observed.columns, cfg.detector)
    gradual = np.stack([observed.columns[f"shots.{kind}"] for kind in KINDS], axis=1)
    sketches = observed.columns["shots.sketch"]
    cuts = list(_cuts(observed.columns["shots.cut"], cfg.detector.cut))
    sure = [cut for cut in cuts if cut.confidence >= cfg.detector.sure]
    runs = [
        each
        for each in _gradual(gradual, cfg.detector)
        if _has_both_sides(each, observed.frames)
        and (each.confidence >= cfg.detector.certain or not any(_touch(cut, each) for cut in sure))
    ]
    found = [each for each in _apart(runs, cfg.detector.min_shot) if _is_transition(each, sketches, cfg.detector)]
    free = [cut for cut in cuts if cut in sure or not any(_touch(cut, each) for each in found)]
    return tuple(_apart(sorted([*found, *free], key=lambda each: each.before), cfg.detector.min_shot))


def _has_both_sides(found: Transition, frames: int) -> bool:
    """Whether frames of two shots lie around it. A video may also begin or end within a fade, or a dissolve.

    The network sees the first and last frame standing still beyond the video, which can look like the end of a wipe.
    """
    return found.kind != "wipe" or (found.before > 0 and found.after < frames - 1)


def _is_transition(found: Transition, sketches: UInt8[np.ndarray, "n c"], cfg: OnePass) -> bool:
    return found.confidence >= cfg.certain or not is_same_place(sketches, found, cfg.same)


def _cuts(probability: Float[np.ndarray, " n"], threshold: float) -> Iterator[Transition]:
    """Local peaks, the highest of each pair of neighbours."""
    for first, last in _runs(probability >= threshold):
        if last == 0:
            continue  # nothing is before the first frame
        peak = max(1, first + int(probability[first : last + 1].argmax()))
        yield Transition("cut", peak - 1, peak, float(probability[peak]))


def _gradual(probability: Float[np.ndarray, "n 3"], cfg: OnePass) -> Iterator[Transition]:
    """Runs of frames that rather belong to a transition, of the kind that most of them say."""
    whole = probability.sum(axis=1)
    for first, last in _runs(whole >= min(cfg.edge, cfg.gradual)):
        run = whole[first : last + 1]
        peak = float(run.max())
        if peak < cfg.gradual or len(run) < cfg.min_frames:
            continue
        kind = KINDS[int(probability[first : last + 1].sum(axis=0).argmax())]
        risen = np.flatnonzero(run >= RISEN * peak)
        start, end = (
            cfg.margin + min(MAX_RAMP, round(cfg.ramp * int(each))) for each in (risen[0], len(run) - 1 - risen[-1])
        )
        yield Transition(kind, max(0, first - 1 - start), min(len(whole) - 1, last + 1 + end), min(1.0, peak))


def _runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """The first and last place of every run of true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return ((int(start), int(stop) - 1) for start, stop in zip(edges[::2], edges[1::2], strict=True))


def _touch(one: Transition, other: Transition) -> bool:
    return one.before <= other.after and other.before <= one.after


def is_same_place(sketches: UInt8[np.ndarray, "n c"], found: Transition, share: float) -> bool:
    """Whether most of the picture is the same, but for its light, on both sides of a transition and in its middle.

    A camera that measures the light anew changes everything a little, and what passes before it changes a part; both
    together look much like a fade.
    """
    places = np.clip([found.before - 1, (found.before + found.after) // 2, found.after + 1], 0, len(sketches) - 1)
    before, middle, after = sketches[places].astype(np.float32)
    detail = max(before.std(), after.std())
    tolerance = max(3.0, 0.25 * detail)
    if min(before.std(), middle.std(), after.std()) < 1:
        return False  # one flat colour is not a place
    for one, other in ((before, middle), (before, after), (middle, after)):
        change = other - one
        if np.mean(np.abs(change - np.median(change)) <= tolerance) < share:
            return False
    return True


def _apart(transitions: Sequence[Transition], min_shot: int) -> Iterator[Transition]:
    """Transitions that overlap or leave no shot between them become one, of the longer one's kind."""
    current: Transition | None = None
    for each in transitions:
        if current is None:
            current = each
        elif each.before - current.after + 1 < (min_shot if {current.kind, each.kind} != {"cut"} else 1):
            longer = max(current, each, key=lambda one: one.after - one.before)
            confidence = max(current.confidence, each.confidence)
            current = Transition(longer.kind, current.before, max(current.after, each.after), confidence)
        else:
            yield current
            current = each
    if current is not None:
        yield current


def shots_between(transitions: Sequence[Transition], frames: int) -> tuple[Span, ...]:
    """The spans of frames that show one shot alone: before, between and after these transitions, which are in order."""
    starts = [0, *(each.after for each in transitions)]
    ends = [*(each.before for each in transitions), frames - 1]
    return tuple(Span(first, last) for first, last in zip(starts, ends, strict=True) if first <= last)
