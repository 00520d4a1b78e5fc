"""Animate images: files in, mp4 files out."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from ..checkpoints.load import Loaded, load
from ..config import checked
from ..errors import Cancelled, StillmotionError, UsageError
from ..events import Progress, Watch, unwatched
from ..files import check_writable, unused_path
from ..media.images import find_images, fit, read_image, to_pixels, to_uint8
from ..media.video import write_video
from ..pipelines.image_to_video import VideoSettings, animate
from ..pipelines.plan import Cost, cost, expected_seconds, matrix_rate
from ..placement import DTYPES, Placement, Stage, resolve
from ..presets import PRESETS, Preset
from .settings import GenerateSettings, video_settings


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What will be made, how it will run, and what it is expected to take."""

    images: tuple[Path, ...]
    model: str
    video: VideoSettings
    width: int
    height: int
    fit: str
    play_fps: float
    seeds: tuple[int, ...]
    placement: Placement
    cost: Cost
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """One video on disk, or the reason why there is none."""

    image: Path
    seed: int
    path: Path | None
    # Seconds of each stage of this video.
    seconds: dict[str, float]
    error: str | None = None


def plan(settings: GenerateSettings, watch: Watch = unwatched) -> Plan:
    """What `generate` would do, without doing it: only the model's configuration is read where it is a preset."""
    settings = checked(settings)
    images = tuple(find_images(settings.image))
    placement = _placement(settings)
    preset = PRESETS.get(settings.model) or _load(settings, placement, watch).preset
    return _plan(settings, preset, images, placement)


def generate(settings: GenerateSettings, watch: Watch = unwatched) -> Iterator[Made]:
    """Make one video of each image and count, in sorted order; video i uses seed + i.

    A file that cannot be animated does not stop the others: its Made carries the reason. Names are never taken from
    another video, also when two runs share a folder. Raises UsageError before any work for settings that cannot be.
    """
    settings = checked(settings)
    images = tuple(find_images(settings.image))
    _check_output(settings, len(images) * settings.count)
    placement = _placement(settings)
    clock = _StageClock(watch)
    loaded = _load(settings, placement, clock)
    video = video_settings(settings, loaded.preset)
    width, height = settings.size or (loaded.preset.defaults.width, loaded.preset.defaults.height)
    stage = Stage(loaded.components, placement)
    seeds = iter(range(settings.seed, settings.seed + len(images) * settings.count))
    for image in images:
        for _ in range(settings.count):
            yield _make(settings, stage, loaded.preset, image, next(seeds), video, (width, height), clock)
            clock.seconds = {}


def _make(
    settings: GenerateSettings,
    stage: Stage,
    preset: Preset,
    image: Path,
    seed: int,
    video: VideoSettings,
    size: tuple[int, int],
    clock: _StageClock,
) -> Made:
    try:
        with _reserved(settings, image, seed) as target:
            picture = fit(read_image(image), *size, settings.fit or preset.defaults.fit)
            frames = animate(stage, to_pixels([picture]), video, [seed], clock)
            clock(Progress("write", 0, 1))
            write_video(target, to_uint8(frames[0]), settings.play_fps or video.fps, overwrite=True)
            clock(Progress("write", 1, 1))
        return Made(image, seed, target, clock.seconds)
    except (UsageError, Cancelled):
        raise
    except StillmotionError as error:
        if settings.count == 1 and str(image) == settings.image:
            raise
        return Made(image, seed, None, clock.seconds, str(error))


class _StageClock:
    """Passes events on and adds up the seconds of each stage."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def __call__(self, event: Progress) -> None:
        now = time.perf_counter()
        if event.done:
            stage = event.stage.split()[0]  # "load unet" and "load vae" are both loading
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
        self._watch(event)


def _plan(settings: GenerateSettings, preset: Preset, images: tuple[Path, ...], placement: Placement) -> Plan:
    video = video_settings(settings, preset)
    width, height = settings.size or (preset.defaults.width, preset.defaults.height)
    unit = preset.autoencoder.downsampling
    if width % unit or height % unit or min(width, height) < unit:
        raise UsageError(f"size is {width}x{height}; expected multiples of {unit} pixels.")
    counted = cost(preset, video, width, height, placement.dtype)
    count = len(images) * settings.count
    return Plan(
        images=images,
        model=settings.model,
        video=video,
        width=width,
        height=height,
        fit=settings.fit or preset.defaults.fit,
        play_fps=settings.play_fps or video.fps,
        seeds=tuple(range(settings.seed, settings.seed + count)),
        placement=placement,
        cost=counted,
        seconds=count * expected_seconds(counted, matrix_rate(placement)),
    )


def _placement(settings: GenerateSettings) -> Placement:
    return resolve(Placement(device=settings.device, dtype=settings.dtype, offload=settings.offload))


def _load(settings: GenerateSettings, placement: Placement, watch: Watch) -> Loaded:
    return load(
        settings.model,
        dtype=DTYPES[placement.dtype],
        variant=settings.variant,
        config=settings.config,
        with_image_decoder=settings.decoder == "image",
        watch=watch,
    )


def _check_output(settings: GenerateSettings, videos: int) -> None:
    """Find out now, not after minutes of work, that the result could not be written."""
    output = settings.output or Path("outputs")
    if _is_file_name(output):
        if videos > 1:
            raise UsageError(f"output is {output}, one file, for {videos} videos; expected a folder.")
        if output.exists():
            raise UsageError(f"output {output} already exists; expected a free name, or a folder.")
    elif output.is_file():
        raise UsageError(f"output {output} is a file; expected a name that ends in .mp4, or a folder.")
    check_writable(output.parent if _is_file_name(output) else output)


@contextlib.contextmanager
def _reserved(settings: GenerateSettings, image: Path, seed: int) -> Iterator[Path]:
    """A name that is this video's alone; freed again if there is no video."""
    output = settings.output or Path("outputs")
    if _is_file_name(output):
        target = unused_path(output.parent, output.stem, output.suffix)
        if target != output:
            target.unlink()
            raise UsageError(f"output {output} already exists; expected a free name, or a folder.")
    else:
        target = unused_path(output, f"{image.stem}-seed{seed}", ".mp4")
    try:
        yield target
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _is_file_name(output: Path) -> bool:
    return output.suffix.lower() == ".mp4" and not output.is_dir()
