"""Where figures are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def _record(name: str, value: float, limit: str) -> None:
    print(f"{name}: {value:g} (must be {limit})")
    path = RESULTS / "figures.json"
    found = json.loads(path.read_text()) if path.exists() else {"command": "make figures"}
    path.write_text(json.dumps(found | {name: {"value": round(value, 4), "must": limit}}, indent=2) + "\n")


@pytest.fixture
def record() -> Callable[[str, float, str], None]:
    """Print a figure and keep it, with what it had to be, in benchmarks/results/figures.json."""
    return _record
