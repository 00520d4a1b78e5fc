"""What a clip shows, in words: of its middle frame, of the whole, and both put together.

Source: Stable Video Diffusion, appendix C: CoCa on the middle frame, a video captioner, and a language model that sums
both up. Training draws one of the three, half of the time the first.
"""

from __future__ import annotations

import importlib
import random
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from pydantic import Field

from ..config import CHOICE, config
from ..errors import StillmotionError
from .pretrained import Pretrained, folder_of, load, load_processor, version_of
from .records import Number
from .scorer import Look

MIDDLE = 3  # looks of three frames: the second is the middle one
MAX_CAPTION = 1000  # characters that are kept
# The paper's: the image's caption, the video's, the one that sums up.
SHARES = {"image": 0.5, "video": 0.25, "summary": 0.25}
MERGE = (
    "Two descriptions of one video clip follow. Write one plain sentence that says what the clip shows and what moves. "
    "Add nothing that neither says.\nOf one frame: {image}\nOf the video: {video}\nOne sentence:"
)


@config
class ImageCaption:
    """A captioner of single pictures (BLIP, BLIP-2, or any image-text-to-text model) on the middle frame."""

    kind: Literal["image"] = "image"
    network: Pretrained = Pretrained(model="Salesforce/blip2-opt-2.7b")
    prompt: Annotated[str, Field(description="Text before the caption, or the question to a model that chats.")] = ""
    max_tokens: Annotated[int, Field(ge=1, le=512)] = 40


@config
class CocaCaption:
    """CoCa on the middle frame, as in the paper; needs the package open_clip_torch."""

    kind: Literal["coca"] = "coca"
    architecture: str = "coca_ViT-L-14"
    weights: Annotated[str, Field(description="A name that open_clip knows, or the path of a safetensors file.")] = (
        "mscoco_finetuned_laion2b_s13b_b90k"
    )
    device: str = "cpu"


@config
class VideoCaption:
    """A captioner that sees evenly spaced frames as pictures of one message."""

    kind: Literal["video"] = "video"
    network: Pretrained = Pretrained(model="Qwen/Qwen2.5-VL-3B-Instruct")
    frames: Annotated[int, Field(ge=2, le=64)] = 8
    prompt: str = "These are frames of one video, in order. Describe in one sentence what happens."
    max_tokens: Annotated[int, Field(ge=1, le=512)] = 80


@config
class SummaryCaption:
    """A language model that makes one sentence of the picture's caption and the video's."""

    kind: Literal["summary"] = "summary"
    network: Pretrained = Pretrained(model="Qwen/Qwen2.5-1.5B-Instruct")
    max_tokens: Annotated[int, Field(ge=1, le=512)] = 80


CaptionConfig = Annotated[ImageCaption | CocaCaption | VideoCaption | SummaryCaption, CHOICE]


def coca_mark(cfg: CocaCaption) -> list[str]:
    """Tells one CoCa's weights from another's, wherever they lie."""
    weights = Path(cfg.weights)
    return [cfg.architecture, version_of(weights.parent) if weights.is_file() else cfg.weights]


@runtime_checkable
class Captioner(Protocol):
    """A scorer whose one column, `caption.<name>`, is what it says of the clip."""

    name: str
    frames: int

    def score(self, look: Look) -> Mapping[str, Number | tuple[float, ...]]:
        """The caption, on one line."""
        ...


def captioner(cfg: CaptionConfig) -> Captioner:
    """The captioner of these settings, its weights loaded. Raises HubError or CheckpointError where there are none."""
    match cfg:
        case ImageCaption():
            return _ImageCaptioner(cfg)
        case CocaCaption():
            return _CocaCaptioner(cfg)
        case VideoCaption():
            return _VideoCaptioner(cfg)
        case SummaryCaption():
            return _SummaryCaptioner(cfg)


def pick_caption(captions: Mapping[str, str], seed: int, step: int, clip: str) -> tuple[str, str]:
    """Which captioner a training step listens to, and what it said: a pure function of seed, step and clip.

    Each has its share of SHARES ("coca" that of "image"), among those that are there; others share what is left alike.
    Raises StillmotionError where there is no caption.
    """
    names = sorted(name for name, text in captions.items() if text)
    if not names:
        raise StillmotionError(f"the clip {clip} has no caption; expected at least one.")
    shares = [SHARES.get("image" if name == "coca" else name, 0.25) for name in names]
    name = random.Random(f"{seed}/{step}/{clip}").choices(names, shares)[0]
    return name, captions[name]


def one_line(text: str) -> str:
    """A caption without control characters and line breaks, of MAX_CAPTION characters at most."""
    plain = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text)
    return " ".join(plain.split())[:MAX_CAPTION].strip()


class _ImageCaptioner:
    name, frames = "caption.image", MIDDLE

    def __init__(self, cfg: ImageCaption) -> None:
        folder = folder_of(cfg.network)
        self.cfg = cfg
        self.model = load("AutoModelForImageTextToText", folder, cfg.network)
        self.processor = load_processor("AutoProcessor", folder)

    def score(self, look: Look) -> Mapping[str, Number | tuple[float, ...]]:
        text = _said_of(self.model, self.processor, look.frames[len(look.frames) // 2][None], self.cfg)
        return {self.name: text}


class _VideoCaptioner:
    name = "caption.video"

    def __init__(self, cfg: VideoCaption) -> None:
        folder = folder_of(cfg.network)
        self.cfg, self.frames = cfg, cfg.frames
        self.model = load("AutoModelForImageTextToText", folder, cfg.network)
        self.processor = load_processor("AutoProcessor", folder)

    def score(self, look: Look) -> Mapping[str, Number | tuple[float, ...]]:
        return {self.name: _said_of(self.model, self.processor, look.frames, self.cfg)}


class _SummaryCaptioner:
    name, frames = "caption.summary", MIDDLE

    def __init__(self, cfg: SummaryCaption) -> None:
        folder = folder_of(cfg.network)
        self.cfg = cfg
        self.model = load("AutoModelForCausalLM", folder, cfg.network)
        self.tokenizer = load_processor("AutoTokenizer", folder)

    def score(self, look: Look) -> Mapping[str, Number | tuple[float, ...]]:
        """What it makes of the others' captions; the only one there is passes as it is, and none gives none."""
        image = look.captions.get("image") or look.captions.get("coca") or ""
        video = look.captions.get("video", "")
        if not image or not video:
            return {self.name: image or video}
        asked = MERGE.format(image=image, video=video)
        chats = bool(self.tokenizer.chat_template)  # its text begins with what a tokenizer else puts first
        if chats:
            asked = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True
            )
        words = self.tokenizer(asked, return_tensors="pt", return_token_type_ids=False, add_special_tokens=not chats)
        return {self.name: _generated(self.model, self.tokenizer, words, self.cfg.max_tokens, self.cfg.network)}


class _CocaCaptioner:
    name, frames = "caption.coca", MIDDLE

    def __init__(self, cfg: CocaCaption) -> None:
        try:
            open_clip: Any = importlib.import_module("open_clip")
        except ImportError:
            raise StillmotionError(
                "the captioner coca needs a package that is missing; expected it after `pip install open_clip_torch`."
            ) from None
        if Path(cfg.weights).suffix in (".pt", ".pth", ".bin", ".ckpt"):
            raise StillmotionError(f"{cfg.weights} is a pickle; expected a safetensors file, or a name.")
        self.cfg, self.open_clip = cfg, open_clip
        self.model, _, self.transform = open_clip.create_model_and_transforms(
            cfg.architecture, pretrained=cfg.weights, device=cfg.device
        )
        self.model.eval()

    @torch.inference_mode()
    def score(self, look: Look) -> Mapping[str, Number | tuple[float, ...]]:
        picture = self.transform(Image.fromarray(look.frames[len(look.frames) // 2]))
        tokens = self.model.generate(picture[None].to(self.cfg.device))[0]
        text = self.open_clip.decode(tokens).split("<end_of_text>")[0].replace("<start_of_text>", "")
        return {self.name: one_line(text)}


def _said_of(model: Any, processor: Any, frames: UInt8[np.ndarray, "k h w 3"], cfg: ImageCaption | VideoCaption) -> str:
    pictures = [Image.fromarray(frame) for frame in frames]
    if getattr(processor, "chat_template", None):
        content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": cfg.prompt or "Describe this."}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        asked = processor(images=pictures, text=text, return_tensors="pt")
    elif cfg.prompt:
        asked = processor(images=pictures, text=cfg.prompt, return_tensors="pt")
    else:
        asked = processor(images=pictures, return_tensors="pt")
    return _generated(model, processor.tokenizer, asked, cfg.max_tokens, cfg.network)


@torch.inference_mode()
def _generated(model: Any, tokenizer: Any, asked: Any, max_tokens: int, network: Pretrained) -> str:
    given = {
        name: value.to(network.device, model.dtype) if value.is_floating_point() else value.to(network.device)
        for name, value in asked.items()
    }
    tokens: Sequence[Any] = model.generate(**given, max_new_tokens=max_tokens, do_sample=False, num_beams=1)
    # Models that continue a text return it first; captioners without a text in return their words alone.
    length = given["input_ids"].shape[1] if "input_ids" in given else 0
    whole = tokens[0]
    asked_first = length and len(whole) >= length and torch.equal(whole[:length], given["input_ids"][0])
    return one_line(tokenizer.decode(whole[length:] if asked_first else whole, skip_special_tokens=True))
