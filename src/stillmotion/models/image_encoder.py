"""The CLIP image encoder under transformers' tensor names, and its antialiased input."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import check_sizes, config
from ..errors import UsageError
from ..nn.attention import attend

INPUT_SIZE = 224  # both parents resize to this whatever the tower's configuration says
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training images, per channel in [0, 1]
STD = (0.26862954, 0.26130258, 0.27577711)


@config
class ImageEncoderConfig:
    """Shape of the vision tower; the defaults are CLIP ViT-H/14, 632,076,800 parameters."""

    width: int = 1280
    mlp_width: int = 5120
    layers: int = 32
    heads: int = 16
    patch_size: int = 14
    image_size: int = INPUT_SIZE
    # The width of the embedding, which the U-Net takes as its context.
    projection_width: int = 1024
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_sizes(self, ("width", "mlp_width", "layers", "heads", "patch_size", "image_size", "projection_width"))
        if self.width % self.heads or self.patch_size > self.image_size:
            raise UsageError(
                f"the image encoder has the width {self.width} with {self.heads} heads, and patches of "
                f"{self.patch_size} in an image of {self.image_size}; expected a multiple of the heads, and a patch "
                "that fits."
            )


class Encoded(NamedTuple):
    """What a tower returns, under the name that transformers' towers give it."""

    image_embeds: Float[Tensor, "b d"]


class ImageEncoder(nn.Module):
    """CLIP's vision transformer and the projection of its class token. Source: Radford et al. 2021, section 2.4."""

    def __init__(self, cfg: ImageEncoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.vision_model = VisionTransformer(cfg)
        self.visual_projection = nn.Linear(cfg.width, cfg.projection_width, bias=False)
        if not self.visual_projection.weight.is_meta:  # where torch's normal draws import its compiler, a second's work
            self._draw_weights()

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Encoded:
        """Embed normalised images, as `clip_pixels` makes them. Raises UsageError for another size than the tower's."""
        return Encoded(self.visual_projection(self.vision_model(pixels)))

    def _draw_weights(self) -> None:
        """Normal weights whose deviations fall with width and depth, biases of zero: those that CLIP trained from."""
        width, deep = self.cfg.width**-0.5, (2 * self.cfg.layers) ** -0.5
        embeddings = self.vision_model.embeddings
        nn.init.normal_(embeddings.class_embedding, std=width)
        nn.init.normal_(embeddings.patch_embedding.weight, std=0.02)
        nn.init.normal_(embeddings.position_embedding.weight, std=0.02)
        nn.init.normal_(self.visual_projection.weight, std=width)
        for block in self.vision_model.encoder.layers:
            assert isinstance(block, Block)
            attention, mlp = block.self_attn, block.mlp
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
                _draw(projection, width * deep)
            _draw(attention.out_proj, width)
            _draw(mlp.fc1, (2 * self.cfg.width) ** -0.5)
            _draw(mlp.fc2, width * deep)


class VisionTransformer(nn.Module):
    """Patches to tokens, pre-normalised blocks, and the normalised class token."""

    def __init__(self, cfg: ImageEncoderConfig) -> None:
        super().__init__()
        self.embeddings = PatchEmbeddings(cfg)
        self.pre_layrnorm = nn.LayerNorm(cfg.width, eps=cfg.norm_eps)  # sic: the name in every checkpoint
        self.encoder = Blocks(cfg)
        self.post_layernorm = nn.LayerNorm(cfg.width, eps=cfg.norm_eps)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        tokens = self.encoder(self.pre_layrnorm(self.embeddings(pixels)))
        return self.post_layernorm(tokens[:, 0])


class PatchEmbeddings(nn.Module):
    """A class token and one token a patch, each with the embedding of its place."""

    def __init__(self, cfg: ImageEncoderConfig) -> None:
        super().__init__()
        self.size_px = cfg.image_size
        patches = (cfg.image_size // cfg.patch_size) ** 2
        self.class_embedding = nn.Parameter(torch.empty(cfg.width))
        self.patch_embedding = nn.Conv2d(3, cfg.width, cfg.patch_size, stride=cfg.patch_size, bias=False)
        self.position_embedding = nn.Embedding.from_pretrained(torch.empty(patches + 1, cfg.width), freeze=False)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        if pixels.shape[-2:] != (self.size_px, self.size_px):
            raise UsageError(
                f"the image encoder got {pixels.shape[-1]}x{pixels.shape[-2]} pixels; "
                f"expected {self.size_px}x{self.size_px}."
            )
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        classes = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([classes, patches], dim=1) + self.position_embedding.weight


class Blocks(nn.Module):
    """The blocks in their order."""

    def __init__(self, cfg: ImageEncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(cfg) for _ in range(cfg.layers)])

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        for block in self.layers:
            tokens = block(tokens)
        return tokens


class Block(nn.Module):
    """Attention and a multi-layer perceptron, each behind its norm and added to its input."""

    def __init__(self, cfg: ImageEncoderConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(cfg.width, cfg.heads)
        self.layer_norm1 = nn.LayerNorm(cfg.width, eps=cfg.norm_eps)
        self.mlp = MLP(cfg)
        self.layer_norm2 = nn.LayerNorm(cfg.width, eps=cfg.norm_eps)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        tokens = tokens + self.self_attn(self.layer_norm1(tokens))
        return tokens + self.mlp(self.layer_norm2(tokens))


class SelfAttention(nn.Module):
    """Multi-head attention among the tokens of an image, with biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        q, k, v = (
            project(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(attend(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear maps around the activation of the configuration."""

    def __init__(self, cfg: ImageEncoderConfig) -> None:
        super().__init__()
        self.activation = cfg.activation
        self.fc1 = nn.Linear(cfg.width, cfg.mlp_width)
        self.fc2 = nn.Linear(cfg.mlp_width, cfg.width)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        wide = self.fc1(tokens)
        # OpenAI's own towers were trained with the approximation. Source: openai/CLIP, model.py, QuickGELU.
        return self.fc2(F.gelu(wide) if self.activation == "gelu" else wide * torch.sigmoid(1.702 * wide))


def build_image_encoder(cfg: ImageEncoderConfig) -> ImageEncoder:
    """A vision tower of this shape with fresh weights, in eval mode, on the default device (meta works)."""
    return ImageEncoder(cfg).eval()


def _draw(layer: nn.Linear, deviation: float) -> None:
    nn.init.normal_(layer.weight, std=deviation)
    nn.init.zeros_(layer.bias)


def clip_pixels(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 224 224"]:
    """Images in [-1, 1], of any size, as CLIP's normalised input: blurred against aliasing, squashed, normalised.

    The blur's width follows the shrink factor, the resize is bicubic with aligned corners and not clamped: the
    input that the released weights were trained with. Source: kornia's antialiased resize.
    """
    small = F.interpolate(_blur(images), size=(INPUT_SIZE, INPUT_SIZE), mode="bicubic", align_corners=True)
    mean = torch.tensor(MEAN, dtype=images.dtype, device=images.device)[:, None, None]
    std = torch.tensor(STD, dtype=images.dtype, device=images.device)[:, None, None]
    return ((small + 1) / 2 - mean) / std


def _blur(images: Tensor) -> Tensor:
    """Separable Gaussian with reflected borders; its deviation is half the shrink factor less one."""
    for axis in (2, 3):
        sigma = max((images.shape[axis] / INPUT_SIZE - 1) / 2, 0.001)
        taps = int(max(4 * sigma, 3)) | 1
        offsets = torch.arange(taps, dtype=images.dtype, device=images.device) - taps // 2
        kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).reshape([1, 1, taps, 1] if axis == 2 else [1, 1, 1, taps])
        half = taps // 2
        padding = (0, 0, half, half) if axis == 2 else (half, half, 0, 0)
        channels = images.shape[1]
        images = F.conv2d(_reflect(images, padding), kernel.expand(channels, 1, -1, -1), groups=channels)
    return images


def _reflect(images: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Reflected borders; an image too small to reflect from repeats its edge instead."""
    left, right, top, bottom = padding
    fits = max(left, right) < images.shape[3] and max(top, bottom) < images.shape[2]
    return F.pad(images, padding, mode="reflect" if fits else "replicate")
