"""stillmotion grid"""

from __future__ import annotations

from ..tasks.grid import GridSettings, grid
from ..tasks.machine import compute_on_usable_cores
from .options import app_of
from .printing import print_json
from .progress import Terminal


def run(settings: GridSettings) -> int:
    """Make the mosaic and print where it lies."""
    compute_on_usable_cores()
    with Terminal() as terminal:
        made = grid(settings, terminal)
    if settings.json:
        tree = {
            "path": str(made.path),
            "sheet": None if made.sheet is None else str(made.sheet),
            "columns": made.columns,
            "rows": made.rows,
            "cells": list(made.cells),
            "notes": list(made.notes),
        }
        print_json(tree)
        return 0
    print(f"{made.path}  ({made.columns} x {made.rows} cells)")
    for note in made.notes:
        print(f"  note: {note}")
    if made.sheet is not None:
        print(made.sheet)
    return 0


app = app_of(GridSettings, run, positional=("image",))
