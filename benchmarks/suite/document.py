"""The page of figures, made from what is stored and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillmotion.errors import UsageError
from stillmotion.files import atomic_path

from . import plot
from .results import FILE, Results

HEADER = "| figure | ours | diffusers | value | must | aim | |"
RULE = "|---|---|---|---|---|---|---|"
INTRODUCTION = """# Speed and memory, beside diffusers

This page is written by `benchmarks/bench.py --document` from the figures in `benchmarks/results`; what is not measured
is not in it.

- Both sides run in turns in one process, with the same random or embedded weights, the same precision, threads and
  shapes. A time is the median of its turns; short ones come after a call that does not count. Of videos that take
  minutes the first one counts too, but the median of three is a later one's, which finds weights laid out by the one
  before; the first one's times are told below the table. A share below what it must be is marked as missed.
- A U-Net step is one guided step, both branches. Ours and diffusers' steps are called as each pipeline calls them, and
  what a generation prepares once stands outside of the step and inside every end-to-end time; what stays from one
  video to the next does not.
- Sizes are frames x height x width. Peaks of memory are each side's own process, with its weights and without its
  imports.
- The machine's best matrix rate is that of the fastest linear layer, 1x1 or 3x3 convolution, measured in turns with the
  step. The share counts the operations of the plain network, so that saved work counts as speed.

On your machine, from a checkout:

```console
make bench
make bench-gpu
```

The whole suite takes about an hour; each finished row is stored, and a broken run goes on where it stopped. The
program names its rows, and runs some of them on their own:

```console
python benchmarks/bench.py --list
python benchmarks/bench.py --rows unet-float32,decoder-float32
```

```python
from stillmotion import VideoSettings

print(VideoSettings(frames=14, steps=5))  # what a row asks for, in the words of the pipeline
```
"""


def write_page(folder: Path, page: Path) -> None:
    """Write the page and its plots, for every machine in the folder of results.

    Raises UsageError where no figures are stored, StillmotionError where the disk refuses.
    """
    stored = [Results(place.parent) for place in sorted(folder.glob(f"*/{FILE}"))]
    measured = [each for each in stored if each.rows]
    if not measured:
        raise UsageError(f"{folder} holds no figures; expected some, from a run of the benchmark.")
    sections = [_section(each, page.parent) for each in measured]
    with atomic_path(page) as temporary:
        temporary.write_text("\n".join([INTRODUCTION, *sections]), encoding="utf-8")


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The stored figures as a table."""
    return "\n".join([HEADER, RULE, *(_row(row) for row in rows.values())])


def _section(results: Results, folder: Path) -> str:
    name, about = results.path.parent.name, results.machine
    commits = sorted({str(row["commit"]) for row in results.rows.values()})
    plots = _plots(results, folder, name)
    pictures = "\n".join(f"![{title}]({path.name})" for title, path in plots)
    versions = f"torch {about['torch']}, diffusers {about['diffusers']}, Python {about['python']}"
    lead = f"{about['device']}, {about['cores']} cores, {about['threads']} threads; {versions}; "
    lead += f"compiled code of our own: {about['kernels']}; " if "kernels" in about else ""
    lead += f"commit {', '.join(commits)}."
    notes = "\n".join(f"- {row['title']}: {row['note']}." for row in results.rows.values() if row["note"])
    parts = [f"## {name}", lead, table(results.rows), pictures, f"What else was seen:\n\n{notes}" if notes else ""]
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(row: Mapping[str, Any]) -> str:
    unit = f" {row['unit']}" if row["unit"] else ""
    sides = [f"{_number(row[key])}{unit}" if row[key] is not None else "" for key in ("ours", "peer")]
    value = f"{_number(row['value'])} ({row['value_is']})"
    disturbed = row.get("others_cores") or 0.0
    verdict = row["verdict"] if row["must"] else ""
    if disturbed > 0.1:
        verdict += f" (others used {disturbed:.1f} cores)"
    cells = [row["title"], *sides, value, row["must"] or "", row["aim"] or "", verdict.strip()]
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None) -> str:
    """Three digits, as a person writes them."""
    if value is None:
        return "no number"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _plots(results: Results, folder: Path, machine: str) -> list[tuple[str, Path]]:
    """Write the plots beside the page; each with its title."""
    found = [("How many times faster than diffusers", folder / f"performance-{machine}.svg", _ratios(results))]
    for name, row in results.rows.items():
        points = row["details"].get("points", [])
        if len(points) > 1:
            axis = row["details"]["axis"]
            drawn = plot.lines(f"U-Net step over {axis}", axis, [(p["size"], p["ours"], p["peer"]) for p in points])
            found.append((f"U-Net step over {axis}", folder / f"performance-{machine}-{name}.svg", drawn))
    for _, path, drawn in found:
        with atomic_path(path) as temporary:
            temporary.write_text(drawn, encoding="utf-8")
    return [(title, path) for title, path, _ in found]


def _ratios(results: Results) -> str:
    """Of the times that something is asked of: an import that is a thousand times faster would hide the rest."""
    rows = []
    for row in results.rows.values():
        must = str(row["must"] or "")
        if row["value_is"] == "diffusers' time / ours" and row["value"] is not None and must.startswith(">= "):
            rows.append((row["title"].replace("full-size network, ", "")[:52], row["value"], float(must[3:])))
    return plot.bars("diffusers' time over ours; the mark is what it must be", rows)
