"""Shards hold every clip once, with its facts, in the same bytes each time."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from stillmotion.curation.shards import ShardConfig, read_shard, shards_in, write_shards
from stillmotion.errors import StillmotionError

from .test_manifest import row_of


def clips_in(folder: Path, count: int, size: int = 2000) -> list[dict[str, Any]]:
    rows = []
    for number in range(count):
        row = row_of(number, motion=number / 3) | {"bytes": size}
        (folder / f"{row['id']}.mp4").write_bytes(bytes([number % 256]) * size)
        rows.append(row)
    return rows


def write(folder: Path, rows: list[dict[str, Any]], source: Path, **settings: Any) -> list[Path]:
    return write_shards(folder, rows, lambda row: source / f"{row['id']}.mp4", ShardConfig(**settings))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    return tmp_path / "clips"


def test_clips_come_back_with_their_facts(tmp_path: Path, source: Path) -> None:
    rows = clips_in(source, 3)
    (path,) = write(tmp_path / "shards", rows, source)
    samples = list(read_shard(path))
    assert [sample.id for sample in samples] == [row["id"] for row in rows]
    assert samples[2].video == bytes([2]) * 2000 and samples[2].suffix == ".mp4"
    assert samples[2].facts == rows[2] | {"file": f"{rows[2]['id']}.mp4"}


def test_bytes_do_not_depend_on_order_or_clock(tmp_path: Path, source: Path) -> None:
    rows = clips_in(source, 5)
    (one,) = write(tmp_path / "one", rows, source)
    for path in source.iterdir():
        os.utime(path, (1, 1))
    (two,) = write(tmp_path / "two", rows[::-1], source)
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("settings", [{"max_clips": 4}, {"max_bytes": 12_000}, {"max_bytes": 1}])
def test_caps_are_kept_and_nothing_is_lost(tmp_path: Path, source: Path, settings: dict[str, int]) -> None:
    rows = clips_in(source, 11)
    paths = write(tmp_path / "shards", rows, source, **settings)
    found = [[sample.id for sample in read_shard(path)] for path in paths]
    assert [clip for each in found for clip in each] == [row["id"] for row in rows]
    assert all(len(each) <= settings.get("max_clips", 11) for each in found)
    whole = [path for path, each in zip(paths, found, strict=True) if len(each) > 1]
    assert all(path.stat().st_size <= settings.get("max_bytes", 1 << 30) + tarfile.RECORDSIZE for path in whole)


def test_tiers_are_kept_apart(tmp_path: Path, source: Path) -> None:
    rows = clips_in(source, 4)
    for row, size in zip(rows, ((1280, 720), (720, 1280), (640, 640), (100, 50)), strict=True):
        row["width"], row["height"] = size
    paths = write(tmp_path / "shards", rows, source, tiers=True)
    assert [path.name for path in paths] == [
        "clips-0-landscape-000000.tar",
        "clips-480-square-000000.tar",
        "clips-720-landscape-000000.tar",
        "clips-720-portrait-000000.tar",
    ]


def test_shards_of_an_earlier_run_go(tmp_path: Path, source: Path) -> None:
    rows = clips_in(source, 4)
    write(tmp_path / "shards", rows, source, max_clips=1)
    (tmp_path / "shards" / "mine.tar").write_bytes(b"")
    write(tmp_path / "shards", rows[:1], source)
    assert [path.name for path in shards_in(tmp_path / "shards")] == ["clips-000000.tar"]
    assert (tmp_path / "shards" / "mine.tar").exists()


def test_a_clip_that_is_not_there_is_named_and_leaves_nothing(tmp_path: Path, source: Path) -> None:
    rows = clips_in(source, 2)
    (source / f"{rows[1]['id']}.mp4").unlink()
    with pytest.raises(StillmotionError):
        write(tmp_path / "shards", rows, source)
    assert not list((tmp_path / "shards").iterdir())


def test_damaged_shards_are_refused(tmp_path: Path, source: Path) -> None:
    (path,) = write(tmp_path / "shards", clips_in(source, 2), source)
    data = path.read_bytes()
    for cut in (100, 1000, 3000, 4500):
        path.write_bytes(data[:cut])
        with pytest.raises(StillmotionError):
            list(read_shard(path))
