"""From a folder of videos to a training set: files in, shards, tables and a report out."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from ..config import checked, config, dump, load
from ..curation.buckets import FILE as BUCKETS
from ..curation.buckets import save_buckets
from ..curation.collect import Collected, clip_files, collect, columns_made, strip_files
from ..curation.execute import Crew, EngineName, Lost, run_here, run_local, run_on_ray
from ..curation.ledger import Ledger, locked, write_json
from ..curation.manifest import (
    FAILURES,
    MANIFEST,
    VIDEOS,
    Manifest,
    write_failures,
    write_manifest,
    write_videos,
)
from ..curation.pipeline import CurationConfig, Curator, Done, Step, finished, stages_of
from ..curation.records import PASSING, Failure
from ..curation.report import Reported, write_report
from ..curation.shards import ShardConfig, write_shards
from ..curation.sources import Found, Source, find_sources
from ..curation.stage import Needs, legs_of, needs_of, told
from ..curation.thresholds import View, ViewConfig, column_of, take_view
from ..errors import StillmotionError, UsageError
from ..files import atomic_path, check_writable, remove_parts
from .machine import main_memory, usable_cores

WORK, SETTINGS, SOURCES, STAGES = "work", "curate.yaml", "sources.json", "stages.json"
VIEWS, SHARDS, IDS = "views", "shards", "ids.txt"
DEFAULT_VIEW = "default"
REPORT = "report.html"
WORTH_WAITING = 1 << 16  # bytes; smaller files are worked on at once, be they the same or not


@config
class CurateConfig:
    """What `curate.yaml` holds: how clips are made, which of them stay, and how they are packed."""

    curation: Annotated[CurationConfig, Field(description="How clips are made and scored.")] = CurationConfig()
    view: Annotated[ViewConfig, Field(description="Which clips the shards hold.")] = ViewConfig()
    shards: Annotated[ShardConfig, Field(description="How clips are packed.")] = ShardConfig()


@config
class RunSettings:
    """Curate a folder of videos, a list of them, or an address: clips, scores, shards, a manifest and a report."""

    source: Annotated[str, Field(description="A folder, a list of paths or addresses, a video, or an address.")]
    output: Annotated[Path, Field(description="The folder to write; a run that was stopped goes on there.")]
    config: Annotated[tuple[Path, ...] | None, Field(description="YAML files of settings, merged in order.")] = None
    set: Annotated[
        tuple[str, ...] | None, Field(description="A single setting, as curation.clips.min_s=4.", title="KEY=VALUE")
    ] = None
    engine: Annotated[EngineName, Field(description="Processes of this machine, or a Ray cluster.")] = "local"
    workers: Annotated[
        int | None,
        Field(ge=0, le=4096, description="How many videos at once; 0 works in this process. Else one a core."),
    ] = None
    timeout: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="Seconds after which a worker's video is given up.")
    ] = 4 * 3600.0
    dry_run: Annotated[bool, Field(description="List what would be done, and do nothing.")] = False
    json: Annotated[bool, Field(description="Print one JSON object.")] = False


@dataclasses.dataclass(slots=True)
class Tally:
    """How far a run is."""

    videos: int = 0
    total: int = 0
    clips: int = 0
    video_s: float = 0.0
    bytes: int = 0
    total_bytes: int = 0
    # Of what earlier runs had finished.
    known_bytes: int = 0
    known_s: float = 0.0
    computed: int = 0
    failures: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    # Sources that have failed, each of which counts once however many legs it is met in.
    failed: set[str] = dataclasses.field(default_factory=set)
    phase: str = "videos"
    started: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    @property
    def speed(self) -> float:
        """Seconds of video a second."""
        return (self.video_s - self.known_s) / max(1e-6, self.elapsed_s)

    @property
    def left_s(self) -> float | None:
        """Seconds until all videos are done, by the bytes that this run worked on; None while nothing is known."""
        done = self.bytes - self.known_bytes
        return self.elapsed_s * (self.total_bytes - self.bytes) / done if done > 0 else None

    def begin(self, phase: str) -> None:
        """All sources have another leg before them."""
        self.phase, self.started = phase, time.monotonic()
        self.videos = self.clips = self.bytes = self.known_bytes = 0
        self.video_s = self.known_s = 0.0


TallyWatch = Callable[[Tally], None]


@dataclasses.dataclass(frozen=True, slots=True)
class CurationSummary:
    """What a run came to; `hash` is that of the manifest."""

    output: Path
    videos: int
    clips: int
    kept: int
    failures: dict[str, int]
    hash: str
    report: Path
    shards: tuple[Path, ...]
    computed: int
    video_s: float
    # Files of the source that are no videos by their names.
    beside: int

    def tree(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self) | {
            "output": str(self.output),
            "report": str(self.report),
            "shards": [str(path) for path in self.shards],
        }


def ignored(tally: Tally) -> None:
    """A TallyWatch that does nothing."""


def run_curation(settings: RunSettings, watch: TallyWatch = ignored) -> CurationSummary:
    """Curate; what earlier runs into the same folder finished is taken from there.

    Raises UsageError for a source that is not there and for settings that cannot be, StillmotionError where no clip
    is kept, with the cause, or the disk is full.
    """
    settings = checked(settings)
    cfg = config_of(settings)
    found = find_sources(settings.source, settings.output)
    _check_places(settings, found)
    _check_devices(settings, cfg)
    _check_rules(cfg)
    tally = Tally(total=len(found.sources), total_bytes=sum(source.bytes or 0 for source in found.sources))
    work = settings.output / WORK
    with locked(work):
        ledger = Ledger(work)
        ledger.sweep()
        # Beside the ledger's, what a run itself writes; other views are those of `filter`.
        own = (WORK, SHARDS, Path(VIEWS, DEFAULT_VIEW))
        remove_parts([settings.output, *(settings.output / name for name in own)])
        _remember(settings.output, cfg, found)
        failures = [*found.failures, *_work(settings, cfg, found, work, tally, watch)]
        tally.phase = "tables"
        watch(tally)
        collected = collect(work, cfg.curation, found.sources, failures)
        shards, view = _publish(settings.output, cfg, collected)
    return _summary(settings.output, collected, view, shards, tally, found.beside)


def planned(settings: RunSettings) -> Found:
    """What a run would look at, without doing it. Raises as `run_curation` does before its work."""
    settings = checked(settings)
    cfg = config_of(settings)
    found = find_sources(settings.source, settings.output)
    _check_places(settings, found)
    _check_devices(settings, cfg)
    _check_rules(cfg)
    return found


def config_of(settings: RunSettings) -> CurateConfig:
    """The configuration that files and single settings give. Raises ConfigError."""
    return load(CurateConfig, settings.config or (), settings.set or ())


def _check_places(settings: RunSettings, found: Found) -> None:
    output = settings.output
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; expected a folder, or a free name.")
    check_writable(output)
    local = Path(settings.source)
    if "://" not in settings.source and local.is_dir():
        inside = local.resolve()
        if inside == output.resolve() or output.resolve() in inside.parents:
            raise UsageError(f"{settings.source} lies in {output}, where results go; expected another folder.")
    if not found.sources and found.failures:
        raise UsageError(
            f"{settings.source} cannot be searched ({found.failures[0].detail.rstrip('.')}); "
            "expected a folder of videos."
        )
    if not found.sources:
        beside = f" but {found.beside} files that are no videos by their names" if found.beside else ""
        raise UsageError(f"{settings.source} holds nothing{beside}; expected at least one video.")
    if settings.workers != 0 and any(source.place.startswith("memory:") for source in found.sources):
        raise UsageError("memory:// is seen by this process alone; expected --workers 0.")


def _check_devices(settings: RunSettings, cfg: CurateConfig) -> None:
    """Workers of a cluster may have what this machine has not."""
    asking = next((stage.name for stage in stages_of(cfg.curation) if stage.needs.gpus), None)
    if asking is not None and settings.engine == "local" and not torch.cuda.is_available():
        raise UsageError(
            f"{asking} is to run on a GPU, and this machine has none; expected device: cpu in its network."
        )


def _check_rules(cfg: CurateConfig) -> None:
    """Refuse a rule on a column that no stage makes before anything is worked on."""
    for rule in cfg.view.rules or ():
        column_of(rule.column, columns_made(cfg.curation))


def _remember(output: Path, cfg: CurateConfig, found: Found) -> None:
    with atomic_path(output / SETTINGS) as temporary:
        temporary.write_text(dump(cfg), encoding="utf-8")
    with atomic_path(output / WORK / SOURCES) as temporary:
        write_json(temporary, [dataclasses.asdict(source) for source in found.sources])
    with atomic_path(output / WORK / STAGES) as temporary:
        write_json(temporary, told(stages_of(cfg.curation)))


class _Feed:
    """Hands out sources, the largest first, and holds back those that may be the same content as one in work."""

    def __init__(self, sources: Sequence[Source], leg: int) -> None:
        self._waiting = collections.deque(sorted(sources, key=lambda source: (-(source.bytes or 0), source.name)))
        self._sizes: set[int] = set()
        self._leg = leg

    def __iter__(self) -> Iterator[Step | None]:
        while self._waiting:
            source = next((each for each in self._waiting if each.bytes not in self._sizes), None)
            if source is None:
                yield None
                continue
            self._waiting.remove(source)
            if (source.bytes or 0) >= WORTH_WAITING:
                self._sizes.add(source.bytes or 0)
            yield Step(source, self._leg)

    def free(self, source: Source) -> None:
        self._sizes.discard(source.bytes or 0)


def _work(
    settings: RunSettings, cfg: CurateConfig, found: Found, work: Path, tally: Tally, watch: TallyWatch
) -> list[Failure]:
    """Take every source through every leg; returns the failures that no result records."""
    curator = Curator(work, cfg.curation)
    passing: list[Failure] = []
    legs = legs_of(stages_of(cfg.curation))
    for number, leg in enumerate(legs):
        tally.begin("videos" if len(legs) == 1 else f"pass {number + 1} of {len(legs)}")
        failed = {failure.source for failure in passing}
        todo = _to_do(curator, found.sources, number, failed, tally)
        watch(tally)
        crew = Crew(_workers(settings, needs_of(leg)), needs_of(leg), settings.timeout)
        for source, done in _visits(settings, curator, _Feed(todo, number), crew):
            passing += [failure for failure in done.failures if failure.reason in PASSING]
            _count(tally, source, done)
            watch(tally)
            _check_disk(settings.output, done)
    return passing


def _to_do(curator: Curator, sources: Sequence[Source], leg: int, failed: set[str], tally: Tally) -> list[Source]:
    """The sources that a leg still has work for; the others are counted, those that failed in this run among them."""
    todo, ledger, stages = [], Ledger(curator.root), stages_of(curator.cfg)
    for source in sources:
        done = Done(None) if source.name in failed else finished(ledger, stages, Step(source, leg))
        if done is None:
            todo.append(source)
        else:
            _count(tally, source, done)
    tally.known_bytes, tally.known_s = tally.bytes, tally.video_s
    return todo


def _visits(settings: RunSettings, curator: Curator, feed: _Feed, crew: Crew) -> Iterator[tuple[Source, Done]]:
    with contextlib.closing(_engine(settings, curator, feed, crew)) as answers:
        for step, answer in answers:
            feed.free(step.source)
            yield step.source, answer if isinstance(answer, Done) else _lost(step, answer)


def _lost(step: Step, lost: Lost) -> Done:
    return Done(None, failures=(Failure(step.source.name, "work", lost.reason, lost.detail),))


def _count(tally: Tally, source: Source, done: Done) -> None:
    tally.videos += 1
    tally.bytes += source.bytes or 0
    tally.clips += done.clips
    tally.video_s += done.duration_s
    tally.computed += done.computed
    if done.failures and source.name not in tally.failed:
        tally.failed.add(source.name)
        tally.failures.update(failure.reason for failure in done.failures)


def _check_disk(output: Path, done: Done) -> None:
    if any(failure.reason == "disk_full" for failure in done.failures):
        raise StillmotionError(
            f"{output} cannot take more: the disk is full; expected free space. What is finished stays, and the next "
            "run goes on from there."
        )


def _engine(settings: RunSettings, curator: Curator, feed: _Feed, crew: Crew) -> Any:
    if settings.engine == "ray":
        return run_on_ray(curator, feed, crew)
    if settings.workers == 0:
        return run_here(curator, (step for step in feed if step is not None))
    return run_local(curator, feed, crew)


def _workers(settings: RunSettings, needs: Needs) -> int:
    """As many as were asked for, or as this machine has room for; a cluster knows itself how many it has."""
    if settings.workers:
        return settings.workers
    if settings.engine == "ray":
        return sys.maxsize
    room = [usable_cores() / needs.cpus, main_memory()[0] / (needs.memory_mb * 1024**2)]
    if needs.gpus:
        room.append(torch.cuda.device_count() / needs.gpus)
    return max(1, int(min(room)))


def _publish(output: Path, cfg: CurateConfig, collected: Collected) -> tuple[list[Path], View]:
    """Write the tables, the default view, its shards and the report."""
    manifest = collected.manifest
    view = take_view(manifest.rows, manifest.measures, cfg.view)  # before anything is written: a rule may be refused
    write_videos(output / VIDEOS, collected.videos)
    write_failures(output / FAILURES, collected.failures)
    write_manifest(output / MANIFEST, manifest)
    save_buckets(collected.buckets, output / BUCKETS)
    write_view(output / VIEWS / DEFAULT_VIEW, manifest, view, cfg.view)
    kept = set(view.kept)
    rows = [row for row in manifest.rows if row["id"] in kept]
    shards = write_shards(output / SHARDS, rows, clip_files(output / WORK, cfg.curation), cfg.shards)
    strips = strip_files(output / WORK, cfg.curation)
    title = output.resolve().name
    write_report(output / REPORT, Reported(title, collected.videos, manifest, view, collected.failures, strips))
    return shards, view


def write_view(folder: Path, manifest: Manifest, view: View, cfg: ViewConfig) -> None:
    """Write the ids that a view keeps, one a line, their rows as a manifest of its own, and the rules."""
    kept = set(view.kept)
    rows = tuple(row for row in manifest.rows if row["id"] in kept)
    with atomic_path(folder / IDS) as temporary:
        temporary.write_text("".join(f"{clip}\n" for clip in view.kept), encoding="ascii")
    with atomic_path(folder / SETTINGS) as temporary:
        temporary.write_text(dump(cfg), encoding="utf-8")
    write_manifest(folder / MANIFEST, Manifest(rows, manifest.scorers))


def _summary(
    output: Path, collected: Collected, view: View, shards: Sequence[Path], tally: Tally, beside: int
) -> CurationSummary:
    failures = collections.Counter(failure.reason for failure in collected.failures)
    if not view.kept:
        raise StillmotionError(_nothing_kept(output, collected, view, failures))
    return CurationSummary(
        output=output,
        videos=len(collected.videos),
        clips=len(collected.manifest.rows),
        kept=len(view.kept),
        failures=dict(sorted(failures.items())),
        hash=collected.manifest.hash,
        report=output / REPORT,
        shards=tuple(shards),
        computed=tally.computed,
        video_s=sum(video.duration_s for video in collected.videos),
        beside=beside,
    )


def _nothing_kept(output: Path, collected: Collected, view: View, failures: Mapping[str, int]) -> str:
    counted = ", ".join(f"{count} {reason}" for reason, count in sorted(failures.items())) or "no failure"
    if not collected.manifest.rows:
        example = next((f" ({each.source!r}: {each.detail.rstrip('.')})" for each in collected.failures), "")
        return f"0 clips were made of {len(collected.videos)} videos: {counted}{example}; expected at least one clip."
    why = collections.Counter(rule for rules in view.dropped.values() for rule in rules)
    rules = ", ".join(f"{rule} {count}" for rule, count in why.most_common())
    return (
        f"0 of {len(collected.manifest.rows)} clips were kept, dropped by {rules}; expected thresholds that keep some."
    )
