"""CRAFT, the text detector that the paper used, for weights that a user has.

Source: Baek et al. 2019, "Character Region Awareness for Text Detection". Names of tensors are those of the authors'
release, in safetensors.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import config
from ..errors import CheckpointError
from ..evaluation.opencv import cv2

LONGEST_PX = 1280
MULTIPLE = 32
STRIDE = 2
# Means and deviations of ImageNet's colours, in levels.
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# The authors' defaults: a box must reach the first somewhere, and ends where both others do.
TEXT_PEAK, TEXT_EDGE, LINK_EDGE = 0.7, 0.4, 0.4
LEAST_CELLS = 10

Box: TypeAlias = Float[np.ndarray, "4 2"]


@config
class CraftConfig:
    """Channels of the first block; the others have 2, 4, 8 and 16 times as many."""

    width: int = 64


class Craft(nn.Module):
    """VGG16 with batch normalisation, its levels joined from coarse to fine, and two maps at half the size."""

    def __init__(self, cfg: CraftConfig) -> None:
        super().__init__()
        w = cfg.width
        self.basenet = _Vgg(w)
        self.upconv1 = _Join(16 * w + 8 * w, 8 * w, 4 * w)
        self.upconv2 = _Join(4 * w + 8 * w, 4 * w, 2 * w)
        self.upconv3 = _Join(2 * w + 4 * w, 2 * w, w)
        self.upconv4 = _Join(w + 2 * w, w, w // 2)
        half, quarter = w // 2, w // 4
        self.conv_cls = nn.Sequential(
            nn.Conv2d(half, half, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(half, quarter, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(quarter, quarter, 1),
            nn.ReLU(),
            nn.Conv2d(quarter, 2, 1),
        )

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 2 h2 w2"]:
        """How surely each place is the middle of a character, and how surely between two of one word."""
        *fine, last, coarsest = self.basenet(pixels)
        hidden = self.upconv1(torch.cat([coarsest, last], 1))
        for join, level in zip((self.upconv2, self.upconv3, self.upconv4), reversed(fine), strict=True):
            hidden = F.interpolate(hidden, size=level.shape[2:], mode="bilinear", align_corners=False)
            hidden = join(torch.cat([hidden, level], 1))
        return self.conv_cls(hidden)


class _Vgg(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in (w, w, 0, 2 * w, 2 * w, 0, 4 * w, 4 * w, 4 * w, 0, 8 * w, 8 * w, 8 * w, 0, 8 * w, 8 * w):
            if not width:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        ends = (0, 12, 19, 29, 39)
        parts = [_numbered(layers, start, end) for start, end in itertools.pairwise(ends)]
        self.slice1, self.slice2, self.slice3, self.slice4 = parts
        self.slice5 = nn.Sequential(
            nn.MaxPool2d(3, 1, 1),
            nn.Conv2d(8 * w, 16 * w, 3, padding=6, dilation=6),
            nn.Conv2d(16 * w, 16 * w, 1),
        )

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Levels from fine to coarse."""
        levels = []
        hidden = pixels
        for part in (self.slice1, self.slice2, self.slice3):
            hidden = part(hidden)
            # The original rectifies in place, at the start of its next part, what it has kept of this one.
            hidden = F.relu(hidden)
            levels.append(hidden)
        hidden = self.slice4(hidden)
        return [*levels, hidden, self.slice5(hidden)]


def _numbered(layers: list[nn.Module], start: int, end: int) -> nn.Sequential:
    part = nn.Sequential()
    for place in range(start, end):
        part.add_module(str(place), layers[place])
    return part


class _Join(nn.Module):
    def __init__(self, before: int, middle: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(before, middle, 1),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, after, 3, padding=1),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        return self.conv(hidden)


def load_craft(folder: Path) -> Craft:
    """CRAFT from the one safetensors file of a folder. Raises CheckpointError for another model's, or none."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if len(files) != 1:
        raise CheckpointError(f"{folder} has {len(files)} safetensors files; expected one, with CRAFT's weights.")
    try:
        tensors = {name.removeprefix("module."): each for name, each in load_file(files[0]).items()}
        network = Craft(CraftConfig(width=len(tensors["basenet.slice1.0.weight"])))
        network.load_state_dict({name: each.float() for name, each in tensors.items()}, strict=False)
        missing = sorted(name for name in network.state_dict() if name not in tensors and "num_batches" not in name)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{files[0]} cannot be read: {error}; expected CRAFT's weights.") from None
    if missing:
        raise CheckpointError(f"{files[0]} has no {missing[0]}; expected CRAFT's weights.")
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def find_craft_boxes(network: Craft, picture: UInt8[np.ndarray, "h w 3"], device: str = "cpu") -> list[Box]:
    """The corners of every word, in pixels of the picture."""
    height, width = picture.shape[:2]
    scale = min(1.0, LONGEST_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    seen = cv2.resize(np.ascontiguousarray(picture), size).astype(np.float32)
    seen = (seen - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    padded = cv2.copyMakeBorder(seen, 0, -size[1] % MULTIPLE, 0, -size[0] % MULTIPLE, cv2.BORDER_CONSTANT)
    maps = network(torch.from_numpy(padded).permute(2, 0, 1)[None].to(device))[0].float().cpu().numpy()
    boxes = words_of(maps[0], maps[1])
    return [box * np.array([STRIDE * width / size[0], STRIDE * height / size[1]]) for box in boxes]


def words_of(text: Float[np.ndarray, "h w"], link: Float[np.ndarray, "h w"]) -> list[Box]:
    """Boxes around words, in cells of the maps. Source: section 3.3 of the paper, and the authors' release."""
    joined = ((text > TEXT_EDGE) | (link > LINK_EDGE)).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=4)
    boxes = []
    for label in range(1, count):
        width, height, cells = (int(each) for each in stats[label][2:])
        here = labels == label
        if cells < LEAST_CELLS or text[here].max() < TEXT_PEAK:
            continue
        letters = (here & ((link <= LINK_EDGE) | (text > TEXT_EDGE))).astype(np.uint8)
        # Characters' maps end inside of them; the paper widens them by their size.
        reach = 1 + int(np.sqrt(cells * min(width, height) / (width * height)) * 2)
        letters = cv2.dilate(letters, np.ones((reach, reach), np.uint8))
        boxes.append(cv2.boxPoints(cv2.minAreaRect(np.argwhere(letters)[:, ::-1].astype(np.float32))))
    return boxes
