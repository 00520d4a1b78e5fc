"""Compare settings: one video that shows a cell for every pair of values, all playing at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from ..config import checked, config, parse
from ..errors import UsageError
from ..events import Progress, Watch, unwatched
from ..files import check_writable
from ..media.formats import Encoding, check_encodable
from ..media.images import save_png
from ..media.mosaic import mosaic, mosaic_size
from ..media.sheet import contact_sheet
from ..media.video import write_video
from ..recipe import AxisRecord, GridRecipe, pixels_sha256
from .generate import Studio
from .outputs import OUTPUTS, is_file_name, names, publish, short_stem
from .request import Picture, Request, make_request
from .settings import GenerateSettings, read_change

MAX_CELLS = 400
# What an axis may not change: where things are, and how they are written and told.
FIXED = ("recipe", "output", "count", "avoid_still", "resume", "force", "private", "preview", "preview_every")
FIXED += ("dry_run", "json")
FIXED_FORMAT = ("format", "codec", "quality", "loop", "ping_pong", "play_fps")


@config
class GridSettings:
    """Compare two settings of generate over an image: every pair of values is a cell of one video."""

    image: Annotated[str, Field(description="The image.")]
    across: Annotated[
        str, Field(title="NAME=A,B,...", description="What changes from left to right, as motion=60,127,180.")
    ]
    down: Annotated[
        str | None, Field(title="NAME=A,B,...", description="What changes from top to bottom, as seed=1,2,3.")
    ] = None
    set: Annotated[
        tuple[str, ...],
        Field(title="NAME=VALUE", description="A setting of generate for all cells, as steps=12; can be repeated."),
    ] = ()
    output: Annotated[Path | None, Field(description="The file to write, or a folder.")] = None
    sheet: Annotated[Path | None, Field(description="Also write a contact sheet of all cells to this .png.")] = None
    force: Annotated[bool, Field(description="Replace the output file and the sheet if they exist.")] = False
    json: Annotated[bool, Field(description="Print one JSON object instead of text.")] = False


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """One setting and its values, as text."""

    name: str
    values: tuple[str, ...]

    def labels(self) -> tuple[str, ...]:
        """What stands beside the cells."""
        return tuple(f"{self.name} {value}" for value in self.values)


@dataclasses.dataclass(frozen=True, slots=True)
class Grid:
    """The mosaic on disk; `cells` are the settings of each, row by row."""

    path: Path
    sheet: Path | None
    columns: int
    rows: int
    cells: tuple[dict[str, str], ...]
    notes: tuple[str, ...]


def grid(settings: GridSettings, watch: Watch = unwatched) -> Grid:
    """Make every cell with one model, and write them as one video that plays them side by side.

    A shorter cell holds its last frame. Raises UsageError, before any weights are read, for a setting that does not
    exist, a value that it does not take, axes that need several models or devices, and more than MAX_CELLS cells.
    """
    settings = checked(settings)
    across = read_axis(settings.across, "across")
    down = read_axis(settings.down, "down") if settings.down is not None else Axis("", ("",))
    cells = [_cell(across, x, down, y) for y in down.values for x in across.values]
    if len(cells) > MAX_CELLS:
        raise UsageError(f"the grid has {len(cells)} cells; expected at most {MAX_CELLS}.")
    requests = [_request(settings, cell) for cell in cells]
    _check_alike(requests)
    first = requests[0]
    _check_sheet(settings)
    labels = across.labels(), down.labels() if settings.down is not None else ()
    _check_mosaic(requests, *labels)
    # One that needs the frame-wise decoder reads it beside the other.
    other = (each for each in requests if each.video.decoder != each.preset.autoencoder.decoder)
    studio, clips = Studio(next(other, first), watch), []
    for number, request in enumerate(requests):
        watch(Progress("cells", number, len(requests)))
        clips.append(_frames(studio, request, watch))
    picture = first.picture(first.sources[0])
    recipe = _recipe(studio, first, picture, across, down, clips)
    path, notes = _write(settings, first, mosaic(clips, *labels), recipe.to_json())
    if settings.sheet is not None:
        named = [", ".join(f"{name} {value}" for name, value in cell.items()) for cell in cells]
        save_png(contact_sheet(clips, columns=7, labels=named), settings.sheet)
    notes = (*first.advice(picture), *notes)
    return Grid(path, settings.sheet, len(across.values), len(down.values), tuple(cells), notes)


def read_axis(text: str, which: str) -> Axis:
    """Read `name=a,b,c`; whole numbers may be a range, `seed=1..4`; values that hold commas are joined by `;`."""
    name, values = read_change(text, f"--{which}", (*FIXED, *FIXED_FORMAT, "image"))
    parts = [part.strip() for part in values.split(";" if ";" in values else ",") if part.strip()]
    if len(parts) == 1 and ".." in parts[0]:
        parts = _range(parts[0], text, which)
    if not parts:
        raise UsageError(f"--{which} got {text!r}, which has no value; expected NAME=A,B,...")
    return Axis(name, tuple(parts))


def _range(part: str, text: str, which: str) -> list[str]:
    low, _, high = part.partition("..")
    if not (low.isdecimal() and high.isdecimal() and 0 <= int(high) - int(low) < MAX_CELLS):
        raise UsageError(f"--{which} got {text!r}; expected a range such as seed=1..4, of at most {MAX_CELLS} values.")
    return [str(value) for value in range(int(low), int(high) + 1)]


def _cell(across: Axis, x: str, down: Axis, y: str) -> dict[str, str]:
    if across.name == down.name:
        raise UsageError(f"both axes change {across.name}; expected two different settings.")
    return {across.name: x} | ({down.name: y} if down.name else {})


def _request(settings: GridSettings, cell: dict[str, str]) -> Request:
    # The output too: its suffix chooses the format, and what cannot be written is refused here.
    tree: dict[str, Any] = {"image": settings.image, "output": settings.output, "force": settings.force}
    tree |= dict(read_change(text, "--set", (*FIXED, "image")) for text in settings.set)
    return make_request(parse(GenerateSettings, tree | cell, source="the grid"))


def _check_alike(requests: list[Request]) -> None:
    places = [request.placement for request in requests]
    each = {"model": [request.model for request in requests]}
    each |= {
        name: [str(getattr(place, name)) for place in places] for name in ("device", "dtype", "offload", "compile")
    }
    for name, values in each.items():
        if len(set(values)) > 1:
            raise UsageError(
                f"the cells need several of {name}: {', '.join(sorted(set(values)))}; expected one grid for each."
            )
    if len(requests[0].sources) > 1:
        raise UsageError(f"{requests[0].settings.image} means {len(requests[0].sources)} images; expected one.")


def _check_sheet(settings: GridSettings) -> None:
    if settings.sheet is not None:
        if settings.sheet.suffix.lower() != ".png":
            raise UsageError(f"sheet is {settings.sheet}; expected a name that ends in .png.")
        if settings.sheet.exists() and not settings.force:
            raise UsageError(f"sheet {settings.sheet} already exists; expected a free name, or --force.")
        check_writable(settings.sheet.parent)


def _check_mosaic(requests: list[Request], across: tuple[str, ...], down: tuple[str, ...]) -> None:
    """Find out before the work that the mosaic could not be written, as far as the cells' sizes are known by now."""
    sizes = [request.size for request in requests if request.size is not None]
    if not sizes:
        return
    cell = max(width for width, _ in sizes), max(height for _, height in sizes)
    width, height = mosaic_size(cell, len(across), len(down) or 1, across, down)
    first, frames = requests[0], max(request.video.frames for request in requests)
    named = first.settings.output if first.settings.output and is_file_name(first.settings.output) else None
    check_encodable(named, width, height, frames, first.play_fps, first.encoding)


def _frames(studio: Studio, request: Request, watch: Watch) -> UInt8[np.ndarray, "t h w 3"]:
    return studio.frames(request, request.picture(request.sources[0]).image, request.seed, watch)


def _recipe(
    studio: Studio, first: Request, picture: Picture, across: Axis, down: Axis, clips: Sequence[np.ndarray]
) -> GridRecipe:
    image = first.record(first.sources[0], picture)
    return GridRecipe(
        across=AxisRecord(name=across.name, values=across.values),
        down=AxisRecord(name=down.name, values=down.values) if down.name else None,
        base=studio.recipe(first, image, clips[0], first.seed),
        cells=tuple(pixels_sha256(clip) for clip in clips),
    )


def _write(
    settings: GridSettings, request: Request, frames: UInt8[np.ndarray, "t h w 3"], document: str
) -> tuple[Path, tuple[str, ...]]:
    encoding: Encoding = request.encoding

    def write(target: Path, overwrite: bool = False) -> tuple[str, ...]:
        return write_video(target, frames, request.play_fps, encoding, document, overwrite)

    output = settings.output or OUTPUTS
    if is_file_name(output):
        return output, write(output, settings.force)
    stem = short_stem(Path(request.sources[0].name).stem, "-grid")
    return publish(names(output, stem, encoding), write)
