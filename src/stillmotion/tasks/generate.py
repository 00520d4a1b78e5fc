"""Animate images: files in, videos out, each with the recipe that made it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import nn

from ..checkpoints.fingerprint import components_sha256
from ..checkpoints.load import Loaded, check_reachable, load, load_network
from ..errors import Cancelled, MediaError, StillmotionError, UsageError
from ..evaluation.freeze import is_frozen
from ..events import Progress, Watch, unwatched
from ..media.pixels import to_pixels, to_uint8
from ..media.video import write_video
from ..nn.backends import CHOICES
from ..pipelines.image_to_video import animate, check_size
from ..pipelines.ladder import Ladder, is_out_of_memory, next_plan, until_it_fits
from ..pipelines.memory import MemoryPlan, Workload
from ..pipelines.plan import Cost, Expected, cost, expected, rates_of
from ..placement import DTYPES, Placement, Stage, resolved_dtype
from ..recipe import (
    FramesRecord,
    ImageRecord,
    PlanRecord,
    Recipe,
    model_record,
    pixels_sha256,
    read_recipe,
    versions,
)
from .kernels import choices_file, keep_choices, recall_choices
from .memory import placement_for, prediction, room_now, workload
from .outputs import is_file_name, names, publish, short_stem
from .preview import PreviewFile
from .request import Picture, Request, Source, make_request
from .settings import GenerateSettings


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A request, and what it is expected to take."""

    request: Request
    width: int
    height: int
    cost: Cost
    # Of one video, and of all together in seconds.
    expected: Expected
    seconds: float
    memory: MemoryPlan
    # What a person should know of the first image beforehand, such as a size off the training's.
    notes: tuple[str, ...]


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
    # What a person should know: a size off the training's, a repeated column, a seed that was passed over.
    notes: tuple[str, ...] = ()
    recipe: Recipe | None = None
    # An earlier run had made it.
    is_old: bool = False


class Studio:
    """The model of a request, loaded when the first video needs it, and what its recipes say of it."""

    def __init__(self, request: Request, watch: Watch = unwatched) -> None:
        self._request = request
        self._watch = watch
        self._stage: Stage | None = None
        self._room = room_now(request.placement)
        # Plans found while running out of memory, so that no video runs into it again.
        self._lowered: dict[Workload, Placement] = {}
        # What a person should know of the last video's memory.
        self.notes: tuple[str, ...] = ()

    def frames(self, request: Request, picture: Image.Image, seed: int, watch: Watch) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames of one video. `request` may differ from the studio's own in all but model and placement."""
        check_size(*picture.size, request.preset.autoencoder.downsampling)
        load = workload(request, *picture.size)
        placement = self._lowered.get(load) or placement_for(request, *picture.size, self._room)
        with _memory_explained(request, *picture.size):
            stage, notes = self._fitted(load, placement)
            ladder = Ladder(stage, load)
            pixels = to_pixels([picture])
            known = CHOICES.chosen
            frames = animate(stage, pixels, request.video, [seed], watch, request.preview_every, ladder)[0]
            keep_choices(choices_file(), known)
            self.notes = (*notes, *ladder.notes)
            if self.notes:
                self._lowered[load] = stage.placement
            return to_uint8(frames)

    def recipe(self, request: Request, image: ImageRecord, frames: UInt8[np.ndarray, "t h w 3"], seed: int) -> Recipe:
        """The document of one video."""
        assert self._stage is not None, "no video was made"
        placement = self._stage.placement
        return Recipe(
            model=model_record(request.model, self.tensors_sha256),
            image=image,
            fit=request.fit,
            fitting=request.fitting,
            video=request.video,
            seed=seed,
            play_fps=request.play_fps,
            encoding=request.encoding,
            plan=PlanRecord(
                device=placement.device,
                dtype=resolved_dtype(placement),
                offload=placement.offload,
                threads=torch.get_num_threads(),
                savings=placement.savings,
                compile=self._stage.runs_compiled,
            ),
            versions=versions(),
            frames=FramesRecord(
                count=len(frames), width=frames.shape[2], height=frames.shape[1], sha256=pixels_sha256(frames)
            ),
        )

    @functools.cached_property
    def tensors_sha256(self) -> str:
        """Of the networks as they are stored, as `inspect --hash` shows it; mapped, so that none is held twice."""
        return components_sha256(self._open(None).components, self._with_image_decoder)

    @property
    def _with_image_decoder(self) -> bool:
        return self._request.video.decoder != self._request.preset.autoencoder.decoder

    def _fitted(self, load: Workload, placement: Placement) -> tuple[Stage, list[str]]:
        """The stage under this placement, or the next cheaper one that its model fits into, and what happened."""
        notes: list[str] = []

        def step_down(whose: str) -> None:
            nonlocal placement
            placement, note = next_plan(load, placement, "load", whose)
            notes.append(note)

        device = torch.device(placement.device)
        return until_it_fits(lambda: self._ready(placement), device, step_down), notes

    def _ready(self, placement: Placement) -> Stage:
        """The stage, its model read, under this placement."""
        if self._stage is not None:
            if self._stage.placement != placement:
                self._stage.adopt(placement)
            return self._stage
        recall_choices(choices_file())
        fetch = functools.partial(_fetch, self._request, self._watch) if placement.device == "cpu" else None
        self._stage = Stage(self._read(placement).components, placement, fetch)
        return self._stage

    def _read(self, placement: Placement) -> Loaded:
        _ = self.tensors_sha256  # before the weights are wanted, as it reads all of them
        if placement.device == "cpu" and placement.offload != "none":
            return self._open(None)
        return self._open(DTYPES[self._request.placement.dtype])

    def _open(self, dtype: torch.dtype | None) -> Loaded:
        settings = self._request.settings
        return load(
            self._request.model,
            variant=settings.variant,
            config=settings.config,
            with_image_decoder=self._with_image_decoder,
            dtype=dtype,
            # Stage decides whether it may run in float16; until then its weights keep their precision.
            autoencoder_dtype=torch.float32 if dtype == torch.float16 else None,
            watch=self._watch if dtype is not None else unwatched,
        )


def _fetch(request: Request, watch: Watch, name: str) -> nn.Module:
    """One network of the request's model as it is stored, read anew."""
    settings = request.settings
    return load_network(request.model, name, variant=settings.variant, config=settings.config, watch=watch)


def plan(settings: GenerateSettings) -> Plan:
    """What `generate` would do, without doing it: the first image is read, but no weights are."""
    request = make_request(settings)
    picture = request.picture(request.sources[0])
    width, height = picture.image.size
    counted = cost(request.preset, request.video, width, height, request.placement.dtype)
    memory = prediction(request, width, height)
    each = expected(counted, memory.placement, rates_of(memory.placement))
    seconds = len(request.seeds) * each.seconds
    return Plan(request, width, height, counted, each, seconds, memory, request.advice(picture))


def generate(settings: GenerateSettings, watch: Watch = unwatched, recipe: Recipe | None = None) -> Iterator[Made]:
    """Make one video of each image and count, in sorted order; video i uses seed + i.

    An image that cannot be animated does not stop the others: its Made carries the reason; a single one raises it.
    A video takes its name when it is whole, never one that exists, also when two runs share a folder. `recipe` stands
    for the one that `settings.recipe` names, where it is read already. Raises UsageError for settings that cannot be,
    and HubError for a model that cannot be had, before any weights are read.
    """
    request = make_request(settings, recipe)
    check_reachable(request.model)  # planning takes seconds, for a released model
    if request.size is not None:
        placement_for(request, *request.size)  # refuses a budget that is too small before anything is read
    preview = _preview_file(request, watch)
    clock = _StageClock(preview or watch)
    studio = Studio(request, clock)
    each = itertools.product(request.sources, range(request.settings.count))
    for (source, _), seed in zip(each, request.seeds, strict=True):
        made = _make(request, studio, source, seed, clock)
        yield made if preview is None else dataclasses.replace(made, notes=(*made.notes, *preview.notes))
        clock.seconds = {}


def _preview_file(request: Request, watch: Watch) -> PreviewFile | None:
    settings = request.settings
    if settings.preview is None:
        return None
    return PreviewFile(settings.preview, request.play_fps, watch, is_sparing=settings.preview_every is None)


def _make(request: Request, studio: Studio, source: Source, seed: int, clock: _StageClock) -> Made:
    image, fitted = source.image, ""
    try:
        picture = _picture(request, source)
        fitted = picture.fitted
        record = request.record(source, picture)
        old = _made_before(request, studio, source, record, seed) if request.settings.resume else None
        if old is not None:
            return Made(image, seed, old[0], fitted, {}, recipe=old[1], is_old=True)
        _check_free(request)
        return _make_new(request, studio, source, picture, record, seed, clock)
    except (UsageError, Cancelled):
        raise
    except StillmotionError as error:
        if len(request.seeds) == 1:
            raise
        return Made(image, seed, None, fitted, clock.seconds, str(error))


def _picture(request: Request, source: Source) -> Picture:
    """Read and fit an image. What makes one of several unfit for the request is no reason to refuse the others."""
    try:
        return request.picture(source)
    except UsageError as error:
        if len(request.seeds) == 1:
            raise
        raise MediaError(str(error)) from None


def _make_new(
    request: Request,
    studio: Studio,
    source: Source,
    picture: Picture,
    record: ImageRecord,
    first_seed: int,
    clock: _StageClock,
) -> Made:
    frames, seed, retried = _moving(request, studio, picture, first_seed, clock)
    recipe = studio.recipe(request, record, frames, seed)
    clock(Progress("write", 0, 1))
    with _memory_explained(request, frames.shape[2], frames.shape[1]):
        path, written = _write(request, frames, recipe, source, first_seed)
    clock(Progress("write", 1, 1))
    notes = [*request.advice(picture), *retried, *studio.notes, *written]
    if record.webp is None and not request.settings.private:
        notes.append("the image is too large for the recipe, so that to repeat the video takes the image too.")
    return Made(source.image, seed, path, picture.fitted, clock.seconds, notes=tuple(notes), recipe=recipe)


def _moving(
    request: Request, studio: Studio, picture: Picture, seed: int, watch: Watch
) -> tuple[UInt8[np.ndarray, "t h w 3"], int, tuple[str, ...]]:
    """Frames that move, their seed, and a sentence for each seed that gave none; of those the last is taken."""
    notes, more = [], request.settings.avoid_still
    if more and request.video.frames == 1:
        more, notes = 0, ["--avoid-still changes nothing for a single frame."]
    elif not more:
        return studio.frames(request, picture.image, seed, watch), seed, ()
    while True:
        frames = studio.frames(request, picture.image, seed, watch)
        if request.video.frames == 1 or not is_frozen(frames):
            return frames, seed, tuple(notes)
        if not more:
            return frames, seed, (*notes, f"seed {seed} gave a still video, too; it is kept.")
        # Beyond the seeds of the whole request, so that no two videos share one.
        other = seed + len(request.seeds)
        notes.append(f"seed {seed} gave a still video; trying {other}.")
        seed, more = other, more - 1


def _write(
    request: Request, frames: np.ndarray, recipe: Recipe, source: Source, seed: int
) -> tuple[Path, tuple[str, ...]]:
    """Write the video under its own name, or the first that is free at the moment it is whole."""

    def write(target: Path, overwrite: bool = False) -> tuple[str, ...]:
        return write_video(target, frames, request.play_fps, request.encoding, recipe.to_json(), overwrite)

    output = request.output()
    if is_file_name(output):
        return output, write(output, request.settings.force)
    return publish(names(output, _stem(source, seed), request.encoding), write)


def _made_before(
    request: Request, studio: Studio, source: Source, image: ImageRecord, seed: int
) -> tuple[Path, Recipe] | None:
    """The video that an earlier run made of this very request, and its recipe; None where there is none."""
    output = request.output()
    single = [output] if is_file_name(output) else None
    for path in single or names(output, _stem(source, seed), request.encoding):
        if not os.path.exists(path):
            return None
        with contextlib.suppress(StillmotionError):
            recipe = read_recipe(path)
            if _request_of(recipe) != _wish(request, image, recipe.seed, seed):
                continue
            if request.settings.private and recipe.image.webp is not None:
                continue
            # Two folders can have one name, and one folder other weights than before.
            if recipe.model.kind != "local" or recipe.model.tensors_sha256 == studio.tensors_sha256:
                return path, recipe
    return None


def _check_free(request: Request) -> None:
    """With --resume a named file may exist, but only as what was asked for."""
    output = request.output()
    if is_file_name(output) and output.exists() and not request.settings.force:
        raise UsageError(f"{output} already exists, made otherwise; expected a free name, or --force.")


def _request_of(recipe: Recipe) -> tuple[object, ...]:
    """What of a recipe was asked for, and not found out."""
    model, plan = recipe.model, recipe.plan
    asked = (recipe.image.sha256, recipe.fit, recipe.video, recipe.seed, recipe.play_fps, recipe.encoding)
    return (model.kind, model.name, *asked, plan.dtype)


def _wish(request: Request, image: ImageRecord, found_seed: int, seed: int) -> tuple[object, ...]:
    # A seed that was passed over for one that moves is the same wish.
    seeds = {seed + i * len(request.seeds) for i in range(request.settings.avoid_still + 1)}
    model, placement = model_record(request.model, ""), request.placement
    asked = (image.sha256, request.fit, request.video, found_seed if found_seed in seeds else seed)
    return (model.kind, model.name, *asked, request.play_fps, request.encoding, placement.dtype)


def _stem(source: Source, seed: int) -> str:
    return short_stem(Path(source.name).stem, f"-seed{seed}")


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
def _memory_explained(request: Request, width: int, height: int) -> Iterator[None]:
    """Turn running out of memory into one sentence."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        # The CPU's allocator raises a plain RuntimeError.
        if not is_out_of_memory(error):
            raise
        raise StillmotionError(
            f"memory ran out at {request.video.frames} frames of {width}x{height}; "
            "try a smaller --size, fewer --frames, or --memory with what there is."
        ) from None
