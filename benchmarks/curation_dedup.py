"""Near-duplicates: how many are found, and how many of those that are found are true.

    python benchmarks/curation_dedup.py tests/data/media/*.mp4

Clips of four seconds are cut from the videos that are given, and rendered from seeds that nothing was tuned on. Every
clip is copied in each of the ways that the table names, and every copy is looked for among all originals. What is
found and is another clip counts against precision.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from stillmotion.curation.dedup import Candidate, duplicates, fingerprint
from stillmotion.files import atomic_path
from stillmotion.media.formats import Encoding
from stillmotion.media.video import read_video, write_video
from stillmotion.training.toys import ToyConfig, render_clip

MUST_RECALL, MUST_PRECISION = 0.98, 0.99
SECONDS = 4.0
TOYS = ToyConfig(width=256, height=160, frames=28, leaves=0.4)
FIRST_SEED = 810_000
Change = Callable[[np.ndarray, int], np.ndarray]


def scaled(frames: np.ndarray, factor: float) -> np.ndarray:
    return np.stack([cv2.resize(f, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) for f in frames])


def cropped(frames: np.ndarray, number: int) -> np.ndarray:
    """Without a twentieth of each side's length, at one of the corners or from all around."""
    height, width = frames.shape[1:3]
    down, right = ((0, 0), (1, 1), (0, 1), (1, 0), (0.5, 0.5))[number % 5]
    top, left = round(height * 0.05 * down), round(width * 0.05 * right)
    return frames[:, top : top + round(height * 0.95), left : left + round(width * 0.95)]


def with_logo(frames: np.ndarray, number: int) -> np.ndarray:
    frames = frames.copy()
    height, width = frames.shape[1:3]
    top, left = ((0.05, 0.75), (0.8, 0.05), (0.05, 0.05))[number % 3]
    box = (round(width * left), round(height * top), round(width * 0.2), round(height * 0.14))
    colour = tuple(int(value) for value in np.random.default_rng(number).integers(0, 256, 3))
    for frame in frames:
        cv2.rectangle(frame, box, colour, -1)
        cv2.putText(frame, "LOGO", (box[0], box[1] + box[3]), cv2.FONT_HERSHEY_DUPLEX, box[3] / 30, (255, 255, 255))
    return frames


def fewer(frames: np.ndarray, number: int) -> np.ndarray:
    """Three fifths or half of the frames."""
    return frames[np.arange(0, len(frames), 5 / 3 if number % 2 else 2).astype(int)]


CHANGES: dict[str, Change] = {
    "re-encoded": lambda frames, number: frames,
    "half the size": lambda frames, number: scaled(frames, 0.5),
    "three quarters": lambda frames, number: scaled(frames, 0.75),
    "cropped by 5 %": cropped,
    "fewer frames": fewer,
    "logo": with_logo,
    "brighter": lambda frames, number: np.clip(frames * 1.15 + 8, 0, 255).astype(np.uint8),
    "all of these": lambda frames, number: with_logo(cropped(fewer(scaled(frames, 0.75), number), number), number),
}


def originals(videos: list[Path], toys: int) -> dict[str, np.ndarray]:
    """Clips that do not overlap, by name. A video that repeats itself gives duplicates of its own: leave it out."""
    clips = {}
    for path in videos:
        video = read_video(path)
        length = round(SECONDS * video.fps)
        for first in range(length // 3, len(video.frames) - length, length):
            clips[f"{path.stem}-{first}"] = video.frames[first : first + length]
    for seed in range(FIRST_SEED, FIRST_SEED + toys):
        frames = render_clip(TOYS, seed).frames.permute(0, 2, 3, 1).numpy()
        clips[f"toy-{seed}"] = ((frames + 1) * 127.5).round().astype(np.uint8)
    return clips


def encoded(frames: np.ndarray, folder: Path) -> np.ndarray:
    path = folder / "copy.mp4"
    write_video(path, frames, 25, Encoding(quality=20), overwrite=True)
    return read_video(path).frames


def candidate(name: str, frames: np.ndarray, pixels: int) -> Candidate:
    text = base64.b64encode(fingerprint(frames).tobytes()).decode()
    return Candidate(id=name, pixels=pixels, bytes=1, pictures=text)


def counted(
    clips: dict[str, np.ndarray], known: list[Candidate], kept: dict[str, str], change: Change, folder: Path
) -> dict[str, float]:
    """Recall and precision of the copies made by one change; originals taken for each other are wrong finds too.

    `kept` is what `duplicates` says of the originals, which are not compared with one another again for each copy.
    """
    right, wrong = 0, len(kept)
    for number, (name, frames) in enumerate(clips.items()):
        copy = candidate("copy", encoded(change(frames, number), folder), 1)
        # The group's first, as it would be kept.
        found = min((kept.get(one.id, one.id) for one in known if duplicates([one, copy])), default=None)
        right += found == name
        wrong += found not in (name, None)
        if found != name:
            print(f"  {name} was taken for {found}", flush=True)
    found = right + wrong
    return {"recall": right / len(clips), "precision": right / found if found else 0.0, "clips": len(clips)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--toys", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/curation_dedup.json"))
    given = parser.parse_args()
    clips = originals(given.videos, given.toys)
    known = [candidate(name, frames, 2) for name, frames in clips.items()]
    kept, rows = duplicates(known), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, change in CHANGES.items():
            rows[name] = row = counted(clips, known, kept, change, Path(folder))
            print(f"{name:16} recall {row['recall']:.3f}  precision {row['precision']:.3f}", flush=True)
    right = sum(row["recall"] * row["clips"] for row in rows.values())
    recall = right / sum(row["clips"] for row in rows.values())
    precision = right / sum(row["recall"] * row["clips"] / max(row["precision"], 1e-9) for row in rows.values())
    print(
        f"{'together':16} recall {recall:.3f} (must {MUST_RECALL})  precision {precision:.3f} (must {MUST_PRECISION})"
    )
    tree = {"command": " ".join(["python", *sys.argv]), "recall": recall, "precision": precision, "changes": rows}
    with atomic_path(given.out) as temporary:
        temporary.write_text(json.dumps(tree, indent=1) + "\n")
    return 0 if recall >= MUST_RECALL and precision >= MUST_PRECISION else 1


if __name__ == "__main__":
    sys.exit(main())
