"""Transitions found by ours and by PySceneDetect's detectors, on generated videos and on labelled real ones.

    python benchmarks/curation_shots.py                 # 18 held-out videos of 640x360, the real clips, speed
    python benchmarks/curation_shots.py --videos 2 --width 320 --height 180 --no-speed    # a look, in a minute

The generated videos have seeds and photographs that no training saw. Real clips are those of tests/data/media that
have labels beside them. Times are CPU seconds of one process, ours and ContentDetector's in turns; run it with
OMP_NUM_THREADS=1. Prints a table, writes benchmarks/results/curation_shots.json; the status is 1 where a must is
missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import operator
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import scenedetect
import torch
from PIL import Image

from stillmotion.curation.agreement import Agreement, agreement
from stillmotion.curation.observe import observe
from stillmotion.curation.records import Transition
from stillmotion.curation.shots import ShotConfig, ShotObserver, find_transitions
from stillmotion.files import atomic_path
from stillmotion.training.edits import EditConfig, draw_edit, write_edit
from stillmotion.training.footage import make_grain

ROOT = Path(__file__).parents[1]
MEDIA = ROOT / "tests" / "data" / "media"
RESULT = ROOT / "benchmarks" / "results" / "curation_shots.json"
HELD_OUT = 93_000  # the first seed; those from 90_000 to 92_999 have been looked at
PHOTOGRAPHS = (MEDIA / "astronaut.png", ROOT / "examples" / "rocket.jpg")  # training saw two others
SPEED_SIZES = {"360p": (640, 360), "720p": (1280, 720)}
SPEED_SHOTS, GRAIN_LEVELS = 8, 3.0
DETECTORS = {
    "content": scenedetect.ContentDetector,
    "adaptive": scenedetect.AdaptiveDetector,
    "hash": scenedetect.HashDetector,
    "histogram": scenedetect.HistogramDetector,
    "threshold": scenedetect.ThresholdDetector,
}
Finder = Callable[[Path], Sequence[Transition]]


@dataclasses.dataclass(frozen=True, slots=True)
class Labelled:
    """A video with its truth."""

    path: Path
    truth: Sequence[Transition]
    flashes: Sequence[tuple[int, int]]
    frames: int


def ours(path: Path) -> Sequence[Transition]:
    """One pass and its decisions."""
    cfg = ShotConfig()
    return find_transitions(observe(path, [ShotObserver(cfg)]), cfg)


def peer(name: str, path: Path) -> Sequence[Transition]:
    """What a detector of PySceneDetect finds with its own settings."""
    manager = scenedetect.SceneManager()
    manager.add_detector(DETECTORS[name]())
    manager.detect_scenes(scenedetect.open_video(str(path)))
    return [Transition("cut", cut.frame_num - 1, cut.frame_num) for cut in manager.get_cut_list()]


def finders() -> dict[str, Finder]:
    """Ours and the others, by name."""
    return {"ours": ours, **{name: functools.partial(peer, name) for name in DETECTORS}}


def generated(folder: Path, count: int, size: tuple[int, int]) -> list[Labelled]:
    """The held-out videos, rendered into `folder`."""
    photographs = [np.asarray(Image.open(path).convert("RGB")) for path in PHOTOGRAPHS]
    made = []
    for seed in range(HELD_OUT, HELD_OUT + count):
        edit = draw_edit(EditConfig(width=size[0], height=size[1]), seed, photographs)
        path = folder / f"{seed}.mp4"
        truth = edit.transitions if path.exists() else write_edit(path, edit)
        made.append(Labelled(path, truth, edit.flashes, edit.frames))
    return made


def real() -> list[Labelled]:
    """The clips with labels beside them."""
    found = []
    for labels in sorted(MEDIA.glob("*.json")):
        tree = json.loads(labels.read_text(encoding="utf-8"))
        truth = [Transition(**each) for each in tree["transitions"]]
        found.append(Labelled(MEDIA / tree["file"], truth, (), tree["frames"]))
    return found


def judge(find: Finder, videos: Sequence[Labelled]) -> Agreement:
    """The counts over all videos."""
    return functools.reduce(
        operator.add, (agreement(find(each.path), each.truth, each.frames, each.flashes) for each in videos)
    )


def row(found: Agreement) -> dict[str, float | str]:
    """The figures of one detector."""
    return {
        "f1": round(found.f1, 4),
        "precision": round(found.precision, 4),
        "recall": round(found.recall, 4),
        **{kind: f"{found.found[kind]}/{found.truth[kind]}" for kind in found.truth},
        "false": found.false,
        "flashes": f"{found.flash_cuts}/{found.flashes}",
        "mixed_clips": round(found.mixed_clips / max(1, found.clips), 4),
        "lost_footage": round(found.lost_frames / max(1, found.frames), 4),
    }


def speed_videos(folder: Path) -> dict[str, Path]:
    """A video of each size at a usual rate, as it is and with a film's grain, by name."""
    found = {}
    for (name, size), has_grain in itertools.product(SPEED_SIZES.items(), (False, True)):
        cfg = EditConfig(width=size[0], height=size[1], shots=SPEED_SHOTS, fps=(25.0,), uneven=0.0, crf=(23, 23))
        grain = make_grain(np.random.default_rng(0), GRAIN_LEVELS, size) if has_grain else None
        name += ", grain" if has_grain else ""
        found[name] = folder / f"{name}.mp4"
        if not found[name].exists():
            write_edit(found[name], dataclasses.replace(draw_edit(cfg, HELD_OUT - 1), grain=grain))
    return found


def speed(path: Path, pairs: int) -> float:
    """Video seconds a CPU second, ours over ContentDetector's: the median of so many pairs."""
    return statistics.median(
        _cpu_s(functools.partial(peer, "content"), path) / _cpu_s(ours, path) for _ in range(pairs)
    )


def _cpu_s(find: Finder, path: Path) -> float:
    start = time.process_time()
    find(path)
    return time.process_time() - start


def musts(
    table: dict[str, Agreement], films: dict[str, Agreement], ratios: dict[str, float]
) -> dict[str, list[object]]:
    """Each figure: measured, must, aim, and whether the must is met."""
    mine = table["ours"]
    best = max(found.f1 for name, found in table.items() if name != "ours")
    gradual = (
        [mine.found.get(kind, 0) for kind in ("dissolve", "fade")],
        [mine.truth.get(kind, 0) for kind in ("dissolve", "fade")],
    )
    figures: dict[str, tuple[float, float, float, bool]] = {
        "F1, all kinds": (mine.f1, 0.92, 0.96, True),
        "F1 over the best detector's": (mine.f1 / max(best, 1e-9), 1.2, 1.2, True),
        "recall of dissolves and fades": (sum(gradual[0]) / max(1, sum(gradual[1])), 0.95, 0.98, True),
        "recall of wipes": (mine.found.get("wipe", 0) / max(1, mine.truth.get("wipe", 0)), 0.8, 0.9, True),
        "flashes taken for cuts": (mine.flash_cuts / max(1, mine.flashes), 0.02, 0.005, False),
        "clips that hold a transition": (mine.mixed_clips / max(1, mine.clips), 0.03, 0.01, False),
        "good footage lost": (mine.lost_frames / max(1, mine.frames), 0.03, 0.01, False),
    }
    for name in ("content", "adaptive"):
        if films:
            figures[f"F1 on real clips, less {name}'s"] = (films["ours"].f1 - films[name].f1, 0.0, 0.001, True)
    for name, ratio in ratios.items():
        must, aim = (1.5, 2.0) if name.startswith("360p") else (1.3, 1.7)
        figures[f"speed over content's, {name}"] = (ratio, must, aim, True)
    return {
        name: [round(value, 4), must, aim, value >= must if is_floor else value <= must]
        for name, (value, must, aim, is_floor) in figures.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, store; 1 where a must is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=18)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--folder", type=Path, help="keep the rendered videos here, and take those that are there")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--result", type=Path, default=RESULT)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as place:
        kept = asked.folder or Path(place)
        videos = generated(kept, asked.videos, (asked.width, asked.height))
        table = {name: judge(find, videos) for name, find in finders().items()}
        ratios = {}
        if not asked.no_speed:
            for name, path in speed_videos(kept).items():
                ratios[name] = speed(path, pairs=5)
    clips = real()
    films = {name: judge(find, clips) for name, find in finders().items()} if clips else {}
    judged = musts(table, films, ratios)
    tree = {
        "command": "python benchmarks/curation_shots.py"
        f" --videos {asked.videos} --width {asked.width} --height {asked.height}",
        "scenedetect": scenedetect.__version__,
        "seeds": [HELD_OUT, HELD_OUT + asked.videos - 1],
        "generated": {name: row(found) for name, found in table.items()},
        "real": {name: row(found) for name, found in films.items()},
        "speed": ratios,
        "figures": judged,
    }
    with atomic_path(asked.result) as temporary:
        temporary.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    report(tree)
    return int(not all(each[3] for each in judged.values()))


def report(tree: dict) -> None:
    """Print the tables."""
    for part in ("generated", "real"):
        sys.stdout.write(f"{part}\n")
        for name, figures in tree[part].items():
            sys.stdout.write(f"  {name:10s} " + "  ".join(f"{key} {value}" for key, value in figures.items()) + "\n")
    for name, (value, must, aim, is_met) in tree["figures"].items():
        sys.stdout.write(f"{'ok  ' if is_met else 'MISS'} {name}: {value} (must {must}, aim {aim})\n")


if __name__ == "__main__":
    sys.exit(main())
