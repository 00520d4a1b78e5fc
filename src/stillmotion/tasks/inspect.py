"""Look into a model, a video or an image without running it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ..checkpoints.examine import Examined, examine, whole_tensors
from ..checkpoints.fingerprint import components_sha256, tensors_sha256
from ..checkpoints.load import load
from ..checkpoints.store import PICKLE_SUFFIXES
from ..config import checked, config
from ..errors import CheckpointError, MediaError, StillmotionError, UsageError
from ..events import Progress, Watch, unwatched
from ..media.document import SIDECAR, read_document
from ..media.probe import ImageFacts, VideoFacts, media_kind, probe, probe_image
from ..presets import PRESETS
from ..recipe import parse_any_recipe

MODEL_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
MAX_DEPTH = 50  # of a stranger's document; what prints it later has limits of its own
LONG_TEXT = 2000  # characters of one value; a longer one is an image in base64, and shown as its size


@config
class InspectSettings:
    """Show what is in a model, a video or an image, from its headers."""

    source: Annotated[str, Field(description="A video, an image, a folder, a .safetensors file, a preset or a hub id.")]
    hash: Annotated[bool, Field(description="Also the sha256 of a model's files and of its tensors; reads all.")] = (
        False
    )
    config: Annotated[
        str | None,
        Field(description="For a .safetensors of unknown name: a preset, a folder, or the original's YAML or JSON."),
    ] = None
    variant: Annotated[str | None, Field(description="Which weights of a folder to look at, such as fp16.")] = None
    json: Annotated[bool, Field(description="Print one JSON object instead of text.")] = False


@dataclasses.dataclass(frozen=True, slots=True)
class FileFacts:
    """One file of a model; the sha256 of its bytes where hashes were asked for."""

    path: str
    bytes: int
    sha256: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a checkpoint is, and whether it can be loaded."""

    examined: Examined
    files: tuple[FileFacts, ...]
    # Of the tensors, whatever the layout; without the frame-wise decoder, and with it where there is one.
    tensors_sha256: str | None
    with_image_decoder_sha256: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class RecipeFacts:
    """The document inside a video: its values, long texts as their sizes, and what is wrong with it as a recipe."""

    values: Any
    problem: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Inspection:
    """One of `model`, `video` and `image` is there, as `kind` says."""

    source: str
    kind: Literal["model", "video", "image"]
    model: ModelFacts | None = None
    video: VideoFacts | None = None
    image: ImageFacts | None = None
    recipe: RecipeFacts | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the model cannot be loaded; empty where it can, and for videos and images."""
        return () if self.model is None else self.model.examined.problems


def inspect(settings: InspectSettings, watch: Watch = unwatched) -> Inspection:
    """What a file, a folder, a preset or a hub id holds. Nothing is fetched, decoded or run.

    A model that cannot be loaded is described all the same, with the reasons in `problems`. Raises UsageError for a
    source that is nothing, HubError for a repository that is not in the cache, MediaError for a damaged video or image.
    """
    settings = checked(settings)
    path = Path(settings.source)
    try:
        is_model = _is_model(settings.source, path)
    except OSError as error:  # a folder that may not be read, a name that is too long
        reason = error.strerror or str(error)
        raise UsageError(f"{path} cannot be looked at: {reason}; expected a file or a folder.") from None
    if is_model:
        return Inspection(settings.source, "model", model=_model(settings, watch))
    if path.is_file() and media_kind(path) == "image":
        return Inspection(settings.source, "image", image=probe_image(path), recipe=_recipe(path))
    return Inspection(settings.source, "video", video=probe(path), recipe=_recipe(path))


def _is_model(source: str, path: Path) -> bool:
    if source in PRESETS or not path.exists():
        return True
    if path.is_file():
        return path.suffix.lower() in MODEL_SUFFIXES
    weights = any(each.suffix.lower() in MODEL_SUFFIXES for each in path.iterdir())
    is_pictures = (path / SIDECAR).exists() or next(path.glob("*.png"), None) is not None
    return weights or (path / "model_index.json").exists() or (path / "unet").is_dir() or not is_pictures


def _model(settings: InspectSettings, watch: Watch) -> ModelFacts:
    found = examine(settings.source, variant=settings.variant, config=settings.config)
    files = []
    named = (*found.weights, *found.unsafe) or tuple(filter(Path.is_file, [Path(settings.source)]))
    for number, path in enumerate(named):
        if settings.hash:
            watch(Progress("hash", number, len(named)))
        files.append(FileFacts(str(path), path.stat().st_size, _file_sha256(path) if settings.hash else None))
    own, with_decoder = _hashes(settings, found) if settings.hash else (None, None)
    return ModelFacts(found, tuple(files), own, with_decoder)


def _hashes(settings: InspectSettings, found: Examined) -> tuple[str | None, str | None]:
    """The hash of the tensors in our naming; of a file that is no whole model, in its own."""
    if found.layout in ("lora", "tensors"):
        tensors = whole_tensors(found.weights, settings.source)
        return tensors_sha256((name, tensors.tensor(name)) for name in tensors.entries), None
    # Of a nameless file, any model of its shapes has the names of its tensors.
    family = settings.config or (found.families[0] if found.families and found.preset is None else None)
    if found.problems or (found.preset is None and family is None):
        return None, None
    # A folder by its path, so that nothing is looked up on the hub again.
    source = Path(settings.source) if found.layout == "sgm file" else found.weights[0].parents[1]
    components = load(source, variant=settings.variant, config=family, with_image_decoder=True).components
    both = None if components.image_decoder is None else components_sha256(components, with_image_decoder=True)
    return components_sha256(components), both


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}; expected a file.") from None


def _recipe(path: Path) -> RecipeFacts | None:
    """The document that a file carries; one that is damaged does not hide what else there is to see."""
    try:
        document = read_document(path)
    except MediaError as error:
        return RecipeFacts(None, str(error))
    if document is None:
        return None
    try:
        parse_any_recipe(document, str(path))
        problem = None
    except StillmotionError as error:
        problem = str(error)
    try:
        return RecipeFacts(_shortened(json.loads(document)), problem)
    except (ValueError, RecursionError):
        return RecipeFacts(_shortened(document), problem)


def _shortened(value: Any, depth: int = 0) -> Any:
    if isinstance(value, dict | list) and depth == MAX_DEPTH:
        return "(nested too deeply)"
    if isinstance(value, dict):
        return {key: _shortened(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_shortened(each, depth + 1) for each in value]
    return f"({len(value)} characters)" if isinstance(value, str) and len(value) > LONG_TEXT else value
