"""Running experiments one by one: what is stored is not measured again, and what failed does not stop the rest."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stillmotion.errors import StillmotionError

from . import machine
from .figures import Experiment, Figure
from .results import Results, Stamp


def run(
    experiments: Sequence[Experiment], results: Results, stamp: Stamp, device: str, fresh: bool, judged: bool
) -> int:
    """Measure what is not stored, and judge everything that was asked for: 0, or 1 where a figure misses its must."""
    failed = [each.name for each in experiments if not attempt(each, results, stamp, device, fresh)]
    figures = [figure for each in experiments if each.name not in failed for figure in each.figures]
    return max(judge(figures, results, judged), int(bool(failed)))


def attempt(experiment: Experiment, results: Results, stamp: Stamp, device: str, fresh: bool = False) -> bool:
    """Whether one experiment could be measured; where it could not, such as for want of memory, say why and go on."""
    try:
        measure(experiment, results, stamp, device, fresh)
    except (StillmotionError, RuntimeError, MemoryError) as error:
        say(f"failed: {experiment.name}: {error}")
        return False
    return True


def measure(experiment: Experiment, results: Results, stamp: Stamp, device: str, fresh: bool = False) -> None:
    """Run one experiment and store what it found, unless it is there already; say both."""
    if results.has(experiment, stamp) and not fresh:
        say(*(f"{line(figure, results)} (stored)" for figure in experiment.figures))
        return
    others = machine.others_now()
    if machine.is_disturbed(others):
        say(f"warning: other processes keep {others:.1f} cores busy, which will disturb {experiment.name}")
    with machine.watching_others() as load:
        found = experiment.run()
    results.keep(experiment, found, stamp, machine.describe(device), load.others)
    if machine.is_disturbed(load.others):
        say(f"warning: other processes used {load.others:.1f} cores during {experiment.name}")
    say(*(line(figure, results) for figure in experiment.figures))


def judge(figures: Sequence[Figure], results: Results, judged: bool = True) -> int:
    """1 where a figure misses its must, else 0; shapes that prove nothing are not judged."""
    if not judged:
        say(f"{len(figures)} figures on tiny shapes; none is judged")
        return 0
    missed = [each.name for each in figures if results.verdict(each) == "missed"]
    say(f"{len(figures)} figures, {len(missed)} below their must" + (f": {', '.join(missed)}" if missed else ""))
    return int(bool(missed))


def line(figure: Figure, results: Results) -> str:
    """One row for the terminal: name, ours, the peer's, the value, must, aim, verdict, note."""
    row = results.rows[figure.name]
    ours, peer, value = ("-" if row[key] is None else f"{row[key]:.4g}" for key in ("ours", "peer", "value"))
    unit = f" {figure.unit}" if figure.unit else ""
    sides = f"ours {ours}{unit}" + ("" if row["peer"] is None else f", diffusers {peer}{unit}")
    bounds = "" if figure.must is None else f"; must {figure.must}, aim {figure.aim or '-'}"
    note = f"; {row['note']}" if row["note"] else ""
    return f"{figure.name}: {sides}, {figure.value_is} {value}{bounds}: {results.verdict(figure)}{note}"


def say(*lines: str) -> None:
    """Print at once: a suite takes an hour."""
    for each in lines:
        sys.stdout.write(each + "\n")
    sys.stdout.flush()
