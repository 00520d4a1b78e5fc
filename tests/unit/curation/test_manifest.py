"""Tables come back as they were written, with one hash."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from stillmotion.curation.manifest import (
    Manifest,
    manifest_hash,
    read_manifest,
    read_rows,
    sorted_rows,
    write_failures,
    write_manifest,
    write_videos,
)
from stillmotion.curation.records import Clip, Failure, Video, clip_row
from stillmotion.errors import StillmotionError

VERSIONS = {"scan": "1", "clips": "2"}


def row_of(number: int, **scores: Any) -> dict[str, Any]:
    clip = Clip(
        id=f"{number:016d}-0000000-0000049",
        video="f" * 64,
        source=f"näme '{number}'.mp4",
        first=0,
        last=49,
        start_s=0.0,
        duration_s=2.0,
        fps=25.0,
        width=640,
        height=360,
        mode="copy",
        sha256="e" * 64,
        bytes=1000 + number,
    )
    return clip_row(clip) | scores


def test_rows_come_back(tmp_path: Path) -> None:
    rows = sorted_rows(
        row_of(n, **{"motion": n / 3, "whole": n, "flag": n > 1, "said": "ä\n", "vector": [0.5, -1.0]})
        for n in range(3)
    )
    write_manifest(tmp_path / "m.parquet", Manifest(rows, VERSIONS))
    found = read_manifest(tmp_path / "m.parquet")
    assert [{k: v for k, v in row.items() if v is not None} for row in found.rows] == list(rows)
    assert found.scorers == VERSIONS and found.hash == manifest_hash(rows, VERSIONS)
    assert found.axes == ["motion", "whole"]


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    rows = [row_of(n, motion=n / 7) for n in range(20)]
    write_manifest(tmp_path / "a.parquet", Manifest(tuple(rows), VERSIONS))
    random.Random(0).shuffle(rows)
    write_manifest(tmp_path / "b.parquet", Manifest(tuple(rows), VERSIONS))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert manifest_hash(rows, VERSIONS) == manifest_hash(sorted_rows(rows), VERSIONS)


@pytest.mark.parametrize("change", [{"motion": 0.2}, {"bytes": 5}, {"more": 1}])
def test_the_hash_sees_every_change(change: dict[str, Any]) -> None:
    assert manifest_hash([row_of(1, motion=0.1)], VERSIONS) != manifest_hash([row_of(1, motion=0.1) | change], VERSIONS)
    assert manifest_hash([row_of(1)], VERSIONS) != manifest_hash([row_of(1)], VERSIONS | {"scan": "3"})


def test_an_empty_cell_is_no_cell() -> None:
    assert manifest_hash([row_of(1, a=None)], VERSIONS) == manifest_hash([row_of(1)], VERSIONS)


def test_columns_may_miss_and_mix_whole_numbers(tmp_path: Path) -> None:
    rows = (row_of(0, a=1), row_of(1, a=0.5), row_of(2), row_of(3, b=None))
    write_manifest(tmp_path / "m.parquet", Manifest(rows, {}))
    assert [row["a"] for row in read_manifest(tmp_path / "m.parquet").rows] == [1.0, 0.5, None, None]


def test_a_column_of_two_kinds_is_named(tmp_path: Path) -> None:
    with pytest.raises(StillmotionError, match="column a holds float, str"):
        write_manifest(tmp_path / "m.parquet", Manifest((row_of(0, a="x"), row_of(1, a=0.5)), {}))


def test_no_clips_are_a_manifest_too(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.parquet", Manifest((), VERSIONS))
    assert read_manifest(tmp_path / "m.parquet") == Manifest((), VERSIONS)


def test_videos_and_failures_are_sorted(tmp_path: Path) -> None:
    videos = [Video(name, "a", 1, "mp4", "h264", "yuv420p", 2, 2, 0, 25.0, 50, 2.0) for name in ("b", "a")]
    write_videos(tmp_path / "v.parquet", videos)
    assert [row["source"] for row in read_rows(tmp_path / "v.parquet")] == ["a", "b"]
    write_failures(tmp_path / "f.parquet", [Failure("b", "s", "corrupt", "x"), Failure("a", "s", "empty", "y\x00")])
    assert read_rows(tmp_path / "f.parquet")[0] == {"source": "a", "stage": "s", "reason": "empty", "detail": "y\x00"}


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StillmotionError, match="does not exist"):
        read_manifest(tmp_path / "m.parquet")
    (tmp_path / "m.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(StillmotionError, match="cannot be read"):
        read_manifest(tmp_path / "m.parquet")
    write_failures(tmp_path / "f.parquet", [])
    with pytest.raises(StillmotionError, match="no manifest"):
        read_manifest(tmp_path / "f.parquet")
