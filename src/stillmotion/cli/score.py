"""stillmotion score"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from ..evaluation.measures import Measures
from ..tasks.score import Scored, ScoreSettings, score
from .options import app_of
from .printing import print_json
from .progress import Terminal


def run(settings: ScoreSettings) -> int:
    """Measure the videos and print what was found; 1 if any could not be measured."""
    failures = 0
    with Terminal() as terminal:
        for scored in score(settings, terminal):
            terminal.clear()
            failures += scored.error is not None
            _print_scored(scored, settings.json)
    return 1 if failures else 0


def _print_scored(scored: Scored, as_json: bool) -> None:
    if as_json:
        print_json(scored.tree())
    elif scored.measures is not None:
        _print_table(scored, scored.measures)
    if scored.error is not None:
        print(f"Error: {scored.error}", file=sys.stderr)


def _print_table(scored: Scored, measures: Measures) -> None:
    width, height = scored.size or (0, 0)
    print(f"{scored.path}  ({scored.frames} frames of {width}x{height} at {scored.fps:g} fps)")
    table = Table(box=None, show_header=False, pad_edge=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for row in _rows(measures):
        table.add_row(*row)
    Console(file=sys.stdout, markup=False, highlight=False).print(table)


def _rows(measures: Measures) -> list[tuple[str, str, str]]:
    """Name, value and unit of every measure that the video has."""
    motion, seam = measures.motion, measures.seam
    shown = [
        ("motion", motion.speed, ".3f", "heights/s"),
        ("direction", motion.direction, ".0f", "degrees, 90 is up"),
        ("agreement", motion.agreement, ".2f", "of 1"),
        ("camera pan, right", motion.pan[0], ".3f", "heights/s"),
        ("camera pan, down", motion.pan[1], ".3f", "heights/s"),
        ("camera zoom", motion.zoom, ".3f", "log/s"),
        ("camera roll", motion.roll, ".2f", "degrees/s"),
        ("object motion", motion.object_speed, ".3f", "heights/s"),
        ("object share", motion.object_share, ".1%", "of pixels"),
        ("wander", measures.wander, ".4f", "heights" + (", frozen" if measures.frozen else "")),
        ("held frames", measures.held_share, ".0%", "of pairs"),
        ("warping error", measures.warping_error, ".2f", "levels of 255"),
        ("brightness flicker", measures.brightness_flicker, ".2f", "levels of 255"),
        ("local flicker", measures.local_flicker, ".2f", "levels of 255"),
        ("sharpness drift", measures.sharpness_drift, ".2f", "end / start"),
        ("colour drift", measures.colour_drift, ".2f", "CIELAB"),
        ("seam", None if seam is None else seam.ratio, ".2f", "" if seam is None else f"times, at frame {seam.frame}"),
        ("loop seam", measures.loop_seam, ".2f", "times"),
        ("first frame PSNR", measures.first_frame_psnr, ".1f", "dB"),
        ("first frame SSIM", measures.first_frame_ssim, ".3f", "of 1"),
    ]
    return [(name, format(value, form), unit) for name, value, form, unit in shown if value is not None]


app = app_of(ScoreSettings, run, positional=("files",))
