"""Twenty thousand mutated images and five thousand videos: no crash, no untyped error, and neither slow nor large."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[1] / "unit" / "media"
pytestmark = pytest.mark.figures
Record = Callable[[str, float, str], None]


@pytest.mark.parametrize(
    ("kind", "count", "program", "memory"),
    [("images", 20_000, "test_images_fuzz.py", "largest_mb"), ("videos", 5000, "test_video_fuzz.py", "grown_mb")],
)
def test_every_mutant_ends_in_pixels_or_a_sentence(
    kind: str, count: int, program: str, memory: str, record: Record
) -> None:
    result = subprocess.run(
        [sys.executable, str(PROGRAMS / program), str(count)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    record(f"mutated {kind} of {count}: slowest, s", found["slowest_s"], "at most 2")
    record(f"mutated {kind} of {count}: memory above idle, MB", found[memory], "at most 500")
    assert found["count"] == count and found["slowest_s"] <= 2 and found[memory] <= 500
