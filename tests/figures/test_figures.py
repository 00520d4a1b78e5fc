"""The long figures: what the embedded model reaches, and what the demo, loading and a seed cost or promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stillmotion.checkpoints.load import load
from stillmotion.media.images import fit, read_image, to_pixels
from stillmotion.pipelines.image_to_video import animate
from stillmotion.placement import Placement, Stage
from stillmotion.tasks.settings import GenerateSettings, video_settings

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.figures


def run(*command: str) -> str:
    """What a program of ours prints; the test fails where it does."""
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    print(result.stdout)
    return result.stdout


def test_the_embedded_model_reaches_its_figures() -> None:
    run("benchmarks/tiny.py", "--record")
    found = json.loads((ROOT / "benchmarks" / "results" / "tiny.json").read_text())
    assert len(found["scenes"]) == 16
    assert found["first_frame_psnr_db"] >= 22
    assert found["spearman_of_motion"] >= 0.8
    assert found["objects_found"] >= 0.7


def test_the_demo_takes_at_most_half_a_minute(tmp_path: Path) -> None:
    seconds = {}
    for line in run("-m", "stillmotion", "generate", "examples/rocket.jpg", "-o", str(tmp_path)).splitlines():
        if "denoise" in line:
            parts = line.split("; ")[1].rstrip(")").split(", ")
            seconds = {stage: float(value) for stage, value, _ in (part.split() for part in parts)}
    assert seconds and sum(seconds.values()) <= 30


def test_loading_the_released_size_costs_hardly_more_than_its_weights() -> None:
    ratios = [
        float(line.split("ratio")[1].split()[0])
        for line in run("benchmarks/load_memory.py").splitlines()
        if "ratio" in line
    ]
    assert len(ratios) == 3 and max(ratios) <= 1.1


def test_a_batch_gives_each_sample_the_frames_that_it_gets_alone_ten_times_of_ten() -> None:
    loaded = load("tiny", dtype=torch.float32)
    stage = Stage(loaded.components, Placement(device="cpu", dtype="float32"))
    settings = video_settings(GenerateSettings(image="", steps=4, frames=5), loaded.preset)
    image = to_pixels([fit(read_image(ROOT / "examples" / "rocket.jpg"), 128, 80, "crop")])
    seeds = list(range(10))
    together = animate(stage, image.expand(10, -1, -1, -1), settings, seeds)
    for seed in seeds:
        alone = animate(stage, image, settings, [seed])[0]
        assert (alone - together[seed]).abs().max() <= 1e-5
