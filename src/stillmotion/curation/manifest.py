"""The tables of a curated folder: videos, clips with every score, failures. Equal rows give equal bytes, and a hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import StillmotionError
from ..files import atomic_path
from .records import Clip, Failure, Video

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    raise StillmotionError(
        "pyarrow is missing; expected it to be there after `pip install stillmotion[curate]`."
    ) from None

VIDEOS, MANIFEST, FAILURES = "videos.parquet", "manifest.parquet", "failures.parquet"
OWN = tuple(field.name for field in dataclasses.fields(Clip))
HASH, SCORERS = "stillmotion.hash", "stillmotion.scorers"
TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string(), list: pa.list_(pa.float32())}

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """Every clip as a row, in the order of `sorted_rows`, and the version of whatever made its columns."""

    rows: tuple[Row, ...]
    scorers: Mapping[str, str]

    @property
    def hash(self) -> str:
        """The same for the same clips, scores and versions, however they were computed."""
        return manifest_hash(self.rows, self.scorers)

    @property
    def axes(self) -> list[str]:
        """The columns of scores that are numbers in at least one row."""
        names = sorted({name for row in self.rows for name in row if name not in OWN})
        return [name for name in names if any(is_number(row.get(name)) for row in self.rows)]

    @property
    def measures(self) -> list[str]:
        """All columns that are numbers: scores, and what is known of a clip anyway, as its `duration_s`."""
        return [*self.axes, *measures_of_clips()]


def measures_of_clips() -> list[str]:
    """The numbers that are known of every clip."""
    return [name for name, kind in _kinds(Clip).items() if kind != pa.string()]


def is_number(value: Any) -> bool:
    """Whether a score can be compared: no text, list, None or NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def sorted_rows(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows in the order of source, first frame and id."""
    return tuple(sorted(rows, key=lambda row: (row["source"], row["first"], row["id"])))


def manifest_hash(rows: Iterable[Row], scorers: Mapping[str, str]) -> str:
    """sha256 over the rows in their order, with empty cells left out."""
    found = hashlib.sha256(_line(dict(scorers)))
    for row in sorted_rows(rows):
        found.update(_line({name: value for name, value in row.items() if value is not None}))
    return found.hexdigest()


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the clips as Parquet, with the hash and the versions in the file's metadata."""
    notes = {HASH: manifest.hash, SCORERS: json.dumps(dict(sorted(manifest.scorers.items())))}
    columns = [*OWN, *sorted({name for row in manifest.rows for name in row} - set(OWN))]
    _write(path, sorted_rows(manifest.rows), columns, notes, _kinds(Clip))


def write_videos(path: Path, videos: Iterable[Video]) -> None:
    """Write a row for each video, in the order of their sources."""
    rows = sorted((dataclasses.asdict(video) for video in videos), key=lambda row: row["source"])
    _write(path, rows, [field.name for field in dataclasses.fields(Video)], {}, _kinds(Video))


def write_failures(path: Path, failures: Iterable[Failure]) -> None:
    """Write a row for each failure, in the order of their sources."""
    rows = [dataclasses.asdict(failure) for failure in failures]
    rows.sort(key=lambda row: tuple(row.values()))
    _write(path, rows, [field.name for field in dataclasses.fields(Failure)], {}, _kinds(Failure))


def read_manifest(path: Path) -> Manifest:
    """The clips of a manifest. Raises StillmotionError for a file that is none."""
    table = _read(path)
    notes = table.schema.metadata or {}
    if SCORERS.encode() not in notes:
        raise StillmotionError(f"{path} is no manifest of clips; expected one that `stillmotion curate` wrote.")
    return Manifest(tuple(table.to_pylist()), json.loads(notes[SCORERS.encode()]))


def read_rows(path: Path) -> list[Row]:
    """The rows of any of the tables."""
    return _read(path).to_pylist()


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise StillmotionError(
            f"{path} does not exist; expected a folder that `stillmotion curate run` wrote."
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise StillmotionError(
            f"{path} cannot be read as Parquet: {error}; expected a table that `stillmotion curate run` wrote."
        ) from None


def _write(
    path: Path, rows: Sequence[Row], columns: Sequence[str], notes: Mapping[str, str], kinds: Mapping[str, pa.DataType]
) -> None:
    types = {name: kinds.get(name) or _type(name, rows) for name in columns}
    arrays = [pa.array([_cell(row.get(name), types[name]) for row in rows], types[name]) for name in columns]
    fields = [pa.field(name, types[name]) for name in columns]
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=dict(notes)))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _kinds(record: type) -> dict[str, pa.DataType]:
    names = {"int": pa.int64(), "float": pa.float64(), "str": pa.string()}
    return {field.name: names.get(str(field.type), pa.string()) for field in dataclasses.fields(record)}


def _type(name: str, rows: Sequence[Row]) -> pa.DataType:
    """The narrowest type that holds a column; whole numbers among others become numbers."""
    kinds = {type(value) for row in rows if (value := row.get(name)) is not None}
    if kinds == {int, float}:
        return TYPES[float]
    if len(kinds) > 1 or not kinds <= set(TYPES):
        raise StillmotionError(
            f"the column {name} holds {', '.join(sorted(kind.__name__ for kind in kinds))}; expected one kind of value."
        )
    return TYPES[kinds.pop()] if kinds else TYPES[float]


def _cell(value: Any, kind: pa.DataType) -> Any:
    return float(value) if value is not None and kind == TYPES[float] else value


def _line(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"
