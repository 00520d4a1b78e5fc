"""stillmotion curate"""

from __future__ import annotations

import dataclasses
import sys
import time

import typer
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from ..errors import printable
from ..tasks.curate import CurationSummary, RunSettings, Tally, planned, run_curation
from ..tasks.curated import (
    BucketSettings,
    FilterSettings,
    ReportSettings,
    StatusSettings,
    filter_clips,
    find_buckets,
    report_again,
    standing,
)
from .options import app_of
from .printing import print_json

REDRAW_S, LINE_S = 0.25, 60.0


class Board:
    """A TallyWatch that draws on standard error, or writes a line a minute where that is no terminal."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self._drawn = time.monotonic() if self._live is None else 0.0

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, tally: Tally) -> None:
        now = time.monotonic()
        if self._live is None:
            if now - self._drawn > LINE_S:
                print(line(tally), file=sys.stderr, flush=True)
                self._drawn = now
        elif now - self._drawn > REDRAW_S or tally.videos == tally.total:
            self._live.update(board(tally), refresh=True)
            self._drawn = now


def board(tally: Tally) -> Table:
    """How far a run is, as a table."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row(tally.phase, ProgressBar(total=max(1, tally.total), completed=tally.videos, width=40))
    table.add_row("videos", f"{tally.videos:,} of {tally.total:,}")
    table.add_row("clips", f"{tally.clips:,}")
    table.add_row("speed", f"{tally.speed:.1f} seconds of video a second")
    for reason, count in tally.failures.most_common():
        table.add_row(reason, f"{count:,}")
    left = tally.left_s
    table.add_row("time left", "unknown" if left is None else clock(left))
    return table


def line(tally: Tally) -> str:
    """The same in one line."""
    left = "unknown" if tally.left_s is None else clock(tally.left_s)
    failed = f", {len(tally.failed):,} failed" if tally.failed else ""
    return (
        f"{tally.phase}: {tally.videos:,} of {tally.total:,} videos, {tally.clips:,} clips, "
        f"{tally.speed:.1f} seconds of video a second{failed}, time left {left}"
    )


def clock(seconds: float) -> str:
    """A duration as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def run(settings: RunSettings) -> int:
    """Curate and print what came of it."""
    if settings.dry_run:
        return _plan(settings)
    with Board() as watch:
        summary = run_curation(settings, watch)
    if settings.json:
        print_json(summary.tree())
    else:
        _print_summary(summary)
    lacking = {"unknown_codec": "need a codec that is not here", "no_scorer": "met a network that cannot be used"}
    missed = {reason: summary.failures[reason] for reason in lacking if reason in summary.failures}
    for reason, count in missed.items():
        print(f"Error: {count} videos {lacking[reason]}; failures.parquet names them.", file=sys.stderr)
    return 1 if missed else 0


def _print_summary(summary: CurationSummary) -> None:
    share = summary.kept / summary.clips
    print(f"{summary.kept:,} of {summary.clips:,} clips kept ({share:.0%}), from {summary.videos:,} videos")
    _print_counts(summary.failures)
    if summary.beside:
        print(f"  beside them, no videos by their names: {summary.beside:,}")
    for path in (*summary.shards[:3], *summary.shards[3:][-1:]):
        print(path)
    print(summary.report)


def _print_counts(failures: dict[str, int]) -> None:
    for reason, count in failures.items():
        print(f"  {reason}: {count:,}")


def _plan(settings: RunSettings) -> int:
    found = planned(settings)
    size = sum(source.bytes or 0 for source in found.sources)
    if settings.json:
        names = [source.name for source in found.sources]
        print_json({"files": len(names), "bytes": size, "beside": found.beside, "names": names})
    else:
        for source in found.sources:
            print(printable(source.name))
        print(f"{len(found.sources):,} files of {size / 1e6:,.1f} MB to look at; {found.beside:,} beside them")
        _print_counts({"unreadable folders": len(found.failures)} if found.failures else {})
    return 0


def status(settings: StatusSettings) -> int:
    """Print how far a curation is."""
    found = standing(settings)
    if settings.json:
        print_json(found.tree())
        return 0
    print(f"{found.done:,} of {found.videos:,} videos done, {found.clips:,} clips")
    _print_counts(found.failures)
    print("no run is at work" if found.process is None else f"process {found.process} is at work")
    return 0


def report(settings: ReportSettings) -> int:
    """Write the report and print where it lies."""
    print(report_again(settings))
    return 0


def filtered(settings: FilterSettings) -> int:
    """Take a view and print what it keeps."""
    found = filter_clips(settings)
    if settings.json:
        print_json(found.tree())
        return 0
    for cut in found.view.cuts:
        border = f", border {cut.told()}" if cut.borders else ""
        without = f", {cut.missing:,} without a value" if cut.missing else ""
        print(f"  {cut.rule.name}: drops {cut.dropped:,} of {cut.having:,}{border}{without}")
    print(f"{len(found.view.kept):,} of {found.total:,} clips kept ({len(found.view.kept) / found.total:.1%})")
    print(found.folder)
    return 0


app = typer.Typer(
    name="curate",
    help="From a folder of videos to a training set: clips, scores, shards and a report.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


def buckets(settings: BucketSettings) -> int:
    """Print the bucket of each video; 1 if any has none."""
    failures = 0
    for found in find_buckets(settings):
        failures += found.error is not None
        if settings.json:
            print_json(dataclasses.asdict(found) | {"path": str(found.path)})
        elif found.error is None:
            print(f"{found.path}: bucket {found.bucket}, {found.speed:.3f} heights a second", flush=True)
        if found.error is not None:
            print(f"Error: {found.error}", file=sys.stderr)
    return 1 if failures else 0


for name, made in (
    ("run", app_of(RunSettings, run, positional=("source", "output"))),
    ("status", app_of(StatusSettings, status, positional=("output",))),
    ("report", app_of(ReportSettings, report, positional=("output",))),
    ("filter", app_of(FilterSettings, filtered, positional=("output",))),
    ("bucket", app_of(BucketSettings, buckets, positional=("files",))),
):
    (command,) = made.registered_commands
    command.name = name
    app.registered_commands.append(command)
