"""What can be asked of a curated folder: how far it is, other thresholds, its report."""

from __future__ import annotations

import collections
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..checkpoints.load import locate
from ..config import checked, config, load
from ..curation.buckets import load_buckets, speed_of
from ..curation.collect import clip_files, strip_files
from ..curation.ledger import Ledger, holder, read_json
from ..curation.manifest import FAILURES, MANIFEST, VIDEOS, Manifest, read_manifest, read_rows
from ..curation.pipeline import Step, finished
from ..curation.records import Failure, Video
from ..curation.report import Reported, write_report
from ..curation.shards import write_shards
from ..curation.sources import Source
from ..curation.stage import legs_of, remembered
from ..curation.thresholds import View, ViewConfig, parse_rule, retention, take_view
from ..errors import StillmotionError, UsageError
from ..files import check_writable
from .curate import DEFAULT_VIEW, REPORT, SETTINGS, SHARDS, SOURCES, STAGES, VIEWS, WORK, CurateConfig, write_view

NAMES = "abcdefghijklmnopqrstuvwxyz0123456789-_"


@config
class StatusSettings:
    """How far a curation is."""

    output: Annotated[Path, Field(description="The folder that `curate run` writes.")]
    json: Annotated[bool, Field(description="Print one JSON object.")] = False


@config
class ReportSettings:
    """Write the report of a curated folder anew, of its own view or another one."""

    output: Annotated[Path, Field(description="The folder that `curate run` wrote.")]
    view: Annotated[str | None, Field(description="The view to report on; else the one that was run with.")] = None
    file: Annotated[Path | None, Field(description="Where to write the page; else report.html in the folder.")] = None


@config
class FilterSettings:
    """Take another view of the clips: other thresholds over kept scores, nothing is computed anew."""

    output: Annotated[Path, Field(description="The folder that `curate run` wrote.")]
    drop: Annotated[
        tuple[str, ...] | None,
        Field(description="motion=0.25, COLUMN=high:0.1, COLUMN<VALUE or COLUMN>VALUE; else the rules of the run."),
    ] = None
    name: Annotated[str, Field(description="What the view is called; it lies in views/NAME.", min_length=1)] = (
        "filtered"
    )
    # As the run's own view has it where nothing is said.
    tiers: Annotated[
        bool | None,
        Field(description="Take each share within its own tier of sizes, by the shorter side; else as in the run."),
    ] = None
    drop_missing: Annotated[bool | None, Field(description="Drop clips without a value too; else as in the run.")] = (
        None
    )
    duplicates: Annotated[bool | None, Field(description="Keep near-duplicates; else as in the run.")] = None
    shards: Annotated[bool, Field(description="Pack the clips of the view, too.")] = False
    json: Annotated[bool, Field(description="Print one JSON object.")] = False


@config
class BucketSettings:
    """Say which motion bucket a video is in: what `--motion-bucket` of a generation like it would be."""

    files: Annotated[tuple[Path, ...], Field(description="The videos to look at.", min_length=1)]
    mapping: Annotated[
        Path | None,
        Field(description="A curated folder, or a model's, whose mapping is asked; else the embedded one's."),
    ] = None
    json: Annotated[bool, Field(description="Print one JSON object a video.")] = False


@dataclasses.dataclass(frozen=True, slots=True)
class Bucketed:
    """A video's motion in frame heights a second and its bucket, or the reason why it has none."""

    path: Path
    speed: float | None = None
    bucket: int | None = None
    error: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """How far a curation is; `process` is the run at work, if there is one."""

    videos: int
    done: int
    clips: int
    video_s: float
    failures: dict[str, int]
    process: str | None

    def tree(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Filtered:
    """A view that was taken, and where it lies."""

    folder: Path
    view: View
    total: int
    shards: tuple[Path, ...]

    def tree(self) -> dict[str, Any]:
        """Plain values for JSON."""
        cuts = [dataclasses.asdict(cut) | {"rule": cut.rule.name} for cut in self.view.cuts]
        shares = retention(self.view, self.total)
        return {
            "folder": str(self.folder),
            "clips": self.total,
            "kept": len(self.view.kept),
            "retention": shares["together"],
            "rules": cuts,
            "shards": [str(path) for path in self.shards],
        }


def standing(settings: StatusSettings) -> Standing:
    """How far a curation is, from what is finished on disk. Raises StillmotionError where there is none."""
    output = checked(settings).output
    _, sources = _remembered(output)
    stages = remembered(read_json(output / WORK / STAGES))
    last = len(legs_of(stages)) - 1
    found = [finished(Ledger(output / WORK), stages, Step(source, last)) for source in sources]
    done = [each for each in found if each is not None]
    failures = collections.Counter(failure.reason for each in done for failure in each.failures)
    process = holder(output / WORK)
    if process is None and (output / FAILURES).is_file():  # what the next run would try again is written there alone
        failures = collections.Counter(row["reason"] for row in read_rows(output / FAILURES))
    return Standing(
        videos=len(sources),
        done=len(done),
        clips=sum(each.clips for each in done),
        video_s=sum(each.duration_s for each in done),
        failures=dict(sorted(failures.items())),
        process=process,
    )


def report_again(settings: ReportSettings) -> Path:
    """Write the page and return where it lies. Raises StillmotionError for an unfinished folder or an unknown view."""
    settings = checked(settings)
    output = settings.output
    cfg, _ = _remembered(output)
    manifest = read_manifest(output / MANIFEST)
    view = take_view(manifest.rows, manifest.measures, cfg.view)
    if settings.view is not None:
        view = _named_view(output, settings.view, manifest)
    videos = [Video(**row) for row in read_rows(output / VIDEOS)]
    failures = [Failure(**row) for row in read_rows(output / FAILURES)]
    target = settings.file or output / REPORT
    strips = strip_files(output / WORK, cfg.curation)
    write_report(target, Reported(output.resolve().name, videos, manifest, view, failures, strips))
    return target


def filter_clips(settings: FilterSettings) -> Filtered:
    """Write a view. Raises UsageError for rules and names that cannot be, StillmotionError where nothing is kept."""
    settings = checked(settings)
    rules = tuple(parse_rule(text) for text in settings.drop or ()) or None
    _check_name(settings.name)
    if settings.name == DEFAULT_VIEW:
        raise UsageError(f"the view {DEFAULT_VIEW} is that of the run itself; expected another name.")
    output = settings.output
    cfg, _ = _remembered(output)
    manifest = read_manifest(output / MANIFEST)
    check_writable(output)
    if not manifest.rows:
        raise StillmotionError(f"{output} has no clips; expected a run that made some.")
    changed = {
        "rules": rules,
        "tiers": settings.tiers,
        "missing": None if settings.drop_missing is None else "drop" if settings.drop_missing else "keep",
        "duplicates": settings.duplicates,
    }
    asked = dataclasses.replace(cfg.view, **{name: value for name, value in changed.items() if value is not None})
    view = take_view(manifest.rows, manifest.measures, asked)
    if not view.kept:
        rules = ", ".join(cut.rule.name for cut in view.cuts) or "no rule"
        raise StillmotionError(
            f"0 of {len(manifest.rows)} clips would be kept by {rules}; expected thresholds that keep some."
        )
    folder = output / VIEWS / settings.name
    write_view(folder, manifest, view, asked)
    shards: list[Path] = []
    if not settings.shards:
        shutil.rmtree(folder / SHARDS, ignore_errors=True)  # they would hold the clips of an older view of this name
    else:
        kept = set(view.kept)
        rows = [row for row in manifest.rows if row["id"] in kept]
        shards = write_shards(folder / SHARDS, rows, clip_files(output / WORK, cfg.curation), cfg.shards)
    return Filtered(folder, view, len(manifest.rows), tuple(shards))


def find_buckets(settings: BucketSettings) -> Iterator[Bucketed]:
    """The bucket of each video in turn; one that cannot be read stops no other. Raises UsageError for the mapping."""
    settings = checked(settings)
    mapping = load_buckets(settings.mapping or locate("tiny", ()))
    for path in settings.files:
        try:
            speed = speed_of(path)
        except StillmotionError as error:
            yield Bucketed(path, error=str(error))
        else:
            yield Bucketed(path, speed, mapping.bucket(speed))


def _check_name(name: str) -> None:
    if set(name.lower()) - set(NAMES):
        raise UsageError(f"the view is called {name!r}; expected letters, digits, - and _ alone.")


def _named_view(output: Path, name: str, manifest: Manifest) -> View:
    _check_name(name)
    path = output / VIEWS / name / SETTINGS
    if not path.is_file():
        raise UsageError(f"{output} has no view {name}; expected one that `stillmotion curate filter` wrote.")
    return take_view(manifest.rows, manifest.measures, load(ViewConfig, [path]))


def _remembered(output: Path) -> tuple[CurateConfig, list[Source]]:
    if not all(path.is_file() for path in (output / SETTINGS, output / WORK / SOURCES, output / WORK / STAGES)):
        raise StillmotionError(f"{output} is no curated folder; expected one that `stillmotion curate run` writes.")
    sources = [Source(**each) for each in read_json(output / WORK / SOURCES)]
    return load(CurateConfig, [output / SETTINGS]), sources
