"""Remake the embedded network that finds text, from rendered text alone.

    python scripts/train_text.py [FILE] [key=value ...]

Takes about ten minutes of one core, and OpenCV 5, which carries the fonts. FILE is where the weights go, by default
where the package looks for them. `init=FILE rate=1.5e-3 first_seed=1000000` goes on from other weights, with other
pictures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stillmotion.config import load
from stillmotion.curation.text_network import WEIGHTS
from stillmotion.events import Progress
from stillmotion.training.text_area import TextTraining, train_text_network

MEDIA = Path(__file__).parents[1] / "tests" / "data" / "media"
PHOTOGRAPHS = ("chelsea.png", "coffee.png")  # those of the figures are others


def main(arguments: list[str]) -> None:
    """Train and write."""
    path = Path(arguments[0]) if arguments and "=" not in arguments[0] else WEIGHTS
    cfg = load(TextTraining, overrides=[each for each in arguments if "=" in each])
    torch.set_num_threads(1)
    photographs = [np.asarray(Image.open(MEDIA / name).convert("RGB")) for name in PHOTOGRAPHS]
    train_text_network(cfg, path, photographs, _show)


def _show(event: Progress) -> None:
    if event.done % 50 == 0:
        sys.stderr.write(f"{event.stage} {event.done} of {event.total}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
