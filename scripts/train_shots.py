"""Remake the embedded network that finds transitions, from generated videos alone.

    python scripts/train_shots.py [FILE] [key=value ...]

Takes about ten minutes of one core. FILE is where the weights go, by default where the package looks for them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stillmotion.config import load
from stillmotion.curation.shot_network import WEIGHTS
from stillmotion.events import Progress
from stillmotion.training.shots import ShotTraining, train_shot_network

MEDIA = Path(__file__).parents[1] / "tests" / "data" / "media"
PHOTOGRAPHS = ("chelsea.png", "coffee.png")  # those of the figures are others


def main(arguments: list[str]) -> None:
    """Train and write."""
    path = Path(arguments[0]) if arguments and "=" not in arguments[0] else WEIGHTS
    cfg = load(ShotTraining, overrides=[each for each in arguments if "=" in each])
    torch.set_num_threads(1)
    photographs = [np.asarray(Image.open(MEDIA / name).convert("RGB")) for name in PHOTOGRAPHS]
    train_shot_network(cfg, path, photographs, _show)


def _show(event: Progress) -> None:
    if event.done % 20 == 0:
        sys.stderr.write(f"{event.stage} {event.done} of {event.total}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
