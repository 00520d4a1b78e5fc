"""Motion scores against known motion, text areas against rendered text, and what the samples of a pass cost.

    python benchmarks/curation_scores.py                       # all figures, in some minutes of one core
    python benchmarks/curation_scores.py --only text --pictures 100

Photographs and seeds are others than training saw, and so is one of the fonts. Run it with OMP_NUM_THREADS=1. Prints a
table, brings benchmarks/results/curation_scores.json up to date, and ends with 1 where a must is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from PIL import Image

from stillmotion.curation.observe import Observed, Observer, observe
from stillmotion.curation.records import Span, Video
from stillmotion.curation.samples import SampleObserver, span_scores
from stillmotion.curation.shots import ShotObserver
from stillmotion.curation.text_area import PAPER_LIMIT, OwnTextFinder, text_area
from stillmotion.files import atomic_path
from stillmotion.media.formats import Encoding
from stillmotion.media.scan import Sight
from stillmotion.media.video import write_video
from stillmotion.training.leaves import dead_leaves
from stillmotion.training.lettering import FACES, HELD_OUT_FACES, Picture, draw_lettered

ROOT = Path(__file__).parents[1]
MEDIA = ROOT / "tests" / "data" / "media"
RESULT = ROOT / "benchmarks" / "results" / "curation_scores.json"
PHOTOGRAPHS = (MEDIA / "astronaut.png", ROOT / "examples" / "rocket.jpg")  # of text: training saw two others
MOTION_PHOTOGRAPHS = (MEDIA / "astronaut.png", MEDIA / "chelsea.png", MEDIA / "coffee.png")
SKY = ROOT / "examples" / "rocket.jpg"  # without texture but for a few towers
HELD_OUT = 10**8  # the first seed
WITHOUT_TEXT = ("car_road.mp4", "bottle_line.mp4")
FPS = 4.0  # of the moving test pictures: two samples a second see every second one
HEIGHTS = (180, 360, 720, 1080)
SMOOTH = (6.0, 12.0, 25.0)  # blurs of noise, in pixels of 360
Figure = tuple[float, float, float, bool]  # measured, must, aim, whether more is better


def photographs(paths: Sequence[Path]) -> list[Picture]:
    """The pictures in RGB."""
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def canvases() -> list[np.ndarray]:
    """Grey pictures of 1150 pixels across, to film: photographs, leaves, smooth textures."""
    made = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in photographs((*MOTION_PHOTOGRAPHS, SKY))]
    made += [((dead_leaves(seed, 320, 200).mean(0).numpy() + 1) * 127.5).astype(np.uint8) for seed in (1, 2)]
    dice = np.random.default_rng(0)
    for sigma in SMOOTH:
        grain = cv2.GaussianBlur(dice.normal(size=(720, 1150)).astype(np.float32), (0, 0), sigma)
        made.append(cv2.normalize(grain, grain, 20, 230, cv2.NORM_MINMAX).astype(np.uint8))
    return [cv2.resize(each, None, fx=1150 / each.shape[1], fy=1150 / each.shape[1]) for each in made]


def filmed(canvas: np.ndarray, height: int, start: complex, step: complex) -> np.ndarray:
    """Three frames of 16:9 from the middle; the content moves by `step` heights from each to the next."""
    scale = height / 360
    corner = complex(canvas.shape[1] - 640, canvas.shape[0] - 360) * scale / 2
    size = (height * 16 // 9, height)
    blurred = cv2.GaussianBlur(canvas, (0, 0), 0.5 / scale) if scale < 1 else canvas
    frames = []
    for number in range(3):
        place = (start + (number - 1) * step) * height - corner
        matrix = np.array([[scale, 0, place.real], [0, scale, place.imag]])
        frames.append(cv2.warpAffine(blurred, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))
    return np.stack(frames)


def score_of(frames: np.ndarray) -> float:
    """The motion score of grey frames, in heights a sample."""
    observer = SampleObserver()
    for number, luma in enumerate(frames):
        observer.see(Sight(number, number / 2, number == 0, False, luma, None, None, True, number))
    whole = np.zeros(len(frames))
    observed = Observed(whole, whole > 0, whole > 0, observer.columns())
    height, width = frames.shape[1:]
    video = Video("", "", 1, "mp4", "h264", "yuv420p", width, height, 0, 2.0, len(frames), 1.0)
    found = span_scores(observed, Span(0, len(frames) - 1), video)["motion"]
    assert isinstance(found, float)
    return found / 2


def motion_figures(count: int) -> dict[str, Figure]:
    """Against known translation of 0 to 0.2 heights a sample, with noise, as the goals say."""
    dice, scenes = np.random.default_rng(HELD_OUT), canvases()
    true, found, changes, still, slow, sky = [], [], [], [], [], []
    for number in range(count):
        canvas = scenes[number % len(scenes)]
        start, turn = complex(*dice.uniform(-0.1, 0.1, 2)), np.exp(2j * np.pi * dice.uniform())
        speed = dice.uniform(0, 0.2)
        true.append(speed)
        sky.append(number % len(scenes) == len(MOTION_PHOTOGRAPHS))
        found.append(score_of(noisy(dice, filmed(canvas, 360, start, speed * turn))))
        each = [score_of(filmed(canvas, height, start, max(speed, 0.01) * turn)) for height in HEIGHTS]
        changes.append((max(each) - min(each)) / statistics.median(each))
        still.append(score_of(coded(noisy(dice, filmed(canvas, 360, start, 0j), is_flickering=True))))
        slow.append(score_of(coded(noisy(dice, filmed(canvas, 360, start, dice.uniform(0.005, 0.02) * turn)))))
    seen = [pair for pair, empty in zip(zip(true, found, strict=True), sky, strict=True) if not empty]
    return {
        "motion: Spearman": (spearman(*zip(*seen, strict=True)), 0.98, 0.99, True),
        "motion: Spearman, with a ninth empty sky": (spearman(true, found), 0.9, 0.98, True),
        "motion: AUC of still against slow": (auc(still, slow), 0.99, 0.99, True),
        "motion: change under rescaling, median": (statistics.median(changes), 0.1, 0.1, False),
        "motion: change under rescaling, 95th of 100": (float(np.quantile(changes, 0.95)), 0.1, 0.1, False),
    }


def noisy(dice: np.random.Generator, frames: np.ndarray, is_flickering: bool = False) -> np.ndarray:
    """With a sensor's noise of two levels, and light that flickers by up to a tenth."""
    light = dice.uniform(0.9, 1.1, (len(frames), 1, 1)) if is_flickering else 1.0
    return np.clip(frames * light + dice.normal(0, 2, frames.shape), 0, 255).astype(np.uint8)


def coded(frames: np.ndarray) -> np.ndarray:
    """As H.264 of a low rate leaves them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mp4"
        write_video(path, np.repeat(frames[..., None], 3, -1), 25, Encoding(quality=34))
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


def text_figures(count: int) -> dict[str, Figure]:
    """Against rendered text, half of the pictures in a font that training never saw."""
    finder, pictures = OwnTextFinder(), photographs(PHOTOGRAPHS)
    true, found = [], []
    for number in range(count):
        faces = HELD_OUT_FACES if number % 2 else FACES
        drawn = draw_lettered(HELD_OUT + number, (512, 288), pictures, faces)
        true.append(drawn.area)
        found.append(text_area(drawn.picture, finder))
    errors = np.abs(np.array(true) - found)
    over = [value for value, area in zip(found, true, strict=True) if area > PAPER_LIMIT]
    under = [value for value, area in zip(found, true, strict=True) if area <= PAPER_LIMIT]
    bare = [value for value, area in zip(found, true, strict=True) if area == 0]
    return {
        "text: mean absolute error of area": (float(errors.mean()), 0.02, 0.01, False),
        "text: the same, unseen font": (float(errors[1::2].mean()), 0.02, 0.01, False),
        "text: AUC at 7 %": (auc(under, over), 0.97, 0.99, True),
        "text: area found where there is none": (float(np.mean(bare)), 0.02, 0.01, False),
        "text: area found in films without text": (_false_area(finder), 0.02, 0.01, False),
    }


def _false_area(finder: OwnTextFinder) -> float:
    areas = []
    for name in WITHOUT_TEXT:
        with av.open(str(MEDIA / name)) as container:
            some = itertools.islice(container.decode(video=0), 0, None, 150)
            areas += [text_area(frame.to_ndarray(format="rgb24"), finder) for frame in some]
    return float(np.mean(areas))


def cost_figures(pairs: int, path: Path) -> dict[str, Figure]:
    """CPU time of a pass over a bare decode: with the samples alone, and with shots too."""

    def cpu(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    def watched(makers: Sequence[Callable[[], Observer]]) -> Callable[[], object]:
        return lambda: observe(path, [make() for make in makers])

    def ratio(work: Callable[[], object], against: Callable[[], object]) -> float:
        return statistics.median(cpu(work) / cpu(against) for _ in range(pairs))

    return {
        "samples over a bare decode": (ratio(watched([SampleObserver]), lambda: _decoded(path)), 1.4, 1.2, False),
        "samples over an empty pass": (ratio(watched([SampleObserver]), watched([])), 1.08, 1.08, False),
        "shots and samples over a bare decode": (
            ratio(watched([ShotObserver, SampleObserver]), lambda: _decoded(path)),
            1.4,
            1.2,
            False,
        ),
    }


def _decoded(path: Path) -> int:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """The correlation of ranks; nothing here is ever equal."""
    ranks = np.stack([np.argsort(np.argsort(each)) for each in (one, other)])
    return float(np.asarray(np.corrcoef(ranks))[0, 1])


def auc(low: Sequence[float], high: Sequence[float]) -> float:
    """The share of pairs in which the one of `high` is larger; equal ones count half."""
    differences = np.array(high)[:, None] - np.array(low)[None]
    return float((differences > 0).mean() + (differences == 0).mean() / 2)


def figures(arguments: argparse.Namespace) -> Iterator[tuple[str, Figure]]:
    """All that were asked for."""
    if "motion" in arguments.only:
        yield from motion_figures(arguments.scenes).items()
    if "text" in arguments.only:
        yield from text_figures(arguments.pictures).items()
    if "cost" in arguments.only:
        for name in arguments.films:
            for label, figure in cost_figures(arguments.pairs, MEDIA / name).items():
                yield f"{name}: {label}", figure


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["motion", "text", "cost"])
    parser.add_argument("--scenes", type=int, default=90)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--films", nargs="+", default=["bottle_line.mp4", "car_road.mp4", "sintel_trailer_30s.mp4"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    found, is_met = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}, True
    for name, (value, must, aim, is_more) in figures(arguments):
        met = value >= must if is_more else value <= must
        is_met &= met
        found[name] = {"measured": round(value, 4), "must": must, "aim": aim, "met": bool(met)}
        print(f"{name:48} {value:8.4f}   must {must:<5} aim {aim:<5} {'' if met else 'MISSED'}", flush=True)
    with atomic_path(RESULT) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
