"""Animate images: files in, mp4 files out."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..checkpoints.load import Loaded, load, shape_of
from ..config import checked
from ..errors import Cancelled, StillmotionError, UsageError
from ..events import Progress, Watch, unwatched
from ..files import check_writable, explained
from ..media.images import Fit, find_images, fit, read_image, to_pixels, to_uint8
from ..media.video import write_video
from ..pipelines.image_to_video import VideoSettings, animate, check_size
from ..pipelines.plan import Cost, cost, expected_seconds, matrix_rate
from ..placement import DTYPES, Placement, Stage, resolve
from ..presets import Preset
from .settings import GenerateSettings, video_settings

OUTPUTS = Path("outputs")  # where videos go when nothing is said
FITTED = {"crop": "cropped", "pad": "padded", "stretch": "stretched"}


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A request with nothing left open: settings checked, defaults filled in, images found."""

    settings: GenerateSettings
    images: tuple[Path, ...]
    preset: Preset
    video: VideoSettings
    width: int
    height: int
    fit: Fit
    play_fps: float
    placement: Placement

    @property
    def seeds(self) -> range:
        """One seed a video, in the order in which they are made."""
        return range(self.settings.seed, self.settings.seed + len(self.images) * self.settings.count)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A request, and what it is expected to take."""

    request: Request
    cost: Cost
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """One video on disk, or the reason why there is none."""

    image: Path
    seed: int
    path: Path | None
    # How the image became the video's size, as in "640x427 cropped to 128x80".
    fitted: str
    # Seconds of each stage of this video.
    seconds: dict[str, float]
    error: str | None = None


def plan(settings: GenerateSettings) -> Plan:
    """What `generate` would do, without doing it: no weights are read."""
    request = _request(settings)
    counted = cost(request.preset, request.video, request.width, request.height, request.placement.dtype)
    seconds = len(request.seeds) * expected_seconds(counted, matrix_rate(request.placement))
    return Plan(request, counted, seconds)


def generate(settings: GenerateSettings, watch: Watch = unwatched) -> Iterator[Made]:
    """Make one video of each image and count, in sorted order; video i uses seed + i.

    An image that cannot be animated does not stop the others: its Made carries the reason; a single one raises it.
    A video takes its name when it is whole, never one that exists, also when two runs share a folder. Raises
    UsageError for settings that cannot be, before any weights are read.
    """
    request = _request(settings)
    clock = _StageClock(watch)
    loaded = _load(request, clock)
    stage = Stage(loaded.components, request.placement)
    each = itertools.product(request.images, range(request.settings.count))
    for (image, _), seed in zip(each, request.seeds, strict=True):
        yield _make(request, stage, image, seed, clock)
        clock.seconds = {}


def _request(settings: GenerateSettings) -> Request:
    settings = checked(settings)
    images = tuple(find_images(settings.image))
    placement = resolve(Placement(device=settings.device, dtype=settings.dtype, offload=settings.offload))
    with explained(settings.output or OUTPUTS):
        _check_output(settings, len(images) * settings.count)
    preset = shape_of(settings.model, settings.config)
    video = video_settings(settings, preset)
    width, height = settings.size or (preset.defaults.width, preset.defaults.height)
    check_size(width, height, preset.autoencoder.downsampling)
    return Request(
        settings=settings,
        images=images,
        preset=preset,
        video=video,
        width=width,
        height=height,
        fit=settings.fit or preset.defaults.fit,
        play_fps=video.fps if settings.play_fps is None else settings.play_fps,
        placement=placement,
    )


def _make(request: Request, stage: Stage, image: Path, seed: int, clock: _StageClock) -> Made:
    fitted = ""
    try:
        picture = read_image(image)
        fitted = f"{picture.width}x{picture.height} {FITTED[request.fit]} to {request.width}x{request.height}"
        frames = _animate(request, stage, picture, seed, clock)
        clock(Progress("write", 0, 1))
        path = _publish(request, frames, image, seed)
        clock(Progress("write", 1, 1))
        return Made(image, seed, path, fitted, clock.seconds)
    except (UsageError, Cancelled):
        raise
    except StillmotionError as error:
        if len(request.seeds) == 1:
            raise
        return Made(image, seed, None, fitted, clock.seconds, str(error))


def _animate(request: Request, stage: Stage, picture: Image.Image, seed: int, watch: Watch) -> np.ndarray:
    pixels = to_pixels([fit(picture, request.width, request.height, request.fit)])
    with _memory_explained(request):
        return to_uint8(animate(stage, pixels, request.video, [seed], watch)[0])


def _publish(request: Request, frames: np.ndarray, image: Path, seed: int) -> Path:
    """Write the video under the first name that is free at the moment it is whole."""
    output = request.settings.output or OUTPUTS
    if _is_file_name(output):
        write_video(output, frames, request.play_fps, overwrite=False)
        return output
    for number in itertools.count(1):
        target = output / f"{image.stem}-seed{seed}{'' if number == 1 else f'-{number}'}.mp4"
        if target.exists():
            continue
        try:
            write_video(target, frames, request.play_fps, overwrite=False)
            return target
        except UsageError:
            if not target.exists():
                raise
    raise AssertionError("names do not run out")


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


@contextlib.contextmanager
def _memory_explained(request: Request) -> Iterator[None]:
    """Turn running out of memory into one sentence."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        # The CPU's allocator raises a plain RuntimeError.
        if type(error) is RuntimeError and "memory" not in str(error):
            raise
        raise StillmotionError(
            f"memory ran out at {request.video.frames} frames of {request.width}x{request.height}; "
            "try a smaller --size, fewer --frames, a --chunk of a few frames, or --offload."
        ) from None


def _load(request: Request, watch: Watch) -> Loaded:
    settings = request.settings
    return load(
        settings.model,
        dtype=DTYPES[request.placement.dtype],
        # Stage decides whether it may run in float16; until then its weights keep their precision.
        autoencoder_dtype=torch.float32 if request.placement.dtype == "float16" else None,
        variant=settings.variant,
        config=settings.config,
        with_image_decoder=request.video.decoder != request.preset.autoencoder.decoder,
        watch=watch,
    )


def _check_output(settings: GenerateSettings, videos: int) -> None:
    """Find out now, not after minutes of work, that the result could not be written."""
    output = settings.output or OUTPUTS
    if _is_file_name(output):
        if videos > 1:
            raise UsageError(f"output is {output}, one file, for {videos} videos; expected a folder.")
        if output.exists():
            raise UsageError(f"output {output} already exists; expected a free name, or a folder.")
    elif not output.is_dir() and (output.exists() or output.suffix):
        raise UsageError(f"output is {output}; expected a folder, or a free name that ends in .mp4.")
    check_writable(output.parent if _is_file_name(output) else output)


def _is_file_name(output: Path) -> bool:
    return output.suffix.lower() == ".mp4" and not output.is_dir()
