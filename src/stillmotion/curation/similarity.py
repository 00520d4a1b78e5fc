"""How well captions fit a clip, how good it looks, and where it lies among others: three answers of one CLIP.

Source: Stable Video Diffusion, appendix C: the first, the middle and the last frame are embedded.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from ..config import config
from ..errors import CheckpointError
from .pretrained import Pretrained, folder_of, load, load_processor
from .records import Number
from .scorer import Look

LOOKED_AT = 3  # first, middle, last


@config
class SimilarityConfig:
    """CLIP over the first, the middle and the last frame."""

    clip: Annotated[Pretrained, Field(description="The CLIP; the paper does not name its own.")] = Pretrained(
        model="openai/clip-vit-large-patch14"
    )
    aesthetic: Annotated[
        Path | None, Field(description="A head on the embeddings that says how good a picture looks, as safetensors.")
    ] = None


class Similarity:
    """Columns `clip.similarity` (and one for each caption), `clip.embedding`, `aesthetic.score`."""

    name = "clip"
    frames = LOOKED_AT

    def __init__(self, cfg: SimilarityConfig) -> None:
        folder = folder_of(cfg.clip)
        self.source = cfg.clip
        self.model = load("CLIPModel", folder, cfg.clip)
        self.processor = load_processor("AutoImageProcessor", folder)
        self.tokenizer = load_processor("AutoTokenizer", folder)
        self.head = None if cfg.aesthetic is None else AestheticHead(cfg.aesthetic)

    def score(self, look: Look) -> Mapping[str, Number | tuple[float, ...]]:
        """Similarities are means over the frames, in [-1, 1]; the embedding is their mean, of length 1."""
        seen = self.embed_pictures(look.frames)
        columns: dict[str, Number | tuple[float, ...]] = {}
        if look.captions:
            said = self.embed_texts(list(look.captions.values()))
            fits = (seen @ said.T).mean(0).tolist()
            columns |= {f"clip.similarity.{name}": fit for name, fit in zip(look.captions, fits, strict=True)}
            columns["clip.similarity"] = sum(fits) / len(fits)
        if self.head is not None:
            columns["aesthetic.score"] = float(self.head(seen).mean())
        columns["clip.embedding"] = tuple(F.normalize(seen.mean(0), dim=0).tolist())
        return columns

    @torch.inference_mode()
    def embed_pictures(self, frames: UInt8[np.ndarray, "k h w 3"]) -> Float[Tensor, "k d"]:
        """CLIP's embeddings of pictures, of length 1, in float32."""
        pixels = self.processor(list(frames), return_tensors="pt")["pixel_values"]
        seen = self.model.vision_model(pixels.to(self.source.device, self.model.dtype)).pooler_output
        return F.normalize(self.model.visual_projection(seen).float(), dim=-1).cpu()

    @torch.inference_mode()
    def embed_texts(self, texts: list[str]) -> Float[Tensor, "n d"]:
        """CLIP's embeddings of texts, of length 1, in float32; a text is cut off where the tower's places end."""
        length = self.model.config.text_config.max_position_embeddings
        words = self.tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        words = {name: words[name].to(self.source.device) for name in ("input_ids", "attention_mask")}
        said = self.model.text_model(**words).pooler_output
        return F.normalize(self.model.text_projection(said).float(), dim=-1).cpu()


class AestheticHead:
    """Layers in a row from an embedding of length 1 to a score, without anything between: LAION's two predictors.

    The file holds `weight` and `bias`, or `layers.0.weight`, `layers.0.bias`, `layers.2.weight` and so on.
    """

    def __init__(self, path: Path) -> None:
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}; expected a head as safetensors.") from None
        names = sorted(
            (name.removesuffix("weight") for name in tensors if name.endswith("weight")),
            key=lambda name: [int(part) for part in name.split(".") if part.isdigit()],
        )
        self.layers = [(tensors[f"{name}weight"].float(), tensors.get(f"{name}bias")) for name in names]
        widths = [tuple(weight.shape) for weight, _ in self.layers]
        follows = all(len(a) == len(b) == 2 and a[0] == b[1] for a, b in itertools.pairwise(widths))
        if not widths or not follows or widths[-1][0] != 1:
            raise CheckpointError(f"{path} has layers of the shapes {widths}; expected a row that ends in one number.")
        self.path, self.width = path, widths[0][1]
        self.version = hashlib.sha256(path.read_bytes()).hexdigest()[:16]

    def check_fits(self, clip: Path) -> None:
        """Raise CheckpointError where the folder of a CLIP says that its embeddings are of another width."""
        try:
            width = json.loads((clip / "config.json").read_text(encoding="utf-8"))["projection_dim"]
        except (OSError, ValueError, KeyError, TypeError):
            return  # loading it says what is wrong with it
        if width != self.width:
            raise CheckpointError(
                f"{self.path} takes embeddings of {self.width} numbers; expected {width}, as CLIP's are."
            )

    def __call__(self, embeddings: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
        """The score of each embedding. Raises CheckpointError where the head is for another CLIP."""
        if embeddings.shape[1] != self.width:
            raise CheckpointError(
                f"{self.path} takes embeddings of {self.width} numbers; expected {embeddings.shape[1]}, as CLIP's are."
            )
        for weight, bias in self.layers:
            embeddings = F.linear(embeddings, weight, None if bias is None else bias.float())
        return embeddings[:, 0]
