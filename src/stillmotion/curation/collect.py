"""From the results of many videos to the tables of one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .buckets import EmpiricalBuckets, LinearBuckets, fit_buckets
from .dedup import Candidate, duplicates
from .ledger import Ledger, first_refusal
from .lookers import STRIPS
from .manifest import Manifest, Row, is_number, measures_of_clips, sorted_rows
from .pipeline import (
    CLIPS,
    CurationConfig,
    columns_of,
    identity,
    own_stages_of,
    read_clips,
    stages_of,
    versions_of,
)
from .records import Failure, Video, clip_row
from .samples import SCORES
from .sources import Source
from .stage import keys_of
from .text_area import TextArea

PRINTS = "print.pictures"


@dataclasses.dataclass(frozen=True, slots=True)
class Collected:
    """Everything that a run knows: its videos, its clips with their scores, and why others gave nothing."""

    videos: tuple[Video, ...]
    manifest: Manifest
    failures: tuple[Failure, ...]
    buckets: LinearBuckets | EmpiricalBuckets


def collect(root: Path, cfg: CurationConfig, sources: Iterable[Source], passing: Sequence[Failure] = ()) -> Collected:
    """Read all results of these sources. `passing` are failures that no result records.

    A content that has several names is a video under each of them; its clips belong to the first in order.
    """
    ledger, stages = Ledger(root), stages_of(cfg)
    videos: list[Video] = []
    failures: list[Failure] = list(passing)
    rows: list[Row] = []
    first: set[str] = set()
    for source in sorted(sources, key=lambda each: each.name):
        video = identity(ledger, source)
        if isinstance(video, Failure):
            failures.append(video)
        if not isinstance(video, Video):
            continue
        videos.append(video)
        keys = keys_of(stages, video.sha256)
        refusal = first_refusal(ledger, list(keys), keys)
        if refusal is not None:
            failures.append(dataclasses.replace(refusal, source=source.name))
        if video.sha256 in first or not ledger.has(CLIPS, keys[CLIPS]) or ledger.refusal(CLIPS, keys[CLIPS]):
            continue
        first.add(video.sha256)
        clips, uncut = read_clips(ledger.folder(CLIPS, keys[CLIPS]), source.name)
        failures += uncut
        columns, unscored = columns_of(ledger, stages, keys)
        failures += [dataclasses.replace(failure, source=source.name) for failure in unscored]
        rows += [clip_row(clip) | columns.get(clip.id, {}) for clip in clips]
    _mark_duplicates(rows, cfg)
    buckets = _mark_buckets(rows, cfg)
    return Collected(tuple(videos), Manifest(sorted_rows(rows), versions_of(stages)), tuple(failures), buckets)


def columns_made(cfg: CurationConfig) -> list[str]:
    """The columns of numbers that a manifest of this configuration may have."""
    made = [*measures_of_clips(), *SCORES, "motion.bucket"]
    if cfg.text is not None:
        made += TextArea.columns
    if cfg.similarity is not None:
        made += ["clip.similarity", *(f"clip.similarity.{each.kind}" for each in cfg.captions)]
        made += ["aesthetic.score"] if cfg.similarity.aesthetic is not None else []
    return made


def _mark_buckets(rows: Sequence[Row], cfg: CurationConfig) -> LinearBuckets | EmpiricalBuckets:
    """Give each clip whose motion is known the column `motion.bucket`, and return the mapping behind it."""
    speeds = [row.get("motion") for row in rows]
    is_fitted = cfg.buckets == "empirical" and any(is_number(speed) for speed in speeds)
    mapping = fit_buckets(speeds) if is_fitted else LinearBuckets()
    for row, speed in zip(rows, speeds, strict=True):
        row["motion.bucket"] = mapping.bucket(speed) if speed is not None and is_number(speed) else None
    return mapping


def _mark_duplicates(rows: Sequence[Row], cfg: CurationConfig) -> None:
    """Give each clip that is the same footage as another the column `duplicate.of`; fingerprints leave the rows."""
    prints = [row.pop(PRINTS, None) for row in rows]
    if cfg.duplicates is None:
        return
    candidates = [
        Candidate(
            id=row["id"],
            pixels=row["width"] * row["height"],
            bytes=row["bytes"],
            pictures=pictures,
            embedding=tuple(row["clip.embedding"]) if row.get("clip.embedding") else None,
        )
        for row, pictures in zip(rows, prints, strict=True)
        if pictures is not None
    ]
    found = duplicates(candidates, cfg.duplicates)
    for row in rows:
        row["duplicate.of"] = found.get(row["id"])


def clip_files(root: Path, cfg: CurationConfig) -> Callable[[Row], Path]:
    """Where the file of a row's clip lies."""
    ledger, stages = Ledger(root), own_stages_of(cfg)
    folders: dict[str, Path] = {}

    def file_of(row: Row) -> Path:
        if row["video"] not in folders:
            folders[row["video"]] = ledger.folder(CLIPS, keys_of(stages, row["video"])[CLIPS])
        paths = [folders[row["video"]] / f"{row['id']}{suffix}" for suffix in (".mp4", ".mkv")]
        return next((path for path in paths if path.exists()), paths[0])

    return file_of


def strip_files(root: Path, cfg: CurationConfig) -> Callable[[Row], Path]:
    """Where the pictures of a row's clip lie."""
    ledger, stages = Ledger(root), own_stages_of(cfg)

    def strip_of(row: Row) -> Path:
        return ledger.folder(STRIPS, keys_of(stages, row["video"])[STRIPS]) / f"{row['id']}.jpg"

    return strip_of
