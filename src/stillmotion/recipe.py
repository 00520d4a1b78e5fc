"""The recipe: how a video was made, as one JSON document that the video carries.

A recipe from a stranger is data. It is capped, it is validated whole before any of it is used, it names no path that
anything opens, and it holds no clock.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import re
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pydantic import Field

from .config import config, parse, spelled, to_tree
from .errors import ConfigError, StillmotionError, UsageError
from .kernels import library
from .media.document import MAX_DOCUMENT_BYTES, read_document
from .media.fitting import Fit
from .media.formats import Encoding
from .pipelines.image_to_video import MAX_SIDE_PX, VideoSettings
from .placement import Compile, Offload, Savings
from .presets import PRESETS

SCHEMA: Literal["stillmotion/recipe"] = "stillmotion/recipe"
GRID_SCHEMA: Literal["stillmotion/grid"] = "stillmotion/grid"
VERSION = 1
# What can change the numbers of a generation.
PACKAGES = ("stillmotion", "torch", "transformers", "numpy", "pillow", "av")

T = TypeVar("T")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^/\\\x00-\x1f\x7f-\x9f]+$")]
# A preset, a hub id, or the last part of a path: at most one slash, and no way up.
ModelName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w-][\w. -]*(/[\w-][\w.-]*)?$")]
Pixels = Annotated[int, Field(ge=1, le=MAX_SIDE_PX)]
Version = Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Colour = Annotated[str, Field(min_length=1, max_length=50)]


@config
class ModelRecord:
    """Which weights were used."""

    # preset: a name in `presets`. hub: a repository. local: a file or folder of the maker's, by its last name.
    kind: Literal["preset", "hub", "local"]
    name: ModelName
    # Of the networks as they are stored, whatever layout they come in.
    tensors_sha256: Sha256


@config
class ImageRecord:
    """The image that was animated, as the model saw it: upright, sRGB, fitted."""

    name: Name
    sha256: Sha256
    # The pixels themselves, as a lossless WebP in base64; None where the maker kept them back.
    webp: Annotated[str | None, Field(max_length=MAX_DOCUMENT_BYTES)] = None


@config
class FittingRecord:
    """How the original became the fitted image, beside `fit`: for a recipe without pixels, to be given it again."""

    # What a crop kept in the middle: x and y from 0, 0 (top left) to 1, 1.
    focus: tuple[Share, Share] = (0.5, 0.5)
    # None for a blurred copy.
    pad_colour: Colour | None = None
    background: Colour = "white"
    # The second of a video whose frame was taken; None for an image.
    at: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None


@config
class PlanRecord:
    """Where and how it ran, resolved: no `auto` is left."""

    device: Annotated[str, Field(pattern=r"^[a-z]{1,16}(:\d{1,3})?$")]
    dtype: Literal["float32", "bfloat16", "float16"]
    offload: Offload
    # Threads of the CPU; their number decides the order of sums.
    threads: Annotated[int, Field(ge=1, le=4096)]
    # What was done to need less memory.
    savings: Savings = Savings()
    # Compiled code rounds otherwise.
    compile: Compile = "off"


@config
class FramesRecord:
    """What came out."""

    count: Annotated[int, Field(ge=1, le=100_000)]
    width: Pixels
    height: Pixels
    sha256: Sha256


@config
class Recipe:
    """Everything that decides a video's pixels, and what they were."""

    schema: Literal["stillmotion/recipe"] = SCHEMA
    version: Literal[1] = VERSION
    model: ModelRecord
    image: ImageRecord
    fit: Fit
    fitting: FittingRecord = FittingRecord()
    video: VideoSettings
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    # How the seed becomes numbers; another order would be another schema.
    draws: Literal["torch cpu float32: image noise, first latents, sampler noise"] = (
        "torch cpu float32: image noise, first latents, sampler noise"
    )
    play_fps: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
    encoding: Encoding
    plan: PlanRecord
    versions: Annotated[dict[Annotated[str, Field(max_length=50)], Version], Field(max_length=50)]
    frames: FramesRecord

    def to_json(self) -> str:
        """The document, readable and the same for equal recipes."""
        return _as_json(self)


@config
class AxisRecord:
    """One setting of `generate` that a grid compares, and its values, as text."""

    name: Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
    values: Annotated[tuple[Annotated[str, Field(max_length=1000)], ...], Field(min_length=1, max_length=1000)]


@config
class GridRecipe:
    """What a mosaic of videos shows: a cell is the base recipe with that cell's values of the axes.

    Settings that say how the image is fitted need the image too: the base holds it as the first cell shows it.
    """

    schema: Literal["stillmotion/grid"] = GRID_SCHEMA
    version: Literal[1] = VERSION
    across: AxisRecord
    down: AxisRecord | None = None
    # Of the first cell, at the top left.
    base: Recipe
    # The sha256 of the frames of every cell, row by row.
    cells: Annotated[tuple[Sha256, ...], Field(min_length=1, max_length=1000)]

    def to_json(self) -> str:
        """The document, readable and the same for equal recipes."""
        return _as_json(self)


def read_recipe(path: Path) -> Recipe:
    """The recipe inside a video, in a folder of frames, or in a JSON file.

    Raises ConfigError for a recipe that is not one of ours, UsageError where there is none, MediaError for a file that
    cannot be read.
    """
    path = Path(path)
    document = _read_json(path) if path.suffix.lower() == ".json" else read_document(path)
    if document is None:
        raise UsageError(f"{path} carries no recipe; expected a video that stillmotion made, or a recipe as .json.")
    return parse_recipe(document, str(path))


def parse_recipe(document: str, source: str = "the recipe") -> Recipe:
    """Validate a document as a recipe. Raises ConfigError with one sentence, whatever the document holds."""
    return _validated(Recipe, SCHEMA, _tree(document, source), source)


def parse_any_recipe(document: str, source: str = "the recipe") -> Recipe | GridRecipe:
    """The same for a document of either kind."""
    tree = _tree(document, source)
    if isinstance(tree, dict) and tree.get("schema") == GRID_SCHEMA:
        return _validated(GridRecipe, GRID_SCHEMA, tree, source)
    return _validated(Recipe, SCHEMA, tree, source)


def _tree(document: str, source: str) -> Any:
    if len(document.encode("utf-8", "surrogatepass")) > MAX_DOCUMENT_BYTES:
        raise ConfigError(f"{source} is larger than {MAX_DOCUMENT_BYTES // 1024**2} MiB; expected a recipe.")
    try:
        return json.loads(document, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{source} is not JSON ({reason[:200]}); expected a recipe.") from None


def _validated(kind: type[T], schema: str, tree: Any, source: str) -> T:
    said = (tree.get("schema"), tree.get("version")) if isinstance(tree, dict) else (None, None)
    if said != (schema, VERSION):
        raise ConfigError(
            f"{source} has the schema {str(said[0])[:50]!r} in version {str(said[1])[:20]}; "
            f"expected {schema!r} in version {VERSION}."
        )
    try:
        return parse(kind, tree, source)
    except StillmotionError as error:
        raise ConfigError(_shortened(str(error))) from None
    except RecursionError:
        raise ConfigError(f"{source} is nested too deeply; expected a recipe.") from None


def model_record(model: str, tensors_sha256: str) -> ModelRecord:
    """How a recipe names a model: never by a path of the machine that made it."""
    if model in PRESETS:
        return ModelRecord(kind="preset", name=model, tensors_sha256=tensors_sha256)
    if Path(model).exists():
        name = re.sub(r"[^\w. -]", "_", Path(model).resolve().name)[:200].lstrip(". ") or "model"
        return ModelRecord(kind="local", name=name, tensors_sha256=tensors_sha256)
    return ModelRecord(kind="hub", name=model, tensors_sha256=tensors_sha256)


def image_record(name: str, picture: Image.Image, keep_pixels: bool = True) -> ImageRecord:
    """What a recipe says of a fitted RGB picture. Pixels too large for a document are left out."""
    webp = None
    if keep_pixels:
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", lossless=True, quality=50, method=4, exact=True)
        webp = base64.b64encode(buffer.getvalue()).decode("ascii")
    if webp is not None and len(webp) > MAX_DOCUMENT_BYTES * 3 // 4:
        webp = None
    clean = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in name)[:200] or "image"
    return ImageRecord(name=clean, sha256=pixels_sha256(np.asarray(picture)[None]), webp=webp)


def picture_of(recipe: Recipe) -> Image.Image | None:
    """The fitted picture inside a recipe, or None where it was kept back.

    Raises ConfigError where it is damaged, of another size than the recipe's frames, or not what its hash says.
    """
    if recipe.image.webp is None:
        return None
    size = (recipe.frames.width, recipe.frames.height)
    damaged = ConfigError("the image inside the recipe is damaged or of another size; expected the one it names.")
    try:
        data = base64.b64decode(recipe.image.webp, validate=True)
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
            if image.size != size:  # before any pixel is decoded
                raise damaged
            picture = image.convert("RGB")
    except (binascii.Error, OSError, SyntaxError, ValueError, RuntimeError) as error:
        raise damaged from error
    if pixels_sha256(np.asarray(picture)[None]) != recipe.image.sha256:
        raise damaged
    return picture


def pixels_sha256(frames: UInt8[np.ndarray, "t h w c"]) -> str:
    """The sha256 of frames: their shape as `t,h,w,c;` in ASCII, then their bytes row by row."""
    digest = hashlib.sha256(",".join(map(str, frames.shape)).encode() + b";")
    digest.update(np.ascontiguousarray(frames).data)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """The versions of what can change the numbers, and whether our own compiled code makes them."""
    return {name: metadata.version(name) for name in PACKAGES} | {"kernels": library.name()}


def _as_json(made: Recipe | GridRecipe) -> str:
    return json.dumps(spelled(to_tree(made)), ensure_ascii=False, indent=1, allow_nan=False)


def _read_json(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)
        return data.decode("utf-8") if len(data) <= MAX_DOCUMENT_BYTES else " " * len(data)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{path} cannot be read: {reason}; expected a recipe as .json.") from None


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _shortened(message: str, limit: int = 600) -> str:
    """A stranger's recipe can be wrong in a million places; the first ones are enough."""
    return message if len(message) <= limit else message[:limit].rsplit("; ", 1)[0] + "; and more."
