"""Make a video again from the recipe that it carries, exactly or with other settings."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from ..config import checked, config, parse
from ..errors import UsageError
from ..events import Watch, unwatched
from ..media.formats import Encoding
from ..placement import Placement, Savings, resolve
from ..recipe import PlanRecord, Recipe, read_recipe, versions
from .generate import Made, generate
from .outputs import OUTPUTS, is_file_name, names, short_stem
from .settings import GenerateSettings, encoding_of, read_change

# What --set may not change: they say where things are and how they are told, not how the video is made.
FIXED = ("recipe", "output", "count", "resume", "force", "preview", "preview_every", "dry_run", "json")


@config
class RepeatSettings:
    """Make a video again from its own recipe, and say whether the frames are the same."""

    file: Annotated[Path, Field(description="A video with a recipe inside, a folder of frames, or a recipe as .json.")]
    output: Annotated[Path | None, Field(description="The file to write, or a folder.")] = None
    set: Annotated[
        tuple[str, ...],
        Field(
            description="Change a setting of generate, as motion=180; can be given several times.", title="NAME=VALUE"
        ),
    ] = ()
    image: Annotated[str | None, Field(description="The image, for a recipe that was made --private.")] = None
    model: Annotated[str | None, Field(description="Where the model is, for a recipe of a local model.")] = None
    force: Annotated[bool, Field(description="Replace the output file if it exists.")] = False
    json: Annotated[bool, Field(description="Print one JSON object instead of text.")] = False


@dataclasses.dataclass(frozen=True, slots=True)
class Repeated:
    """The new video beside the recipe it was made from."""

    made: Made
    source: Recipe
    # Settings that were changed on purpose; then the frames are meant to differ.
    changed: tuple[str, ...]

    @property
    def is_identical(self) -> bool:
        """Whether every frame is equal, byte for byte."""
        return self.made.recipe is not None and self.made.recipe.frames == self.source.frames

    @property
    def differences(self) -> tuple[str, ...]:
        """What else is not as it was, one short phrase each: what may explain frames that differ."""
        made = self.made.recipe
        if made is None:
            return ()
        found = []
        if made.model.tensors_sha256 != self.source.model.tensors_sha256:
            found.append("other weights")
        if made.image.sha256 != self.source.image.sha256:
            found.append("another image")
        before, after = self.source.plan, made.plan
        for old, new in ((before, after), (before.savings, after.savings)):
            found += _changes(old, new)
        for name, version in versions().items():
            if self.source.versions.get(name) != version:
                found.append(f"{name} {version} instead of {self.source.versions.get(name, 'an unknown one')}")
        return tuple(found)


def _changes(old: PlanRecord | Savings, new: PlanRecord | Savings) -> list[str]:
    """A phrase for each plain field that differs."""
    pairs = [(field.name, getattr(old, field.name), getattr(new, field.name)) for field in dataclasses.fields(old)]
    return [
        f"{name} {after} instead of {before}"
        for name, before, after in pairs
        if before != after and not isinstance(before, Savings)
    ]


def repeat(settings: RepeatSettings, watch: Watch = unwatched) -> Repeated:
    """Make the video of a recipe again, in the precision and with the threads that it records.

    Raises ConfigError for a recipe that is none, UsageError for a setting that does not exist, a device that this
    machine lacks, or an image or model that the recipe does not bring with it.
    """
    settings = checked(settings)
    if not os.path.exists(settings.file):
        raise UsageError(f"{settings.file} does not exist; expected a video, a folder of frames, or a recipe as .json.")
    recipe = read_recipe(settings.file)
    wanted = _wanted(settings, recipe)
    if wanted.device == recipe.plan.device:
        _check_device(recipe.plan.device)
    with _threads(recipe.plan.threads):
        made = next(generate(wanted, watch, recipe))
    return Repeated(made, recipe, settings.set)


def _check_device(device: str) -> None:
    """Raise UsageError, with the way on, where this machine has no such device as the recipe was made on."""
    try:
        resolve(Placement(device=device, dtype="float32"))
    except UsageError as error:
        raise UsageError(
            f"{str(error).rstrip('.')}, or --set device=cpu --set dtype=float32, whose frames differ a little."
        ) from None


def _wanted(settings: RepeatSettings, recipe: Recipe) -> GenerateSettings:
    plan = recipe.plan
    tree: dict[str, Any] = {
        "recipe": settings.file,
        "image": settings.image,
        "model": settings.model,
        "output": settings.output,
        "device": plan.device,
        "dtype": plan.dtype,
        "offload": plan.offload,
        "compile": plan.compile,
        "memory": "recipe",
        "force": settings.force,
    }
    changes = dict(read_change(text, "--set", FIXED) for text in settings.set)
    wanted = parse(GenerateSettings, tree | changes, source="--set" if changes else "the recipe")
    if settings.output is not None:
        return wanted
    return dataclasses.replace(wanted, output=_free_name(settings, encoding_of(wanted, None, recipe.encoding)))


def _free_name(settings: RepeatSettings, encoding: Encoding) -> Path:
    """A free name in the usual folder that says what was repeated; a folder for frames keeps its usual name."""
    candidates = names(OUTPUTS, short_stem(settings.file.stem, "-repeat"), encoding)
    path = next(path for path in candidates if not os.path.exists(path))
    return path if is_file_name(path) else OUTPUTS


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Run with the recorded number of threads, within what the machine can bear."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(count, 4 * (os.cpu_count() or 1))))
    try:
        yield
    finally:
        torch.set_num_threads(before)
