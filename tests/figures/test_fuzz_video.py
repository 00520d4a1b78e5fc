"""Five thousand mutated videos: no crash, no untyped error, each within two seconds and 500 MB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "unit" / "media" / "test_video_fuzz.py"
pytestmark = pytest.mark.figures


def test_five_thousand_mutants() -> None:
    result = subprocess.run([sys.executable, str(PROGRAM), "5000"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    print(found)
    assert found["count"] == 5000
    assert found["slowest_s"] <= 2
    assert found["grown_mb"] <= 500
