"""WebDataset shards: tar files of clips, each with its facts beside it. The same clips give the same bytes."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..config import config
from ..errors import StillmotionError
from ..files import atomic_path, explained
from .manifest import Row
from .thresholds import tier_of

BLOCK = 512
PATTERN = re.compile(r"^clips-(?:(?P<tier>[a-z0-9-]+)-)?(?P<number>\d{6})\.tar$")
ASPECTS = (("portrait", 0.0), ("square", 0.9), ("landscape", 1.1))
MAX_FACTS = 16 * 1024**2


@config
class ShardConfig:
    """How clips are packed."""

    max_bytes: Annotated[int, Field(gt=0, description="A shard is closed before it would pass this size.")] = 1024**3
    max_clips: Annotated[int, Field(gt=0, description="A shard is closed at this number of clips.")] = 10_000
    tiers: Annotated[
        bool, Field(description="Keep heights and shapes apart, as in clips-720-landscape-000000.tar.")
    ] = False


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One clip out of a shard: its id, the bytes and the suffix of its video, and everything that is known of it."""

    id: str
    suffix: str
    video: bytes
    facts: Row


def write_shards(folder: Path, rows: Sequence[Row], file_of: Callable[[Row], Path], cfg: ShardConfig) -> list[Path]:
    """Pack the files of these clips, in the order of their ids, into `folder`; shards of an earlier run are replaced.

    Raises StillmotionError where a file is missing or the disk is
    full; what is written by then stays, whole.
    """
    folder = Path(folder)
    written: list[Path] = []
    for tier, group in _tiers(rows, cfg):
        for number, clips in enumerate(_parted(group, file_of, cfg)):
            name = f"clips-{tier}-{number:06d}.tar" if tier else f"clips-{number:06d}.tar"
            _write_shard(folder / name, clips, file_of)
            written.append(folder / name)
    for path in shards_in(folder):
        if path not in written:
            path.unlink()
    return written


def shards_in(folder: Path) -> list[Path]:
    """The shards of a folder in the order of their names."""
    return sorted(path for path in Path(folder).glob("clips-*.tar") if PATTERN.match(path.name))


def read_shard(path: Path) -> Iterator[Sample]:
    """Every clip of a shard, in its order. Raises StillmotionError for a file that is no whole shard."""
    try:
        with tarfile.open(path, "r:") as tar:
            yield from _samples(tar, path)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise StillmotionError(f"{path} cannot be read as a shard: {error}; expected a whole tar of clips.") from None


def _samples(tar: tarfile.TarFile, path: Path) -> Iterator[Sample]:
    held: tuple[str, str, bytes] | None = None
    for member in tar:
        stem, _, suffix = member.name.rpartition(".")
        data = tar.extractfile(member) if member.isfile() else None
        if data is None:
            raise StillmotionError(f"{path} holds {member.name}, which is no file; expected clips alone.")
        if suffix != "json":
            held = (stem, f".{suffix}", data.read())
            continue
        if held is None or held[0] != stem or member.size > MAX_FACTS:
            raise StillmotionError(f"{path} holds {member.name} without its clip; expected each after its own.")
        yield Sample(stem, held[1], held[2], json.loads(data.read()))
        held = None
    if held is not None:
        raise StillmotionError(f"{path} ends after {held[0]}{held[1]}; expected a json beside each clip.")


def _tiers(rows: Sequence[Row], cfg: ShardConfig) -> list[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["id"]):
        groups.setdefault(shape_of(row) if cfg.tiers else "", []).append(row)
    return sorted(groups.items())


def shape_of(row: Row) -> str:
    """The tier and the shape of a clip, as in `720-landscape`."""
    aspect = row["width"] / row["height"]
    shape = next(name for name, least in reversed(ASPECTS) if aspect >= least)
    return f"{tier_of(row)}-{shape}"


def _parted(rows: Sequence[Row], file_of: Callable[[Row], Path], cfg: ShardConfig) -> Iterator[list[Row]]:
    part: list[Row] = []
    size = 2 * BLOCK
    for row in rows:
        own = _padded(row["bytes"]) + _padded(len(_facts(row, file_of(row))))
        if part and (size + own > cfg.max_bytes or len(part) >= cfg.max_clips):
            yield part
            part, size = [], 2 * BLOCK
        part.append(row)
        size += own
    if part:
        yield part


def _padded(size: int) -> int:
    return BLOCK + -(-size // BLOCK) * BLOCK


def _write_shard(path: Path, rows: Sequence[Row], file_of: Callable[[Row], Path]) -> None:
    with (
        atomic_path(path) as temporary,
        explained(path),
        temporary.open("wb") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for row in rows:
            _add(tar, row, file_of(row))


def _add(tar: tarfile.TarFile, row: Row, source: Path) -> None:
    facts = _facts(row, source)
    with source.open("rb") as clip:
        tar.addfile(_member(f"{row['id']}{source.suffix}", row["bytes"]), clip)
    tar.addfile(_member(f"{row['id']}.json", len(facts)), io.BytesIO(facts))


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


def _facts(row: Row, file: Path) -> bytes:
    known: dict[str, Any] = {name: value for name, value in row.items() if value is not None}
    return json.dumps(known | {"file": f"{row['id']}{file.suffix}"}, sort_keys=True, ensure_ascii=False).encode()
