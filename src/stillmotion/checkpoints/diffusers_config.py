"""The diffusers folder's JSON configurations: to our shapes, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field

from ..config import config, parse
from ..errors import CheckpointError, UsageError
from ..models.autoencoder import AutoencoderConfig
from ..models.image_encoder import ImageEncoderConfig
from ..models.unet import UNetConfig
from .rules import listed

T = TypeVar("T")
Size = Annotated[int, Field(ge=1)]

VERSION = "0.24.0.dev0"  # of diffusers, in the released folders
UNET = "UNetSpatioTemporalConditionModel"
TOWER = "CLIPVisionModelWithProjection"
ATTENTION_DOWN, PLAIN_DOWN = "CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"
ATTENTION_UP, PLAIN_UP = "CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"
GROUPS = 32  # of every norm that this package builds; diffusers' AutoencoderKL lets it vary
AUTOENCODERS = {"temporal": "AutoencoderKLTemporalDecoder", "image": "AutoencoderKL"}


# What a document holds that matters here; whatever else stands in one is left alone. What it leaves out has the value
# that diffusers, or transformers, would give it.


@config
class _UNet:
    block_out_channels: tuple[Size, ...]
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    num_attention_heads: Size | tuple[Size, ...]
    in_channels: Size = 8
    out_channels: Size = 4
    layers_per_block: Size | tuple[Size, ...] = 2
    transformer_layers_per_block: Size | tuple[Size, ...] = 1
    cross_attention_dim: Size | tuple[Size, ...] = 1024
    addition_time_embed_dim: Size = 256
    projection_class_embeddings_input_dim: Size = 768
    num_frames: Size = 25
    sample_size: Size | None = None
    # Ours: written where it is not the original's.
    norm_eps: Literal["original", "diffusers"] = "original"


@config
class _Autoencoder:
    block_out_channels: tuple[Size, ...]
    layers_per_block: Size
    latent_channels: Size
    in_channels: Size = 3
    down_block_types: tuple[str, ...] = ()
    up_block_types: tuple[str, ...] = ()
    norm_num_groups: int = GROUPS
    scaling_factor: float = AutoencoderConfig().scaling_factor
    sample_size: Size = AutoencoderConfig().sample_size
    force_upcast: bool | None = True


@config
class _ImageEncoder:
    architectures: tuple[str, ...] | None = None
    hidden_size: Size = 768
    intermediate_size: Size = 3072
    num_hidden_layers: Size = 12
    num_attention_heads: Size = 12
    patch_size: Size = 32
    image_size: Size = 224
    projection_dim: Size = 512
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


def unet_config(document: Mapping[str, Any], where: Path) -> UNetConfig:
    """The U-Net of a diffusers configuration.

    Raises CheckpointError for another class, unknown blocks or a missing key, ConfigError for a bad value.
    """
    expect_class(document, [UNET], where)
    found = _read(_UNet, document, where)
    levels = len(found.block_out_channels)
    attention = _attention(found.down_block_types, ATTENTION_DOWN, PLAIN_DOWN, where)
    if _attention(found.up_block_types, ATTENTION_UP, PLAIN_UP, where)[::-1] != attention:
        raise CheckpointError(f"{where} has attention at other levels up than down; expected the same levels.")
    width = found.addition_time_embed_dim
    numbers, rest = divmod(found.projection_class_embeddings_input_dim, width)
    if rest:
        raise CheckpointError(
            f"{where} has {width} as the width of one number; expected a divisor of the width of all of them."
        )
    tree = {
        "in_channels": found.in_channels,
        "out_channels": found.out_channels,
        "channels": found.block_out_channels,
        "has_attention": attention,
        "heads": _each_level(found.num_attention_heads, levels),
        "layers": _each_level(found.layers_per_block, levels),
        "transformer_depth": _each_level(found.transformer_layers_per_block, levels),
        "context_width": _each_level(found.cross_attention_dim, levels),
        "number_width": width,
        "numbers": numbers,
        "frames": found.num_frames,
        "sample_size": found.sample_size or UNetConfig().sample_size,
        "norm_eps": found.norm_eps,
    }
    return parse(UNetConfig, tree, str(where))


def unet_document(cfg: UNetConfig) -> dict[str, Any]:
    """The diffusers configuration of a U-Net. Raises UsageError for an image-only one."""
    if not cfg.is_temporal:
        raise UsageError(
            "the U-Net is image-only, and a diffusers SVD folder holds a temporal one; use another layout."
        )
    chosen = {} if cfg.norm_eps == "original" else {"norm_eps": cfg.norm_eps}
    return chosen | {
        "_class_name": UNET,
        "_diffusers_version": VERSION,
        "addition_time_embed_dim": cfg.number_width,
        "block_out_channels": list(cfg.channels),
        "cross_attention_dim": _shortest(cfg.context_width),
        "down_block_types": [ATTENTION_DOWN if has else PLAIN_DOWN for has in cfg.has_attention],
        "in_channels": cfg.in_channels,
        "layers_per_block": _shortest(cfg.layers),
        "num_attention_heads": list(cfg.heads),
        "num_frames": cfg.frames,
        "out_channels": cfg.out_channels,
        "projection_class_embeddings_input_dim": cfg.numbers * cfg.number_width,
        "sample_size": cfg.sample_size,
        "transformer_layers_per_block": _shortest(cfg.transformer_depth),
        "up_block_types": [ATTENTION_UP if has else PLAIN_UP for has in reversed(cfg.has_attention)],
    }


def autoencoder_config(document: Mapping[str, Any], where: Path) -> AutoencoderConfig:
    """The autoencoder of a diffusers configuration.

    Raises CheckpointError for another class, unknown blocks or a missing key, ConfigError for a bad value.
    """
    kinds = {name: kind for kind, name in AUTOENCODERS.items()}
    expect_class(document, list(kinds), where)
    found = _read(_Autoencoder, document, where)
    expected = {"DownEncoderBlock2D", "UpDecoderBlock2D"}
    blocks = {*found.down_block_types, *found.up_block_types}
    if not blocks <= expected or found.norm_num_groups != GROUPS:
        raise CheckpointError(
            f"{where} has blocks {sorted(blocks)} in {found.norm_num_groups} groups; "
            f"expected {sorted(expected)} in {GROUPS}."
        )
    tree = {
        "image_channels": found.in_channels,
        "latent_channels": found.latent_channels,
        "channels": found.block_out_channels,
        "layers": found.layers_per_block,
        "decoder": kinds[document["_class_name"]],
        "scaling_factor": found.scaling_factor,
        "sample_size": found.sample_size,
        "force_upcast": bool(found.force_upcast),
    }
    return parse(AutoencoderConfig, tree, str(where))


def autoencoder_document(cfg: AutoencoderConfig) -> dict[str, Any]:
    """The diffusers configuration of an autoencoder."""
    levels = len(cfg.channels)
    document: dict[str, Any] = {
        "_class_name": AUTOENCODERS[cfg.decoder],
        "_diffusers_version": VERSION,
        "block_out_channels": list(cfg.channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": cfg.force_upcast,
        "in_channels": cfg.image_channels,
        "latent_channels": cfg.latent_channels,
        "layers_per_block": cfg.layers,
        "out_channels": cfg.image_channels,
        "sample_size": cfg.sample_size,
        "scaling_factor": cfg.scaling_factor,
    }
    if cfg.decoder == "image":
        document |= {"act_fn": "silu", "norm_num_groups": GROUPS, "up_block_types": ["UpDecoderBlock2D"] * levels}
    return document


def image_encoder_config(document: Mapping[str, Any], where: Path) -> ImageEncoderConfig:
    """The vision tower of a transformers configuration; what it leaves out has transformers' value.

    Raises CheckpointError for another class, ConfigError for a bad value.
    """
    found = _read(_ImageEncoder, document, where)
    classes = found.architectures or (TOWER,)
    if TOWER not in classes:
        raise CheckpointError(f"{where} is a {', '.join(classes)}; expected a {TOWER}.")
    tree = {
        "width": found.hidden_size,
        "mlp_width": found.intermediate_size,
        "layers": found.num_hidden_layers,
        "heads": found.num_attention_heads,
        "patch_size": found.patch_size,
        "image_size": found.image_size,
        "projection_width": found.projection_dim,
        "activation": found.hidden_act,
        "norm_eps": found.layer_norm_eps,
    }
    return parse(ImageEncoderConfig, tree, str(where))


def image_encoder_document(cfg: ImageEncoderConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The transformers configuration of a vision tower whose weights are of `dtype`."""
    return {
        "architectures": [TOWER],
        "attention_dropout": 0.0,
        "hidden_act": cfg.activation,
        "hidden_size": cfg.width,
        "image_size": cfg.image_size,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": cfg.mlp_width,
        "layer_norm_eps": cfg.norm_eps,
        "model_type": "clip_vision_model",
        "num_attention_heads": cfg.heads,
        "num_channels": 3,
        "num_hidden_layers": cfg.layers,
        "patch_size": cfg.patch_size,
        "projection_dim": cfg.projection_width,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def expect_class(found: Mapping[str, Any], expected: list[str], where: Path) -> None:
    """Raise CheckpointError unless the document is that of one of these classes."""
    if found.get("_class_name") not in expected:
        raise CheckpointError(f"{where} is a {found.get('_class_name')}; expected {' or '.join(expected)}.")


def _read(cls: type[T], document: Mapping[str, Any], where: Path) -> T:
    """The fields of `cls` in a document, validated."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    missing = [key for key in required if document.get(key) is None]
    if missing:
        raise CheckpointError(f"{where} says nothing of {', '.join(missing)}; expected all of {', '.join(required)}.")
    return parse(cls, {field.name: document[field.name] for field in fields if field.name in document}, str(where))


def _attention(blocks: Sequence[str], attending: str, plain: str, where: Path) -> tuple[bool, ...]:
    unknown = [name for name in blocks if name not in (attending, plain)]
    if unknown:
        raise CheckpointError(f"{where} has blocks of type {listed(unknown)}; expected {attending} or {plain}.")
    return tuple(name == attending for name in blocks)


def _each_level(value: int | tuple[int, ...], levels: int) -> tuple[int, ...]:
    return (value,) * levels if isinstance(value, int) else value


def _shortest(values: Sequence[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else list(values)
