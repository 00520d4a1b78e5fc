"""Measure videos, weight-free: files in, numbers out."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field

from ..config import checked, config
from ..errors import StillmotionError, UsageError
from ..evaluation.measures import Measures, measure
from ..events import Progress, Watch, unwatched
from ..media.fitting import Fit, fit
from ..media.images import read_image
from ..media.video import read_video
from ..recipe import picture_of, read_recipe


@config
class ScoreSettings:
    """Measure motion, flicker, drift, seams and fidelity of videos, without any network."""

    files: Annotated[tuple[Path, ...], Field(description="The videos to measure.", min_length=1)]
    image: Annotated[
        Path | None, Field(description="The image that the videos were made from; else the one in their recipe.")
    ] = None
    fit: Annotated[Fit, Field(description="How the image is brought to the video's size.")] = "crop"
    fps: Annotated[
        float | None,
        Field(description="The true rate; else that of the recipe, else that of the file.", gt=0, allow_inf_nan=False),
    ] = None
    max_frames: Annotated[int, Field(description="Frames to read of each video, at most.", ge=2, le=1000)] = 100
    json: Annotated[bool, Field(description="Print one JSON object a video.")] = False


@dataclasses.dataclass(frozen=True, slots=True)
class Scored:
    """One video's measures with what they were taken from, or the reason why there are none."""

    path: Path
    measures: Measures | None = None
    # Width and height in pixels, number of frames, frames a second.
    size: tuple[int, int] | None = None
    frames: int | None = None
    fps: float | None = None
    error: str | None = None

    def tree(self) -> dict[str, Any]:
        """Plain values for JSON; a number without end, the PSNR of equal images, is None."""
        return _plain({"path": str(self.path)} | {k: v for k, v in dataclasses.asdict(self).items() if k != "path"})


def score(settings: ScoreSettings, watch: Watch = unwatched) -> Iterator[Scored]:
    """Measure each video in turn; one that cannot be read or measured carries the reason and stops no other.

    What the settings leave open, the image and the true rate, is taken from the recipe of a video that carries one.
    Raises StillmotionError, before any video is read, for an image that cannot be read.
    """
    settings = checked(settings)
    given = None if settings.image is None else read_image(settings.image)
    count = len(settings.files)
    for number, path in enumerate(settings.files):
        watch(Progress("score", number, count))
        yield _scored(path, settings, given)
    watch(Progress("score", count, count))


def _scored(path: Path, settings: ScoreSettings, given: Image.Image | None) -> Scored:
    try:
        video = read_video(path, settings.max_frames)
    except StillmotionError as error:
        return Scored(path, error=str(error))
    frames, rate = video.frames, video.fps
    with contextlib.suppress(StillmotionError):  # a video without a recipe is a video too
        recipe = read_recipe(path)
        given, rate = given or picture_of(recipe), recipe.video.fps
        # Without the row and the column that some codecs repeat.
        frames = frames[:, : recipe.frames.height, : recipe.frames.width]
    rate = rate if settings.fps is None else settings.fps
    height, width = frames.shape[1:3]
    fitted = None if given is None else np.asarray(fit(given, width, height, settings.fit))
    seen = Scored(path, size=(width, height), frames=len(frames), fps=rate)
    try:
        return dataclasses.replace(seen, measures=measure(frames, rate, fitted))
    except UsageError as error:
        return dataclasses.replace(seen, error=f"{path} cannot be measured: {error}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if value in (float("inf"), float("-inf")) else value
