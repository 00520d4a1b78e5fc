"""Recipes: twenty random ones repeated in fresh processes, ten thousand mutated ones."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
MUTATIONS = ROOT / "tests" / "unit" / "test_recipe.py"
pytestmark = pytest.mark.figures
Record = Callable[[str, float, str], None]

CHOICES = {
    "sampler": ["euler", "heun", "euler-ancestral", "dpmpp-2s-ancestral", "dpmpp-2m", "lms"],
    "sigmas": ["karras", "ays", "ddpm", "80,20,5,1"],
    "guider": ["linear", "constant", "triangle", "trapezoid", "none"],
    "decoder": ["temporal", "image"],
    "dtype": ["float32", "bfloat16"],
    "size": ["64x64", "128x80", "72x104"],
    "frames": ["1", "2", "5"],
    "steps": ["1", "2", "3"],
    "chunk": ["1", "2", "5"],
    "fit": ["crop", "pad", "stretch"],
    "suffix": ["mp4", "webm", "mov", "mkv", "gif", "webp", "apng"],
}


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run([sys.executable, "-m", "stillmotion", *words], capture_output=True, text=True, check=False)


def test_twenty_random_recipes_repeat_byte_for_byte_in_a_fresh_process(tmp_path: Path, record: Record) -> None:
    identical = 0
    for number in range(20):
        rng = random.Random(number)
        picture = tmp_path / f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (rng.randint(30, 90), rng.randint(30, 90), 3), np.uint8)
        Image.fromarray(pixels).save(picture)
        drawn = {name: rng.choice(values) for name, values in CHOICES.items()}
        first, again = (tmp_path / f"{kind}{number}.{drawn['suffix']}" for kind in ("first", "again"))
        drawn["chunk"] = min(drawn["chunk"], drawn["frames"])
        options = [word for name, value in drawn.items() if name != "suffix" for word in (f"--{name}", value)]
        options += ["--motion", str(rng.uniform(0, 255)), "--noise-aug", str(rng.uniform(0, 0.2))]
        options += ["--seed", str(rng.randrange(2**63)), "--fps", str(rng.uniform(1, 30)), "--play-fps", "8"]
        made = command("generate", str(picture), "-o", str(first), *options)
        assert made.returncode == 0, made.stderr
        picture.unlink()
        repeated = command("repeat", str(first), "-o", str(again), "--json")
        identical += repeated.returncode == 0 and json.loads(repeated.stdout)["identical"]
        assert first.read_bytes() == again.read_bytes()
    record("random recipes of twenty repeated byte for byte in a fresh process", identical, "20")
    assert identical == 20


def test_ten_thousand_mutated_recipes(record: Record) -> None:
    program = (
        "import runpy, time, resource\n"
        f"mutate = runpy.run_path({str(MUTATIONS)!r})['mutate_recipes']\n"
        "idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "slowest = 0.0\n"
        "for seed in range(10_000):\n"
        "    began = time.perf_counter(); mutate(range(seed, seed + 1)); "
        "slowest = max(slowest, time.perf_counter() - began)\n"
        "print(slowest, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) / 1024)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    slowest, largest = map(float, result.stdout.split())
    record("mutated recipes of ten thousand: slowest, s", slowest, "at most 2")
    record("mutated recipes of ten thousand: memory above idle, MB", largest, "at most 500")
    assert slowest <= 2 and largest <= 500
