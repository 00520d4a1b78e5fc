"""A request with nothing left open: settings checked, recipe and defaults filled in, images found."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from PIL import Image

from ..checkpoints.load import shape_of
from ..config import checked
from ..diffusion.sigmas import Levels
from ..errors import UsageError
from ..files import check_writable, explained
from ..media.fitting import Fit, fit, is_trained, nearest_trained_size
from ..media.formats import Encoding, check_encodable
from ..media.images import SUFFIXES, colour_of, find_images, upright_size
from ..media.still import read_picture
from ..media.strip import check_strip
from ..pipelines.image_to_video import VideoSettings, check_size
from ..pipelines.plan import model_calls
from ..placement import Placement, chosen_compile, resolve
from ..presets import PRESETS, Preset
from ..recipe import FittingRecord, ImageRecord, Recipe, image_record, picture_of, read_recipe
from .outputs import OUTPUTS, check_output, is_file_name
from .settings import GenerateSettings, encoding_of, given, video_settings

# Of videos in a folder, where a second of each is asked for.
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".ogv")
FITTED = {"crop": "cropped", "pad": "padded", "stretch": "stretched"}


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One image to animate: a file, or the picture that a recipe carries."""

    name: str
    path: Path | None

    @property
    def image(self) -> Path:
        """What a person knows it by."""
        return self.path or Path(self.name)


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """An image as the model will see it, and how it became so, as in "640x427 cropped to 128x80"."""

    image: Image.Image
    # Width and height before fitting.
    whole: tuple[int, int]
    fitted: str


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What `generate` will do, in full."""

    settings: GenerateSettings
    recipe: Recipe | None
    sources: tuple[Source, ...]
    model: str
    preset: Preset
    video: VideoSettings
    # None for each image's own nearest trained size.
    size: tuple[int, int] | None
    fit: Fit
    play_fps: float
    encoding: Encoding
    placement: Placement
    seed: int

    @property
    def seeds(self) -> range:
        """One seed a video, in the order in which they are made."""
        return range(self.seed, self.seed + len(self.sources) * self.settings.count)

    @property
    def fitting(self) -> FittingRecord:
        """How an image is fitted, beside `fit`; empty places take the recipe's."""
        settings, base = self.settings, self.recipe.fitting if self.recipe else FittingRecord()
        return FittingRecord(
            focus=given(settings.focus, base.focus),
            pad_colour=given(settings.pad_colour, base.pad_colour),
            background=given(settings.background, base.background),
            at=given(settings.at, self._recorded_at),
        )

    @property
    def _recorded_at(self) -> float | None:
        """The second of the video that the recipe's own picture was taken at; one that stands in for it has another."""
        if self.recipe is None or (self.recipe.image.webp is not None and self.settings.image is not None):
            return None
        return self.recipe.fitting.at

    @property
    def preview_every(self) -> int | None:
        """Steps from one preview to the next; None for no previews."""
        return self.settings.preview_every or (None if self.settings.preview is None else 1)

    def output(self) -> Path:
        """Where the videos go."""
        return self.settings.output or OUTPUTS

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """The size of the video of an image of this size."""
        return self.size or nearest_trained_size((width, height), self.preset.defaults.trained_sizes)

    def picture(self, source: Source) -> Picture:
        """Read and fit one image. Raises MediaError, UsageError."""
        known = source.path and upright_size(source.path)
        if source.path is None:
            whole = self._from_recipe()
        else:
            whole = self._read(source.path, self.size_of(*known) if known else self.size)
        # A large photograph is decoded no larger than it is needed; what is chosen and said is by the file's own size.
        width, height = known or whole.size
        size = self.size_of(width, height)
        image, how = whole, self.fitting
        if size != whole.size or source.path is not None:
            image = fit(whole, *size, self.fit, focus=how.focus, pad_colour=how.pad_colour)
        second = "" if source.path is None or how.at is None else f" at {how.at:g} s"
        fitted = f"{width}x{height}{second} {FITTED[self.fit]} to {size[0]}x{size[1]}"
        return Picture(image, (width, height), fitted)

    def record(self, source: Source, picture: Picture) -> ImageRecord:
        """What the recipe will say of a picture."""
        return image_record(source.name, picture.image, keep_pixels=not self.settings.private)

    def advice(self, picture: Picture) -> tuple[str, ...]:
        """One line for an option that nothing makes use of, and one where another size would suit better."""
        return (*self._unused(), *self._about_size(picture))

    def _unused(self) -> tuple[str, ...]:
        in_list = isinstance(self.video.sigmas, Levels) and self.settings.steps is not None
        steps = ("--steps changes nothing with a list of --sigmas, which says them itself.",) if in_list else ()
        given_for = {"focus": (self.settings.focus, "crop"), "pad-colour": (self.settings.pad_colour, "pad")}
        fitting = (
            f"--{name} changes nothing with --fit {self.fit}; it is for --fit {wanted}."
            for name, (value, wanted) in given_for.items()
            if value is not None and self.fit != wanted
        )
        return (*steps, *fitting)

    def _about_size(self, picture: Picture) -> tuple[str, ...]:
        trained = self.preset.defaults.trained_sizes
        if not is_trained(picture.image.size, trained):
            sizes = ", ".join(f"{w}x{h}" for w, h in trained)
            size = f"{picture.image.width}x{picture.image.height}"
            return (f"{size} is off the sizes that {self.preset.name} was trained at: {sizes}.",)
        near = nearest_trained_size(picture.whole, trained)
        is_cut = self.fit == "crop" and self.settings.size is None and self.recipe is None
        if is_cut and near != picture.image.size:
            return (f"--size {near[0]}x{near[1]} would cut less from this image.",)
        return ()

    def _read(self, path: Path, at_least: tuple[int, int] | None) -> Image.Image:
        return read_picture(path, self.fitting.at, at_least=at_least, background=self.fitting.background)

    def _from_recipe(self) -> Image.Image:
        assert self.recipe is not None
        picture = picture_of(self.recipe)
        if picture is None:
            at = self.recipe.fitting.at
            lacking = "image" if at is None else f"video, whose frame at {at:g} s it shows"
            raise UsageError(
                f"the recipe of {self.settings.recipe} was made without its {lacking}, --private or too large for it; "
                "expected it too (generate IMAGE --recipe, repeat --image)."
            )
        return picture


def make_request(settings: GenerateSettings, recipe: Recipe | None = None) -> Request:
    """Fill in everything. `recipe` stands for the one that `settings.recipe` names, where it is read already.

    Raises UsageError for settings that cannot be, before any weights are read.
    """
    settings = checked(settings)
    if recipe is None and settings.recipe is not None:
        recipe = read_recipe(settings.recipe)
    sources = _sources(settings, recipe)
    if settings.image is None and recipe is not None:
        _check_refit(settings, recipe)
    if settings.pad_colour is not None:
        colour_of(settings.pad_colour)
    placement = resolve(Placement(device=settings.device, dtype=settings.dtype, offload=settings.offload))
    encoding = encoding_of(settings, _file_of(settings), recipe and recipe.encoding)
    with explained(settings.output or OUTPUTS):
        may_exist = settings.force or settings.resume
        check_output(settings.output, encoding, len(sources) * settings.count, may_exist)
    _check_preview(settings)
    model = settings.model or _model_of(recipe)
    preset = shape_of(model, settings.config)
    video = video_settings(settings, preset, recipe and recipe.video)
    size = _size(settings, recipe, preset)
    play_fps = given(settings.play_fps, recipe.play_fps if recipe and settings.fps is None else video.fps)
    if settings.memory == "recipe" and recipe is None:
        raise UsageError("memory is recipe, and there is no recipe; expected a size such as 8GB, or auto.")
    for each in preset.defaults.trained_sizes if size is None else (size,):
        check_size(*each, preset.autoencoder.downsampling)
        check_encodable(_file_of(settings), *each, video.frames, play_fps, encoding)
    seed = given(settings.seed, recipe.seed if recipe else 0)
    if seed + len(sources) * settings.count * (settings.avoid_still + 1) > 2**63:
        raise UsageError(f"seed is {seed}, and the seeds of all videos go beyond 2^63; expected a smaller one.")
    calls = model_calls(video) * len(sources) * settings.count
    placement = dataclasses.replace(placement, compile=chosen_compile(settings.compile, placement, calls))
    return Request(
        settings=settings,
        recipe=recipe,
        sources=sources,
        model=model,
        preset=preset,
        video=video,
        size=size,
        fit=settings.fit or (recipe.fit if recipe else preset.defaults.fit),
        play_fps=play_fps,
        encoding=encoding,
        placement=placement,
        seed=seed,
    )


def _sources(settings: GenerateSettings, recipe: Recipe | None) -> tuple[Source, ...]:
    if settings.image is not None:
        suffixes = SUFFIXES if settings.at is None else (*SUFFIXES, *VIDEO_SUFFIXES)
        return tuple(Source(path.name, path) for path in find_images(settings.image, suffixes))
    if recipe is None:
        raise UsageError("no image was given; expected an image, a folder of images, a pattern, or --recipe.")
    return (Source(recipe.image.name, None),)


def _check_refit(settings: GenerateSettings, recipe: Recipe) -> None:
    """Raise UsageError for a wish that the image as it was is needed for: a recipe holds it fitted already."""
    is_other = settings.size not in (None, (recipe.frames.width, recipe.frames.height))
    wishes = {name: getattr(settings, name) for name in ("focus", "background", "at")}
    if not is_other:
        wishes |= {"fit": settings.fit, "pad-colour": settings.pad_colour}
    elif settings.private:
        wishes["private"] = True
    wished = [name for name, value in wishes.items() if value is not None]
    if wished:
        raise UsageError(
            f"{' and '.join(wished)} {'is' if len(wished) == 1 else 'are'} set, and the recipe brings its image fitted "
            "already; expected the image too (generate IMAGE --recipe, repeat --image)."
        )


def _model_of(recipe: Recipe | None) -> str:
    """The model that a recipe names, if it is one of the presets: no stranger's path or address is followed."""
    if recipe is None:
        return "tiny"
    known = {*PRESETS, *(preset.hub_id for preset in PRESETS.values())}
    kind, name = recipe.model.kind, recipe.model.name
    # A folder called like a repository would be taken for it; one called like a preset is not.
    if kind == "local" or name not in known or (name not in PRESETS and os.path.exists(name)):
        raise UsageError(f"the recipe was made with the {kind} model {name!r}; expected --model, saying where it is.")
    return name


def _size(settings: GenerateSettings, recipe: Recipe | None, preset: Preset) -> tuple[int, int] | None:
    if settings.size is not None:
        return None if settings.size == "auto" else settings.size
    if recipe is not None:
        return recipe.frames.width, recipe.frames.height
    return preset.defaults.width, preset.defaults.height


def _check_preview(settings: GenerateSettings) -> None:
    if settings.preview is None:
        return
    if settings.output is not None and settings.preview.absolute() == settings.output.absolute():
        raise UsageError(f"preview and output are both {settings.preview}; expected two names.")
    check_strip(settings.preview, settings.force)
    check_writable(settings.preview.parent)


def _file_of(settings: GenerateSettings) -> Path | None:
    """The file that was named, or None where a folder was."""
    return settings.output if settings.output is not None and is_file_name(settings.output) else None
