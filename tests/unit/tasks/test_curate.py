"""Curating small videos: what comes out, what is kept between runs, and what bad input comes to."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import fsspec
import numpy as np
import pytest

from stillmotion.config import dump, load
from stillmotion.curation.collect import columns_made
from stillmotion.curation.ledger import locked
from stillmotion.curation.manifest import read_manifest, read_rows
from stillmotion.curation.shards import read_shard
from stillmotion.curation.thresholds import Rule, ViewConfig, parse_rule
from stillmotion.errors import ConfigError, StillmotionError, UsageError
from stillmotion.media.formats import Encoding
from stillmotion.media.video import write_video
from stillmotion.tasks.curate import CurateConfig, CurationSummary, RunSettings, Tally, planned, run_curation
from stillmotion.tasks.curated import (
    FilterSettings,
    ReportSettings,
    StatusSettings,
    filter_clips,
    report_again,
    standing,
)

FPS, FRAMES = 25, 60
SHORT = ("curation.clips.min_s=1", "curation.clips.max_s=4")
KEEP_ALL = "view.rules=[]"


def drawn(seed: int, frames: int = FRAMES) -> np.ndarray:
    """A texture that drifts to the right, a shot of its own for each seed."""
    texture = np.random.default_rng(seed).integers(0, 255, (12, 24, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    return np.stack([np.roll(texture, number * (1 + seed % 3), axis=1)[:96, :160] for number in range(frames)])


def film(path: Path, *seeds: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.concatenate([drawn(seed) for seed in seeds]), FPS, Encoding(quality=60))
    return path


def curate(source: Path | str, output: Path, *settings: str, workers: int = 0, **more: Any) -> CurationSummary:
    return run_curation(
        RunSettings(source=str(source), output=output, workers=workers, set=(*SHORT, KEEP_ALL, *settings), **more)
    )


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    film(folder / "one 'odd' name.mp4", 1)
    film(folder / "deep" / "two.mp4", 2)
    shutil.copy(folder / "deep" / "two.mp4", folder / "again.mp4")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    (folder / "cut.mp4").write_bytes((folder / "deep" / "two.mp4").read_bytes()[:900])
    return folder


@pytest.fixture(scope="module")
def curated(films: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CurationSummary]:
    output = tmp_path_factory.mktemp("out") / "set"
    return output, curate(films, output)


@pytest.fixture
def copied(curated: tuple[Path, CurationSummary], tmp_path: Path) -> Path:
    return Path(shutil.copytree(curated[0], tmp_path / "set"))


def contents(folder: Path, *names: str) -> dict[str, bytes]:
    found = [path for name in names for path in (folder / name, *(folder / name).rglob("*"))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(found) if path.is_file()}


RESULTS = ("manifest.parquet", "videos.parquet", "failures.parquet", "shards", "views", "report.html")


def test_clips_come_out_with_their_places(curated: tuple[Path, CurationSummary]) -> None:
    output, summary = curated
    rows = read_manifest(output / "manifest.parquet").rows
    assert summary.clips == summary.kept == len(rows) == 2
    assert [row["source"] for row in rows] == ["again.mp4", "one 'odd' name.mp4"]
    assert all(row["last"] - row["first"] + 1 >= FPS and row["duration_s"] >= 1 for row in rows)


def test_the_same_content_is_computed_once_and_listed_twice(curated: tuple[Path, CurationSummary]) -> None:
    output, summary = curated
    videos = {row["source"]: row["sha256"] for row in read_rows(output / "videos.parquet")}
    assert videos["again.mp4"] == videos["deep/two.mp4"]
    assert summary.videos == 3 and len(list((output / "work" / "clips").glob("??/*"))) == 2


def test_each_bad_file_is_a_row_with_its_reason(curated: tuple[Path, CurationSummary]) -> None:
    output, summary = curated
    found = {row["source"]: row["reason"] for row in read_rows(output / "failures.parquet")}
    assert found.keys() == {"empty.mp4", "noise.mp4", "cut.mp4"} and found["empty.mp4"] == "empty"
    assert sum(summary.failures.values()) == 3


def test_no_place_of_this_machine_is_in_the_tables(curated: tuple[Path, CurationSummary], films: Path) -> None:
    for name in ("manifest.parquet", "videos.parquet", "failures.parquet"):
        for row in read_rows(curated[0] / name):
            assert not any(str(films) in str(value) or str(curated[0]) in str(value) for value in row.values())


def test_shards_hold_the_kept_clips(curated: tuple[Path, CurationSummary]) -> None:
    output, summary = curated
    samples = [sample for path in summary.shards for sample in read_shard(path)]
    rows = {row["id"]: row for row in read_manifest(output / "manifest.parquet").rows}
    assert {sample.id for sample in samples} == rows.keys()
    assert all(len(sample.video) == rows[sample.id]["bytes"] for sample in samples)


def test_a_second_run_computes_nothing_and_changes_nothing(copied: Path, films: Path) -> None:
    before = contents(copied, *RESULTS)
    summary = curate(films, copied)
    assert summary.computed == 0
    assert contents(copied, *RESULTS) == before


def test_only_what_depends_on_a_change_is_computed(copied: Path, films: Path) -> None:
    scans = {path.name for path in (copied / "work" / "scan").glob("??/*")}
    times = [path.stat().st_mtime_ns for path in (copied / "work" / "scan").glob("??/*/scan.npz")]
    summary = curate(films, copied, "curation.clips.max_clips=1")
    assert summary.computed > 0
    assert {path.name for path in (copied / "work" / "scan").glob("??/*")} == scans
    assert [path.stat().st_mtime_ns for path in (copied / "work" / "scan").glob("??/*/scan.npz")] == times
    assert len(list((copied / "work" / "clips").glob("??/*"))) == 4
    curate(films, copied, "curation.shots.detector.kind=one-pass", "curation.shots.detector.cut=0.9")
    assert {path.name for path in (copied / "work" / "scan").glob("??/*")} == scans


def test_a_broken_half_of_a_killed_run_is_swept(copied: Path, films: Path) -> None:
    half = next((copied / "work" / "clips").glob("??")) / ".0123.part"
    half.mkdir()
    assert curate(films, copied).computed == 0 and not half.exists()


def test_a_lost_result_is_computed_again_to_the_same_bytes(copied: Path, films: Path) -> None:
    before = contents(copied, *RESULTS)
    shutil.rmtree(copied / "work" / "clips")
    shutil.rmtree(copied / "shards")
    (copied / "manifest.parquet").unlink()
    assert curate(films, copied).computed == 2
    assert contents(copied, *RESULTS) == before


@pytest.mark.slow
def test_workers_change_nothing(curated: tuple[Path, CurationSummary], films: Path, tmp_path: Path) -> None:
    summary = curate(films, tmp_path / "set", workers=2)
    assert summary.hash == curated[1].hash
    assert contents(tmp_path / "set", *RESULTS) == contents(curated[0], *RESULTS)


def test_what_a_killed_run_left_is_gone_after_the_next(copied: Path, films: Path) -> None:
    before = contents(copied, *RESULTS)
    for place in (".", "work", "shards", "views/default"):
        (copied / place / ".0123abcd.part.tar").write_bytes(b"half")
    curate(films, copied)
    assert contents(copied, *RESULTS) == before and not list(copied.rglob(".*.part*"))


def test_a_rule_on_a_column_that_nobody_makes_is_refused_before_any_work(copied: Path, films: Path) -> None:
    before = contents(copied, "curate.yaml", *RESULTS)
    wrong = "view.rules=[{column: aesthetik, drops: low, share: 0.2}]"
    for look in (run_curation, planned):
        with pytest.raises(UsageError, match="there is no column aesthetik; expected one of"):
            look(RunSettings(source=str(films), output=copied, workers=0, set=(*SHORT, wrong)))
    assert contents(copied, "curate.yaml", *RESULTS) == before


def test_rules_may_be_on_whatever_the_manifest_has(curated: tuple[Path, CurationSummary]) -> None:
    cfg = load(CurateConfig, [curated[0] / "curate.yaml"])
    assert set(read_manifest(curated[0] / "manifest.parquet").measures) <= set(columns_made(cfg.curation))


def test_damage_is_told_and_not_taken_for_a_short_shot(films: Path, tmp_path: Path) -> None:
    data = bytearray((films / "deep" / "two.mp4").read_bytes())
    for place in range(1500, len(data) - 4000, 1500):
        data[place : place + 300] = np.random.default_rng(place).bytes(300)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "hurt.mp4").write_bytes(data)
    with pytest.raises(StillmotionError, match="corrupt"):
        curate(tmp_path / "in", tmp_path / "set")


def test_a_video_whose_size_changes_has_clips_of_their_own_size(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    parts = []
    for number, (width, height) in enumerate(((160, 96), (320, 192))):
        part = tmp_path / f"{number}.h264"
        with av.open(str(part), "w", format="h264") as container:
            stream = container.add_stream("libx264", rate=FPS, options={"g": "10"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for picture in drawn(number + 1):
                whole = np.ascontiguousarray(picture.repeat(2, 0).repeat(2, 1)[:height, :width])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(whole, format="rgb24")))
            container.mux(stream.encode(None))
        parts.append(part.read_bytes())
    (tmp_path / "in" / "both.h264").write_bytes(b"".join(parts))
    curate(tmp_path / "in", tmp_path / "set")
    rows = read_manifest(tmp_path / "set" / "manifest.parquet").rows
    assert {(row["width"], row["height"]) for row in rows} == {(160, 96), (320, 192)}
    assert all(row["picture.sharpness"] for row in rows) and not read_rows(tmp_path / "set" / "failures.parquet")


def test_a_clip_between_two_samples_is_told(films: Path, tmp_path: Path) -> None:
    source = tmp_path / "list.txt"
    source.write_text(str(films / "deep" / "two.mp4"))
    curate(source, tmp_path / "set", "curation.clips.min_s=0.2", "curation.clips.max_s=0.3")
    rows = read_manifest(tmp_path / "set" / "manifest.parquet").rows
    blind = [(row["first"], row["last"]) for row in rows if row["picture.sharpness"] is None]
    told = read_rows(tmp_path / "set" / "failures.parquet")
    assert {(each["stage"], each["reason"]) for each in told} == {("samples", "not_scored")}
    assert 0 < len(blind) == len(told) < len(rows)
    assert all(any(f"Frames {first} to {last} " in each["detail"] for each in told) for first, last in blind)


def test_a_folder_without_clips_has_no_views(films: Path, tmp_path: Path) -> None:
    with pytest.raises(StillmotionError, match="too_short"):
        curate(films / "deep", tmp_path / "set", "curation.clips.min_s=15", "curation.clips.max_s=20")
    with pytest.raises(StillmotionError, match="has no clips; expected"):
        filter_clips(FilterSettings(output=tmp_path / "set"))


def test_another_view_costs_nothing(copied: Path) -> None:
    before = contents(copied, "manifest.parquet", "shards")
    found = filter_clips(FilterSettings(output=copied, drop=("bytes=high:0.5",)))
    assert len(found.view.kept) == 1 and found.total == 2
    assert (copied / "views" / "filtered" / "ids.txt").read_text() == f"{found.view.kept[0]}\n"
    assert len(read_manifest(found.folder / "manifest.parquet").rows) == 1
    assert contents(copied, "manifest.parquet", "shards") == before


def test_a_view_has_shards_of_its_own(copied: Path) -> None:
    found = filter_clips(FilterSettings(output=copied, drop=("bytes=high:0.5",), name="small", shards=True))
    assert [sample.id for path in found.shards for sample in read_shard(path)] == list(found.view.kept)
    report = report_again(ReportSettings(output=copied, view="small", file=copied / "small.html"))
    assert "bytes=high:0.5" in report.read_text()
    filter_clips(FilterSettings(output=copied, drop=("bytes=high:0",), name="small"))
    assert not (found.folder / "shards").exists(), "they hold the clips of the older view"
    with pytest.raises(UsageError, match="the run itself"):
        filter_clips(FilterSettings(output=copied, name="default"))


def test_a_view_is_as_the_run_s_own_where_nothing_else_is_said(copied: Path) -> None:
    settings = copied / "curate.yaml"
    own = ViewConfig(rules=(Rule(column="bytes", drops="high", share=0.5),), missing="drop", duplicates=True)
    cfg = load(CurateConfig, [settings])
    settings.write_text(dump(dataclasses.replace(cfg, view=own)))
    plain = filter_clips(FilterSettings(output=copied))
    assert [cut.rule.name for cut in plain.view.cuts] == ["bytes=high:0.5"] and len(plain.view.kept) == 1
    assert load(ViewConfig, [plain.folder / "curate.yaml"]) == own
    said = filter_clips(FilterSettings(output=copied, drop=("bytes<1",), drop_missing=False, duplicates=False))
    assert load(ViewConfig, [said.folder / "curate.yaml"]) == ViewConfig(rules=(parse_rule("bytes<1"),))


@pytest.mark.parametrize("drop", ["nothing=0.5", "bytes", "bytes=high:2"])
def test_rules_that_cannot_be_are_refused(copied: Path, drop: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        filter_clips(FilterSettings(output=copied, drop=(drop,)))


def test_a_view_that_keeps_nothing_is_a_failure(copied: Path) -> None:
    with pytest.raises(StillmotionError, match="0 of 2 clips"):
        filter_clips(FilterSettings(output=copied, drop=("bytes>0",)))
    with pytest.raises(UsageError, match="called"):
        filter_clips(FilterSettings(output=copied, name="../up"))


def test_status_counts_what_is_there(copied: Path) -> None:
    found = standing(StatusSettings(output=copied))
    assert (found.videos, found.done, found.clips, found.process) == (6, 6, 3, None)
    assert sum(found.failures.values()) == 3
    shutil.rmtree(copied / "work" / "clips")
    assert standing(StatusSettings(output=copied)).done == 3


def test_what_is_no_curated_folder_is_refused(tmp_path: Path) -> None:
    for call in (
        lambda: standing(StatusSettings(output=tmp_path)),
        lambda: report_again(ReportSettings(output=tmp_path)),
    ):
        with pytest.raises(StillmotionError, match="no curated folder"):
            call()


def test_progress_counts_every_video(copied: Path, films: Path) -> None:
    shutil.rmtree(copied / "work" / "scan")
    seen: list[Tally] = []
    settings = RunSettings(source=str(films), output=copied, workers=0, set=(*SHORT, KEEP_ALL))
    run_curation(settings, lambda tally: seen.append(dataclasses.replace(tally)))
    assert (seen[-1].videos, seen[-1].total, seen[-1].clips) == (6, 6, 3)
    assert seen[0].videos == 3, "those that were refused before are known at once"
    assert [tally.videos for tally in seen] == sorted(tally.videos for tally in seen)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UsageError, match="holds nothing"):
        curate(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "a.txt").write_text("x")
    with pytest.raises(UsageError, match="1 files that are no videos"):
        curate(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_clip_is_a_failure_with_its_cause(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"")
    with pytest.raises(StillmotionError, match=r"0 clips were made of 0 videos: 1 empty \('a.mp4'"):
        curate(tmp_path / "in", tmp_path / "out")
    film(tmp_path / "in" / "b.mp4", 3)
    with pytest.raises(StillmotionError, match="1 too_short"):
        curate(tmp_path / "in", tmp_path / "out", "curation.clips.min_s=30", "curation.clips.max_s=40")


def test_thresholds_that_keep_nothing_are_named(copied: Path, films: Path) -> None:
    with pytest.raises(StillmotionError, match="dropped by bytes>0 2"):
        curate(films, copied, "view.rules=[{column: bytes, drops: high, limit: 0}]")


def test_the_source_inside_the_output_is_refused(tmp_path: Path) -> None:
    film(tmp_path / "out" / "in" / "a.mp4", 3)
    for source in (tmp_path / "out" / "in", tmp_path / "out"):
        with pytest.raises(UsageError, match="where results go"):
            curate(source, tmp_path / "out")


def test_results_inside_the_source_are_not_curated(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4", 3)
    first = curate(tmp_path / "in", tmp_path / "in" / "out")
    assert curate(tmp_path / "in", tmp_path / "in" / "out").videos == first.videos == 1
    second = curate(tmp_path / "in", tmp_path / "in" / "other")
    assert second.videos == 1 and not second.failures


def test_a_file_may_be_given_as_an_address(films: Path, tmp_path: Path) -> None:
    found = curate(f"file://{films}/deep/two.mp4", tmp_path / "out")
    assert found.videos == 1 and found.hash == curate(films / "deep" / "two.mp4", tmp_path / "same").hash
    with pytest.raises(UsageError, match="does not exist"):
        curate(f"file://{films}/nothing.mp4", tmp_path / "other")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text_is_a_video_like_others(films: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    os.link(films / "deep" / "two.mp4", os.fsencode(tmp_path / "in") + b"/caf\xe9.mp4")
    found = curate(tmp_path / "in", tmp_path / "out")
    assert found.clips == 1 and not found.failures
    assert standing(StatusSettings(output=tmp_path / "out")).done == 1


def test_a_short_name_is_not_looked_for_in_sentences(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "e").write_bytes(b"")
    with pytest.raises(StillmotionError, match="The video has no bytes; expected a video"):
        curate(tmp_path / "in", tmp_path / "out")


def test_one_picture_is_shorter_than_any_clip(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "a.mp4", drawn(1, 1), FPS)
    with pytest.raises(StillmotionError, match="1 too_short"):
        curate(tmp_path / "in", tmp_path / "out")


def test_files_that_are_no_videos_by_name_are_counted(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4", 3)
    (tmp_path / "in" / "a.srt").write_text("said")
    assert curate(tmp_path / "in", tmp_path / "out").beside == 1


@pytest.mark.parametrize(("setting", "error"), [("curation.clips.min_s=-1", ConfigError), ("nothing=1", ConfigError)])
def test_wrong_settings_are_refused_before_any_work(films: Path, tmp_path: Path, setting: str, error: type) -> None:
    with pytest.raises(error):
        curate(films, tmp_path / "out", setting)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_output_s_place_is_refused(films: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        curate(films, tmp_path / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_output_that_may_not_be_written_is_refused(films: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(StillmotionError, match="may not write"):
        curate(films, tmp_path / "locked" / "out")


def test_two_runs_at_once_are_refused(films: Path, copied: Path) -> None:
    with locked(copied / "work"), pytest.raises(UsageError, match="being curated by process"):
        curate(films, copied)


def test_a_dry_run_does_nothing(films: Path, tmp_path: Path) -> None:
    found = planned(RunSettings(source=str(films), output=tmp_path / "out"))
    assert len(found.sources) == 6 and not (tmp_path / "out").exists()


def test_addresses_are_fetched_and_nothing_of_them_stays(films: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/curate/a.mp4": (films / "deep" / "two.mp4").read_bytes(), "/curate/b.mp4": b"x" * 3000})
    found = curate("memory://curate", tmp_path / "out", "curation.max_bytes=1000000")
    assert found.clips == 1 and sum(found.failures.values()) == 1
    assert not list((tmp_path / "out" / "work" / "fetched").iterdir())
    with pytest.raises(UsageError, match="workers 0"):
        curate("memory://curate", tmp_path / "other", workers=1)


def test_a_full_disk_stops_the_run_in_one_sentence(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object, **__: object) -> Callable[..., None]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(StillmotionError, match="the disk is full"):
        curate(films, tmp_path / "out")
    monkeypatch.undo()
    assert curate(films, tmp_path / "out").clips == 2


@pytest.mark.parametrize(("change", "reason"), [("vanish", "missing"), ("grow", "changed")])
def test_a_file_that_moves_under_the_work_is_tried_again(
    change: str, reason: str, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, usual = Path(shutil.copy(films / "deep" / "two.mp4", tmp_path / "a.mp4")), np.savez

    def moving(*arguments: Any, **arrays: Any) -> None:
        usual(*arguments, **arrays)
        if change == "vanish":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes() + b"more")

    monkeypatch.setattr(np, "savez", moving)
    with pytest.raises(StillmotionError, match=f"1 {reason}"):
        curate(path, tmp_path / "out")
    assert not list((tmp_path / "out" / "work" / "scan").glob("??/*"))
    monkeypatch.undo()
    shutil.copy2(films / "deep" / "two.mp4", path)
    assert curate(path, tmp_path / "out").clips == 1
