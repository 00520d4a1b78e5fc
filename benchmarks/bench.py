"""Ours and diffusers in turns: times, memory, and the share of what this machine can do.

    python benchmarks/bench.py                           # the suite of a processor, in about an hour
    python benchmarks/bench.py --rows unet-float32       # some rows, by figure or by experiment; --list names them
    python benchmarks/bench.py --suite gpu               # the suite of an accelerator
    python benchmarks/bench.py --suite gpu --device cpu --small   # every path of it, on tiny shapes
    python benchmarks/bench.py --document                # docs/performance.md from the stored figures

Finished rows are stored at once in benchmarks/results/<machine>/bench.json and skipped the next time, as long as the
source is the same; --fresh measures them anew. The status is 1 where a figure misses its must. On tiny shapes no figure
is judged, and nothing is stored in benchmarks/results.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from suite import cpu, gpu, machine, program
from suite.document import write_page
from suite.experiments import Lab
from suite.figures import Experiment, select
from suite.results import Results, Stamp
from suite.shapes import CPU, GPU, SMALL

from stillmotion.errors import StillmotionError, UsageError
from stillmotion.files import check_writable

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SMALL_RESULTS = ROOT / "outputs" / "bench"
PAGE = ROOT / "docs" / "performance.md"
SUITES = {"cpu": (cpu.suite, CPU), "gpu": (gpu.suite, GPU)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; its exit status."""
    asked = _parser().parse_args(arguments)
    transformers.logging.set_verbosity_error()
    try:
        return _run(asked)
    except StillmotionError as error:
        program.say(f"error: {error}")
        return 2 if isinstance(error, UsageError) else 1


def _run(asked: argparse.Namespace) -> int:
    folder = asked.results or (SMALL_RESULTS if asked.small else RESULTS)
    if asked.document:
        write_page(folder, asked.page)
        program.say(f"{asked.page} is written")
        return 0
    device = _device(asked)
    make, usual = SUITES[asked.suite]
    shapes = SMALL if asked.small else usual
    if asked.turns is not None:
        if asked.turns < 1:
            raise UsageError(f"turns is {asked.turns}; expected at least 1.")
        shapes = dataclasses.replace(shapes, turns=asked.turns, long_turns=asked.turns)
    experiments = _selected(make(Lab(device, shapes, asked.small)), asked.rows)
    if asked.list:
        program.say(*(f"{each.name}: {', '.join(figure.name for figure in each.figures)}" for each in experiments))
        return 0
    check_writable(folder)
    results = Results(folder / (machine.slug(device) + ("-small" if asked.small else "")))
    stamp = Stamp(machine.source_digest(asked.small), machine.commit())
    return program.run(experiments, results, stamp, device, asked.fresh, judged=not asked.small)


def _device(asked: argparse.Namespace) -> str:
    """The device that was asked for, or that of the suite. Raises UsageError where this machine lacks it."""
    device = asked.device or ("cuda" if asked.suite == "gpu" and not asked.list else "cpu")
    try:
        torch.empty(1, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"device is {device!r}, which this machine cannot use ({reason}); expected one it has, or cpu with --small."
        ) from None
    return device


def _selected(experiments: list[Experiment], rows: str | None) -> list[Experiment]:
    try:
        return select(experiments, rows.split(",") if rows else ())
    except KeyError as error:
        raise UsageError(f"rows has {error}, which no figure is called; expected names that --list shows.") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, default="cpu")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; that of the suite by itself")
    parser.add_argument("--rows", metavar="NAME,...", help="only these figures or experiments")
    parser.add_argument("--list", action="store_true", help="name the experiments and their figures")
    parser.add_argument("--turns", type=int, help="of each side, instead of the usual 3; each time stands in the row")
    parser.add_argument("--small", action="store_true", help="tiny shapes, which try the program and prove nothing")
    parser.add_argument("--fresh", action="store_true", help="measure stored rows anew")
    parser.add_argument("--results", type=Path, help="another folder for the figures")
    parser.add_argument("--document", action="store_true", help="write the page from the stored figures")
    parser.add_argument("--page", type=Path, default=PAGE, help="which page --document writes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
