"""From a motion score to the bucket that a model is told, and back.

A network takes a whole number from 0 to 255. The paper trains with a motion score and never says how it becomes that
number; here the mapping is a value with a name, saved beside a dataset and beside a model trained on it.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ..config import CHOICE, config, parse, to_tree
from ..errors import MediaError, UsageError
from ..files import atomic_path
from .identify import identify
from .observe import observe
from .records import Failure
from .samples import VERSION, SampleObserver, span_scores
from .shots import ShotConfig, ShotObserver, find_transitions, shots_between

BUCKETS = 256
LAST = BUCKETS - 1
FILE = "motion_buckets.json"  # its name beside a dataset or a model
MOTION = f"samples-{VERSION}"  # the score that both mappings read: the column `motion` of this version
MAX_FILE_BYTES = 1 << 20
Speed = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@config
class LinearBuckets:
    """Bucket 255 at `full_scale` heights a second, proportionally less below; the embedded model's is 0.12."""

    kind: Literal["linear"] = "linear"
    full_scale: Annotated[float, Field(gt=0, allow_inf_nan=False, description="Heights a second at bucket 255.")] = 0.5
    motion: Annotated[str, Field(description="The score that is mapped, and its version.")] = MOTION

    def bucket(self, speed: float) -> int:
        """The bucket of a motion score in heights a second, rounded, halves to even. Raises UsageError."""
        return min(LAST, round(LAST * _checked_speed(speed) / self.full_scale))

    def speed(self, bucket: float) -> float:
        """The motion score in the middle of a bucket; for the last, the smallest that surely is in it."""
        return _checked_bucket(bucket) / LAST * self.full_scale


@config
class EmpiricalBuckets:
    """The share of a training set's clips that move less, times 255: every bucket holds as many clips as any other.

    `quantiles` are 256 motion scores that rise; the k-th is that of a share k / 255 of the clips.
    """

    kind: Literal["empirical"] = "empirical"
    quantiles: Annotated[tuple[Speed, ...], Field(min_length=BUCKETS, max_length=BUCKETS)]
    clips: Annotated[int, Field(ge=1, description="How many clips they were taken from.")]
    motion: Annotated[str, Field(description="The score that is mapped, and its version.")] = MOTION

    def __post_init__(self) -> None:
        if any(before > after for before, after in zip(self.quantiles, self.quantiles[1:], strict=False)):
            raise ValueError("the quantiles fall somewhere; expected each to be at least the one before")

    def bucket(self, speed: float) -> int:
        """The bucket of a score in heights a second; among equal quantiles, the middle one. Raises UsageError."""
        speed = _checked_speed(speed)
        low = int(np.searchsorted(self.quantiles, speed, "left"))
        high = int(np.searchsorted(self.quantiles, speed, "right"))
        if high > low:
            return (low + high - 1) // 2
        if low in (0, BUCKETS):
            return 0 if low == 0 else LAST
        before, after = self.quantiles[low - 1], self.quantiles[low]
        return low - 1 + round((speed - before) / (after - before))

    def speed(self, bucket: float) -> float:
        """The motion score of a bucket, which may lie between two."""
        return float(np.interp(_checked_bucket(bucket), np.arange(BUCKETS), self.quantiles))


BucketMapping = Annotated[LinearBuckets | EmpiricalBuckets, CHOICE]


@config
class _File:
    """What the file holds."""

    buckets: BucketMapping


def fit_buckets(speeds: Sequence[float | None]) -> EmpiricalBuckets:
    """The empirical mapping of a training set, of the clips whose motion is known. Raises UsageError for none."""
    known = [_checked_speed(speed) for speed in speeds if speed is not None and not math.isnan(speed)]
    if not known:
        raise UsageError("no clip has a motion score; expected at least one to make buckets of.")
    # Six digits: a millionth of a height a second is far below what is measured, and files stay small.
    quantiles = np.quantile(np.array(known, np.float64), np.arange(BUCKETS) / LAST).round(6)
    return EmpiricalBuckets(quantiles=tuple(quantiles.tolist()), clips=len(known))


def save_buckets(mapping: LinearBuckets | EmpiricalBuckets, path: Path) -> None:
    """Write a mapping as JSON; FILE inside `path` where that is a folder."""
    path = Path(path)
    with atomic_path(path / FILE if path.is_dir() else path) as temporary:
        temporary.write_text(json.dumps(to_tree(_File(buckets=mapping))) + "\n", encoding="utf-8")


def load_buckets(path: Path) -> LinearBuckets | EmpiricalBuckets:
    """Read a mapping, from a file or from the folder of a dataset or model. Raises UsageError where there is none.

    Raises ConfigError for one that is not whole.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    try:
        if os.path.getsize(path) > MAX_FILE_BYTES:
            raise UsageError(f"{path} is larger than a bucket mapping can be; expected {FILE}.")
        tree: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; expected a bucket mapping.") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is not JSON; expected a bucket mapping.") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{path} holds no mapping; expected a bucket mapping.")
    return parse(_File, tree, str(path)).buckets


def speed_of(path: Path) -> float:
    """The motion score of a video in heights a second, as a dataset has it: the mean over its shots, by their samples.

    Raises MediaError for what cannot be decoded, and for a video without two samples in one shot.
    """
    path = Path(path)
    video = identify(path, path.name)
    if isinstance(video, Failure):
        raise MediaError(video.detail)
    observed = observe(path, [SampleObserver(), ShotObserver(ShotConfig())])
    shots = shots_between(find_transitions(observed, ShotConfig()), observed.frames)
    speeds = [(span_scores(observed, shot, video)["motion"], shot.frames) for shot in shots]
    known = [(float(speed), frames) for speed, frames in speeds if isinstance(speed, float)]
    if not known:
        raise MediaError(f"{path} is too short to measure motion; expected half a second or more of one shot.")
    return statistics.fmean([speed for speed, _ in known], [frames for _, frames in known])


def bucket_of(path: Path, mapping: LinearBuckets | EmpiricalBuckets | None = None) -> int:
    """The motion bucket of a video, by this mapping or LinearBuckets. Raises MediaError."""
    return (mapping or LinearBuckets()).bucket(speed_of(path))


def _checked_speed(speed: float) -> float:
    if not math.isfinite(speed) or speed < 0:
        raise UsageError(f"the motion score is {speed}; expected a number of heights a second of at least 0.")
    return float(speed)


def _checked_bucket(bucket: float) -> float:
    if not 0 <= bucket <= LAST:
        raise UsageError(f"the motion bucket is {bucket}; expected 0 to {LAST}.")
    return float(bucket)
