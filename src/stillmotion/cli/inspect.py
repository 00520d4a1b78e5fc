"""stillmotion inspect"""

from __future__ import annotations

import json
import sys
from typing import Any

from ..config import to_tree
from ..errors import printable
from ..media.probe import ImageFacts, StreamFacts, VideoFacts
from ..tasks.inspect import Inspection, InspectSettings, ModelFacts, RecipeFacts, inspect
from .options import app_of
from .printing import print_json
from .progress import Terminal

SHOWN = 20  # names in a list before the count


def run(settings: InspectSettings) -> int:
    """Print what was found; 1 for a model that cannot be loaded."""
    with Terminal() as terminal:
        found = inspect(settings, terminal)
    if settings.json:
        print_json(to_tree(found) | {"problems": found.problems})
    else:
        _print(found)
    return 1 if found.problems else 0


def _print(found: Inspection) -> None:
    if found.model is not None:
        _print_model(found.source, found.model)
    if found.video is not None:
        _print_video(found.source, found.video)
    if found.image is not None:
        _print_image(found.source, found.image)
    if found.recipe is not None:
        _print_recipe(found.recipe)
    elif found.video is not None:
        print("recipe: none")


def _print_model(source: str, model: ModelFacts) -> None:
    seen = model.examined
    print(f"{printable(source)}: {seen.layout}, family {' or '.join(seen.families) or 'unknown'}")
    if seen.preset is not None:
        own = seen.preset.defaults
        print(f"defaults: {own.frames} frames of {own.width}x{own.height}, {own.steps} steps, {own.fps:g} fps")
    for part in seen.networks:
        kinds = ", ".join(f"{count} {kind}" for kind, count in part.dtypes.items())
        print(f"  {printable(part.name):24} {part.parameters:>15,} parameters  {_size(part.bytes):>9}  {kinds}")
    total = sum(part.parameters for part in seen.networks)
    print(f"  {'all':24} {total:>15,} parameters  {_size(sum(part.bytes for part in seen.networks)):>9}")
    for reason, count in seen.left_out.items():
        print(f"not read: {count} tensors ({reason})")
    for file in model.files:
        print(f"file: {printable(file.path)}  {_size(file.bytes)}" + (f"  sha256 {file.sha256}" if file.sha256 else ""))
    if model.tensors_sha256:
        print(f"tensors: sha256 {model.tensors_sha256}")
    if model.with_image_decoder_sha256:
        print(f"tensors with the image decoder: sha256 {model.with_image_decoder_sha256}")
    for path in seen.unsafe:
        print(f"unsafe: {printable(str(path))} is a pickle, which can run code when it is opened; it was not opened")
    for kind, names in (("missing", seen.differences.missing), ("unexpected", seen.differences.unknown)):
        _print_names(kind, names)
    _print_names("of another shape or type", seen.differences.wrong)
    for note in seen.notes:
        print(f"note: {note}")
    for problem in seen.problems:
        print(f"problem: {printable(problem)}")
    print("cannot be loaded" if seen.problems else "can be loaded")


def _print_names(kind: str, names: tuple[str, ...]) -> None:
    for name in names[:SHOWN]:
        print(f"{kind}: {printable(name)}")
    if len(names) > SHOWN:
        print(f"{kind}: {len(names) - SHOWN} more; --json lists all")


def _print_video(source: str, video: VideoFacts) -> None:
    length = "" if video.duration_s is None else f", {video.duration_s:.3f} s"
    print(f"{printable(source)}: video, {printable(video.container)}, {_size(video.bytes)}{length}")
    for stream in video.streams:
        print(f"  {_described(stream)}")


def _described(stream: StreamFacts) -> str:
    parts = [f"{stream.kind} {stream.codec}" + (f" ({stream.profile})" if stream.profile else "")]
    if stream.width is not None:
        parts.append(f"{stream.width}x{stream.height}")
    if stream.fps is not None:
        parts.append(f"{stream.fps:.6g} fps")
    if stream.frames is not None:
        parts.append(f"{stream.frames} frames")
    if stream.duration_s is not None:
        parts.append(f"{stream.duration_s:.3f} s")
    if stream.pixel_format:
        parts.append(stream.pixel_format)
    return printable(", ".join([*parts, *(f"{name} {value}" for name, value in stream.colour.items())]))


def _print_image(source: str, image: ImageFacts) -> None:
    print(f"{printable(source)}: image, {image.format}, {image.width}x{image.height}, {_size(image.bytes)}")
    profile = "none" if image.profile is None else printable(image.profile)
    print(f"  mode {image.mode}, orientation {image.orientation}, colour profile {profile}")


def _print_recipe(recipe: RecipeFacts) -> None:
    # ASCII, for a stranger's text could hold a terminal's control codes.
    text: Any = json.dumps(recipe.values, indent=2)
    print("recipe:" if recipe.values is None else f"recipe: {text}")
    if recipe.problem is not None:
        print(f"the recipe cannot be repeated: {printable(recipe.problem)}", file=sys.stdout)


def _size(count: int) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.2f} GB"


app = app_of(InspectSettings, run, positional=("source",))
