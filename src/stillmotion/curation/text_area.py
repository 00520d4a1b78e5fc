"""How much of a clip is covered by text: captions, credits, logos, signs.

Source: Stable Video Diffusion, appendix C: boxes of text on the first, the middle and the last frame; clips with more
than 7 % are dropped. The paper says neither whether boxes that overlap count twice nor how three frames become one
number. Here a place counts once, and the frame with the most text counts: what is seen once is learned from.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from ..config import CHOICE, config
from ..errors import StillmotionError
from ..evaluation.opencv import cv2
from .pretrained import Pretrained, folder_of, version_of
from .records import Number
from .scorer import Look
from .text_craft import find_craft_boxes, load_craft
from .text_network import COARSEST, STRIDE, WEIGHTS, load_text_network

LOOKED_AT = 3  # first, middle, last
PAPER_LIMIT = 0.07  # of the frame
# Of what the network sees. At the first, letters of a fortieth of the height are 7 pixels high; the second is for those
# that are too large for what it looks at there.
SHORTER_PX = (288, 192)
LONGEST = 4  # times the shorter side; what is longer is squeezed
THRESHOLD = 0.6

Picture = UInt8[np.ndarray, "h w 3"]
Corners = Float[np.ndarray, "n 4 2"]  # of boxes, in pixels, in order around each


@config
class OwnText:
    """The embedded network, trained on rendered text."""

    kind: Literal["own"] = "own"


@config
class CraftText:
    """CRAFT, as in the paper; its weights as a folder, or hub id, with a safetensors file of the original's names."""

    kind: Literal["craft"] = "craft"
    network: Pretrained


@config
class PaddleText:
    """PP-OCR's detector through the package rapidocr, which brings the weights along."""

    kind: Literal["ppocr"] = "ppocr"


TextConfig = Annotated[OwnText | CraftText | PaddleText, CHOICE]
OWN = OwnText()


@runtime_checkable
class TextFinder(Protocol):
    """Says where the text of a picture is."""

    version: str

    def find(self, picture: Picture) -> Bool[np.ndarray, "h2 w2"]:
        """Which parts of the picture are text, on a grid of any size that covers it."""
        ...


class TextArea:
    """Columns `text.area`, the share of the frame with the most text, which the paper's rule reads, and
    `text.area_mean` over the frames."""

    name = "text"
    columns = ("text.area", "text.area_mean")
    frames = LOOKED_AT

    def __init__(self, cfg: TextConfig = OWN) -> None:
        self.finder = text_finder(cfg)
        self.version = f"2-{cfg.kind}-{self.finder.version}"

    def score(self, look: Look) -> Mapping[str, Number | tuple[float, ...]]:
        """Both shares are of the whole frame, in [0, 1]."""
        areas = [text_area(frame, self.finder) for frame in look.frames]
        return {"text.area": max(areas), "text.area_mean": sum(areas) / len(areas)}


def text_area(picture: Picture, finder: TextFinder) -> float:
    """The share of a picture that is covered by boxes of text."""
    return float(finder.find(picture).mean())


def text_finder(cfg: TextConfig = OWN) -> TextFinder:
    """The detector of these settings. Raises StillmotionError where its package or its weights are missing."""
    match cfg:
        case OwnText():
            return OwnTextFinder()
        case CraftText():
            return _CraftFinder(cfg)
        case PaddleText():
            return _PaddleFinder()


class OwnTextFinder:
    """The embedded network."""

    def __init__(self) -> None:
        if not WEIGHTS.is_file():
            raise StillmotionError(f"{WEIGHTS} is missing; expected the weights that are installed with the package.")
        self.network = load_text_network()
        self.version = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:16]

    def find(self, picture: Picture) -> Bool[np.ndarray, "h2 w2"]:
        """Cells of STRIDE pixels of a picture of the first of SHORTER_PX."""
        grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
        fine, *others = (self.likely(grey, shorter_px) for shorter_px in SHORTER_PX)
        for other in others:
            fine = np.maximum(fine, cv2.resize(other, fine.shape[::-1], interpolation=cv2.INTER_LINEAR))
        return fine >= THRESHOLD

    @torch.inference_mode()
    def likely(self, grey: UInt8[np.ndarray, "h w"], shorter_px: int) -> Float[np.ndarray, "h2 w2"]:
        """The probability that each cell is text, as the network sees it at this size."""
        height, width = grey.shape
        aspect = min(LONGEST, max(1 / LONGEST, width / height))
        size = round(shorter_px * max(aspect, 1)), round(shorter_px * max(1 / aspect, 1))
        method = cv2.INTER_AREA if size[0] < width else cv2.INTER_LINEAR
        grey = cv2.resize(grey, size, interpolation=method)
        right, below = -size[0] % COARSEST, -size[1] % COARSEST
        padded = cv2.copyMakeBorder(grey, 0, below, 0, right, cv2.BORDER_REPLICATE)
        pixels = torch.from_numpy(padded)[None, None].float() / 127.5 - 1
        found = self.network(pixels)[0].sigmoid().numpy()
        return found[: -(-size[1] // STRIDE), : -(-size[0] // STRIDE)]


class _CraftFinder:
    def __init__(self, cfg: CraftText) -> None:
        folder = folder_of(cfg.network)
        self.network, self.device = load_craft(folder).to(cfg.network.device), cfg.network.device
        self.version = version_of(folder)

    def find(self, picture: Picture) -> Bool[np.ndarray, "h2 w2"]:
        return filled(find_craft_boxes(self.network, picture, self.device), picture.shape[0], picture.shape[1])


class _PaddleFinder:
    def __init__(self) -> None:
        try:
            rapidocr: Any = importlib.import_module("rapidocr")
        except ImportError:
            raise StillmotionError(
                "the text detector ppocr needs a package that is missing; expected it after "
                "`pip install rapidocr onnxruntime`."
            ) from None
        self.engine = rapidocr.RapidOCR()
        self.version = str(importlib.metadata.version("rapidocr"))

    def find(self, picture: Picture) -> Bool[np.ndarray, "h2 w2"]:
        # It takes pictures in OpenCV's order of colours.
        found = self.engine(picture[..., ::-1], use_det=True, use_cls=False, use_rec=False).boxes
        return filled([] if found is None else found, picture.shape[0], picture.shape[1])


def filled(boxes: Sequence[Float[np.ndarray, "4 2"]] | Corners, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """Which pixels of a picture lie in any of these boxes; corners are in pixels, and may lie outside."""
    covered = np.zeros((height, width), np.uint8)
    for box in boxes:
        cv2.fillConvexPoly(covered, np.round(np.asarray(box, np.float64)).astype(np.int32), 1)
    return covered.astype(bool)
