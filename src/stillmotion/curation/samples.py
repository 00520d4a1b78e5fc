"""What a pass over a video sees of it twice a second, and what that says of a clip: motion, sharpness, bars, light."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float, Shaped
from pydantic import Field

from ..config import checked, config
from ..media.scan import Sight
from ..native import native
from .camera_class import CameraMotion, camera_class, fit_cameras
from .observe import Observed
from .records import Number, Span, Video
from .sample_flow import GRID, Moved, moved, small_picture
from .sample_picture import LIMITED, Chroma, bars, blockiness, brightness, chroma, colour, sharpness
from .thumbnails import PLANE, Plane, Small

VERSION = "3"  # of the columns: changes whenever the same video could get other numbers
ROWS = 16  # of a frame, by which every frame is compared with the one before
AT_ONCE = 64  # samples
HELD_LEVELS = 0.15  # mean change below which a frame repeats the one before; coding noise of a still picture is above
ONE = (1, *GRID[::-1])
NOTHING = Moved(np.full(1, np.nan, np.float32), np.zeros(ONE, np.complex64), np.zeros(ONE, np.float32))
CLOCK_SLACK = 1e-4  # seconds: times in containers are rounded
DETAIL = ("sharpness", "blockiness")
LIGHT = ("brightness", "contrast", "saturation", "colourfulness")
PICTURE = (*DETAIL, *LIGHT)
BARS = ("bar_top", "bar_right", "bar_bottom", "bar_left")  # clockwise, as the stored picture has them
# From the sample before, and not by time.
MOTION = ("paper", "shift_x", "shift_y", "zoom", "roll", "rest", "motion")
# The columns of a clip: numbers, and then a word.
MOTION_SCORES = ("motion", "motion.paper", "motion.object", "camera.pan", "camera.tilt", "camera.zoom", "camera.roll")
SCORES = (*MOTION_SCORES, *(f"picture.{name}" for name in (*PICTURE, *BARS)), "flicker", "held")


@config
class SampleConfig:
    """How often a video is looked at."""

    per_second: Annotated[float, Field(gt=0, le=60, description="Samples a second; the paper's flow has 2.")] = 2.0


TWICE_A_SECOND = SampleConfig()


class SampleObserver:
    """Looks at a few frames a second closely, and at every frame at a glance.

    Columns with a row a sample are `samples.frame`, `samples.time_s`, and PICTURE, BARS and MOTION;
    `samples.paper` is NaN, and the rest of MOTION says nothing, where there is no sample before. Columns with a row a
    frame are `samples.level`, its mean brightness, and `samples.change`, its mean absolute difference from the frame
    before in levels. All are of the stored picture, in its shorter sides.
    """

    def __init__(self, cfg: SampleConfig = TWICE_A_SECOND) -> None:
        self._period_s = 1 / checked(cfg).per_second
        self._due_s = -math.inf
        self._rows = np.empty((0, 0), np.uint8)  # of the frame before, which had this size
        self._size: tuple[int, ...] = ()
        # Small pictures that wait for one another; the first has had its turn already where `_is_carried`. Beside them
        # the colour and the range of those that have not.
        self._smalls: list[np.ndarray] = []
        self._is_carried = False
        self._waiting: list[tuple[Chroma | None, bool]] = []
        self._aspect = 0.0
        self._frames, self._times_s = array("q"), array("d")
        self._details, self._bars, self._light = array("f"), array("f"), array("f")
        self._papers, self._cameras = array("f"), array("f")
        self._levels, self._changes = array("f"), array("f")

    def see(self, sight: Sight) -> None:
        """Take in one frame."""
        luma = sight.luma
        step = max(1, luma.shape[0] // ROWS)
        shape = len(range(step // 2, luma.shape[0], step)), luma.shape[1]
        is_first = self._size != luma.shape
        if is_first:
            self._size, self._rows = luma.shape, np.zeros(shape, np.uint8)
        level, change = glance(luma, step, self._rows)
        gain = (1.0 if sight.is_full_range else LIMITED) / self._rows.size
        self._levels.append(level * gain)
        self._changes.append(math.nan if is_first else change * gain)
        if sight.time_s >= self._due_s - CLOCK_SLACK:
            self._sample(sight)

    def _sample(self, sight: Sight) -> None:
        # On a fixed grid of times, unless the video has jumped.
        late = sight.time_s - self._due_s >= self._period_s
        self._due_s = (sight.time_s if late else self._due_s) + self._period_s
        luma = sight.luma
        small = small_picture(luma)
        aspect = luma.shape[1] / luma.shape[0]
        self._frames.append(sight.number)
        self._times_s.append(sight.time_s)
        self._details.extend((sharpness(luma, sight.is_full_range), blockiness(luma)))
        self._bars.extend(bars(luma, sight.is_full_range))
        if aspect != self._aspect:  # at the first, or where the size changes within the video
            self._follow()
            self._aspect, self._smalls, self._is_carried = aspect, [], False
        self._smalls.append(small)
        self._waiting.append((chroma(sight), sight.is_full_range))
        if len(self._smalls) > AT_ONCE:
            self._follow()

    def _follow(self) -> None:
        """Light of all small pictures that wait, and motion between them: together, since calls cost more than work."""
        if not self._waiting:
            return
        smalls, is_carried = np.stack(self._smalls), self._is_carried
        chromas, ranges = zip(*self._waiting, strict=True)
        light = brightness(smalls[-len(ranges) :], np.array(ranges))
        self._light.frombytes(np.concatenate([light, colour(chromas)], 1).tobytes())
        self._smalls, self._is_carried, self._waiting = self._smalls[-1:], True, []
        parts = [] if is_carried else [NOTHING]
        if len(smalls) > 1:
            parts.append(moved(smalls, self._aspect))
        for found in parts:
            self._papers.extend(found.paper.tolist())
            fit = fit_cameras(found.field, found.texture, self._aspect)
            camera = (each for whole in (fit.shift, fit.growth) for each in (np.real(whole), np.imag(whole)))
            self._cameras.frombytes(np.stack((*camera, fit.rest, fit.length), 1).astype(np.float32).tobytes())

    def columns(self) -> Mapping[str, Shaped[np.ndarray, " n"]]:
        """What was seen."""
        self._follow()
        tables = (
            (DETAIL, self._details),
            (LIGHT, self._light),
            (BARS, self._bars),
            (MOTION[:1], self._papers),
            (MOTION[1:], self._cameras),
            (("level",), self._levels),
            (("change",), self._changes),
        )
        found: dict[str, np.ndarray] = {"frame": np.array(self._frames, np.int64), "time_s": np.array(self._times_s)}
        for names, values in tables:
            table = np.array(values, np.float32).reshape(-1, len(names))
            found |= {name: table[:, place].copy() for place, name in enumerate(names)}
        return {f"samples.{name}": column for name, column in found.items()}


@native(f"UniTuple(int64, 2)({PLANE}, int64, uint8[:,::1])")
def glance(luma: Plane, step: int, known: Small) -> tuple[int, int]:
    """The sum of every `step`-th row, and of its differences from rows known before, whose place it then takes."""
    if luma.strides[1] != 1:
        raise ValueError("pixels apart; expected them side by side")
    level = change = 0
    for place in range(known.shape[0]):
        row, whole, moved = step // 2 + place * step, np.int32(0), np.int32(0)
        for column in range(known.shape[1]):
            here, before = luma[row, column], known[place, column]
            whole = np.int32(whole + here)
            moved = np.int32(moved + np.uint8(max(here, before) - min(here, before)))
            known[place, column] = here
        level, change = level + int(whole), change + int(moved)
    return level, change


def span_scores(observed: Observed, span: Span, video: Video) -> dict[str, Number]:
    """The columns of a clip of these frames of the video, which a SampleObserver has seen.

    Lengths are heights and widths of the upright picture, times seconds. A column is None where there is nothing to
    measure it by: motion needs two samples within the clip.
    """
    columns = {name.removeprefix("samples."): each for name, each in observed.columns.items() if _is_ours(name)}
    inside = (columns["frame"] >= span.first) & (columns["frame"] <= span.last)
    # What came from another shot is no motion of this one.
    pairs = inside & np.concatenate([[False], inside[:-1]]) & np.isfinite(columns["paper"])
    scores: dict[str, Number] = {**_motion(columns, pairs, video)}
    for name in PICTURE:
        scores[f"picture.{name}"] = _mean(columns[name][inside])
    scores |= _bars(columns, inside, video)
    scores |= _light(columns["level"][span.first : span.last + 1], columns["change"][span.first + 1 : span.last + 1])
    return scores


def _is_ours(name: str) -> bool:
    return name.startswith("samples.")


def _mean(values: Float[np.ndarray, " n"], reduce: Callable[..., float] = np.mean) -> float | None:
    values = values[np.isfinite(values)]
    return float(reduce(values.astype(np.float64))) if len(values) else None


def _motion(columns: Mapping[str, np.ndarray], pairs: Bool[np.ndarray, " n"], video: Video) -> dict[str, Number]:
    """Speeds in heights a second, and the camera's word."""
    if not pairs.any():
        return dict.fromkeys((*MOTION_SCORES, "camera.class"))
    places = np.flatnonzero(pairs)
    gaps = columns["time_s"][places] - columns["time_s"][places - 1]
    heights = min(video.width, video.height) / video.height  # in one shorter side
    per_s = heights / gaps
    # Multiplied by i, an arrow turns clockwise by 90 degrees.
    shift = (columns["shift_x"] + 1j * columns["shift_y"])[places] * 1j ** (video.rotation // 90)
    growth = (columns["zoom"] + 1j * columns["roll"])[places]
    rest, length = (columns[name][places] / gaps for name in ("rest", "motion"))
    camera = CameraMotion(shift / gaps, growth / gaps, rest, length)
    values = (
        _mean(length * heights),
        _mean(columns["paper"][places]),
        _mean(rest * heights),
        -_known(shift.real * per_s),
        -_known(shift.imag * per_s),
        _known(growth.real / gaps),
        _known(np.degrees(growth.imag) / gaps),
    )
    return dict(zip(MOTION_SCORES, values, strict=True)) | {
        "camera.class": camera_class(camera, video.width / video.height)
    }


def _known(values: Float[np.ndarray, " n"]) -> float:
    return float(values.astype(np.float64).mean())


def _bars(columns: Mapping[str, np.ndarray], inside: Bool[np.ndarray, " n"], video: Video) -> dict[str, Number]:
    """The smallest that any sample shows: a dark scene may hide a picture's edge, and a bar never shows one."""
    stored = [_mean(columns[name][inside], np.min) for name in BARS]
    turned = video.rotation // 90
    upright = [stored[(place - turned) % 4] for place in range(4)]
    return {f"picture.{name}": share for name, share in zip(BARS, upright, strict=True)}


def _light(level: Float[np.ndarray, " n"], change: Float[np.ndarray, " m"]) -> dict[str, Number]:
    """Flicker as the mean second difference of brightness in levels, and the share of frames that repeat another."""
    wobble = np.abs(np.diff(level.astype(np.float64), 2))
    known = change[np.isfinite(change)]
    return {
        "flicker": float(wobble.mean()) if len(wobble) else None,
        "held": float((known < HELD_LEVELS).mean()) if len(known) else None,
    }
