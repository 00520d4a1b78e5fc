"""How well the embedded model does on scenes that it never saw, and on photographs.

    python benchmarks/tiny.py --scenes 4            # prints the figures of four scenes
    python benchmarks/tiny.py --record              # all sixteen; writes benchmarks/results/tiny.json and docs/*.png

Held-out scenes are those of seeds 900,000,000 and up; every training set lies below 600,000,000.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from stillmotion.checkpoints.load import load
from stillmotion.evaluation.motion import psnr, speed
from stillmotion.evaluation.objects import USUAL, Tolerance, found_share
from stillmotion.media.fitting import fit
from stillmotion.media.images import read_image, save_png
from stillmotion.media.pixels import to_pixels, to_uint8
from stillmotion.media.sheet import contact_sheet
from stillmotion.pipelines.image_to_video import VideoSettings, animate
from stillmotion.placement import DTYPES, Placement, Stage, resolve
from stillmotion.tasks.settings import GenerateSettings, video_settings
from stillmotion.training.toys import PALETTE, ToyConfig, render_clip

ROOT = Path(__file__).parents[1]
HELD_OUT = 900_000_000
# What the detector allowed before results were seen.
NARROW = Tolerance(angle_degrees=18.0, share=0.45)
Colour = tuple[float, float, float]
BUCKETS = (20.0, 70.0, 120.0, 170.0, 220.0)
PHOTOGRAPHS = ("examples/rocket.jpg", *(f"tests/data/media/{name}.png" for name in ("chelsea", "coffee", "astronaut")))


def measure(model: str, scenes: int, pictures: Path | None) -> dict[str, Any]:
    """All figures; contact sheets go into the folder `pictures`."""
    placement = resolve(Placement())
    loaded = load(model, dtype=DTYPES[placement.dtype])
    stage = Stage(loaded.components, placement)
    settings = video_settings(GenerateSettings(image=""), loaded.preset)
    size = (loaded.preset.defaults.width, loaded.preset.defaults.height)
    rows, sheets = [], []
    for index in range(scenes):
        row, videos = scene_figures(stage, settings, size, HELD_OUT + index)
        rows.append(row)
        sheets.append(videos)
        print(json.dumps(row), flush=True)
    photographs, photograph_videos = photograph_figures(stage, settings, size)
    if pictures is not None:
        _draw(pictures, sheets, photograph_videos)
    return {
        "command": f"python benchmarks/tiny.py --record --scenes {scenes}",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "dtype": placement.dtype,
        "first_frame_psnr_db": round(float(np.mean([row["first_frame_psnr_db"] for row in rows])), 2),
        "spearman_of_motion": round(float(np.mean([row["spearman"] for row in rows])), 3),
        **{name: _mean_found(rows, name) for name in ("objects_found", "objects_found_narrow")},
        "seconds_a_video": round(float(np.median([row["seconds_a_video"] for row in rows])), 2),
        "photographs_psnr_db": round(float(np.mean([row["first_frame_psnr_db"] for row in photographs])), 2),
        "photographs": photographs,
        "scenes": rows,
    }


def scene_figures(
    stage: Stage, settings: VideoSettings, size: tuple[int, int], seed: int
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """One held-out scene's first frame, animated at every bucket; the true clip comes first among the videos."""
    clip = render_clip(ToyConfig(width=size[0], height=size[1], frames=settings.frames), seed)
    truth = to_uint8(clip.frames)
    colours = [PALETTE[shape.colour] for shape in clip.scene.shapes]
    videos, started = [], time.perf_counter()
    for bucket in BUCKETS:
        asked = dataclasses.replace(settings, motion_bucket=bucket)
        videos.append(to_uint8(animate(stage, clip.frames[:1], asked, [seed % 1000])[0]))
    seconds = (time.perf_counter() - started) / len(BUCKETS)
    speeds = [speed(video, settings.fps) for video in videos]
    row = {
        "seed": seed,
        "first_frame_psnr_db": round(float(np.mean([psnr(video[0], truth[0]) for video in videos])), 2),
        "spearman": round(spearman(BUCKETS, speeds), 3),
        "speeds": [round(value, 4) for value in speeds],
        "objects_found": _found(truth, videos, colours, USUAL),
        "objects_found_narrow": _found(truth, videos, colours, NARROW),
        "seconds_a_video": round(seconds, 2),
    }
    return row, [truth, *videos]


def _found(truth: np.ndarray, videos: list[np.ndarray], colours: list[Colour], tolerance: Tolerance) -> float:
    """The share of all frames of all videos in which the scene's objects are found; -1 where none can be looked for."""
    shares = [found_share(truth[0], video, colour, tolerance) for video in videos for colour in colours]
    known = [share for share in shares if share is not None]
    return round(float(np.mean(known)), 3) if known else -1.0


def _mean_found(rows: list[dict[str, Any]], name: str) -> float:
    return round(float(np.mean([row[name] for row in rows if row[name] >= 0])), 3)


def photograph_figures(
    stage: Stage, settings: VideoSettings, size: tuple[int, int]
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """First-frame fidelity and measured motion of the photographs."""
    rows, videos = [], []
    for name in PHOTOGRAPHS:
        picture = fit(read_image(ROOT / name), *size, "crop")
        video = to_uint8(animate(stage, to_pixels([picture]), settings, [0])[0])
        row = {
            "image": name,
            "first_frame_psnr_db": round(psnr(video[0], np.asarray(picture)), 2),
            "speed_heights_a_second": round(speed(video, settings.fps), 4),
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
        videos.append(video)
    return rows, videos


def spearman(first: tuple[float, ...], second: list[float]) -> float:
    """Rank correlation of two sequences without ties."""
    mine, theirs = (np.argsort(np.argsort(np.asarray(values))) for values in (first, second))
    return float(np.corrcoef(mine, theirs)[0, 1])


def _draw(folder: Path, scenes: list[list[np.ndarray]], photographs: list[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    videos, labels = [], []
    for index, found in enumerate(scenes[:4]):
        videos += [found[0], *(found[1 + i] for i in (0, 2, 4))]
        labels += [f"scene {index}: the rendered clip", *(f"animated, bucket {BUCKETS[i]:.0f}" for i in (0, 2, 4))]
    if videos:
        save_png(contact_sheet(videos, 7, labels), folder / "tiny_scenes.png")
    names = [Path(name).stem for name in PHOTOGRAPHS]
    save_png(contact_sheet(photographs, 7, names), folder / "tiny_photographs.png")
    overview = [found[1] for found in scenes[:3]] + photographs[:2]
    save_png(_enlarged(contact_sheet(overview, 7)), folder / "tiny.png")


def _enlarged(sheet: Image.Image) -> Image.Image:
    return sheet.resize((sheet.width * 3 // 2, sheet.height * 3 // 2), Image.Resampling.BICUBIC)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--pictures", type=Path)
    given = parser.parse_args()
    result = measure(given.model, given.scenes, ROOT / "docs" if given.record else given.pictures)
    print(json.dumps({key: value for key, value in result.items() if key != "scenes"}, indent=2))
    if given.record:
        (ROOT / "benchmarks" / "results" / "tiny.json").write_text(json.dumps(result, indent=2) + "\n")
