"""The original's single file: the names of its tensors, and what is written into one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..models.autoencoder import Autoencoder, AutoencoderConfig
from ..models.components import Components
from ..models.image_encoder import ImageEncoderConfig
from ..models.unet import UNetConfig
from .rules import Ignored, Rule, Rules, rule

UNET = "model.diffusion_model"
CLIP = "conditioner.embedders.0.open_clip.model"
CONDITIONING = "conditioner.embedders.3.encoder"
FIRST_STAGE = "first_stage_model"

TEXT_TOWER = "a leftover of CLIP's text tower, which the model never runs"
IGNORED = (
    *(
        Ignored(f"{CLIP}.{name}", TEXT_TOWER)
        for name in (
            "positional_embedding",
            "text_projection",
            "logit_scale",
            "token_embedding",
            "ln_final",
            "attn_mask",
        )
    ),
    Ignored(
        f"{FIRST_STAGE}.encoder", "the encoder of training targets; the conditioning encoder is the one that is run"
    ),
    Ignored(f"{FIRST_STAGE}.quant_conv", "part of the encoder of training targets"),
)
IMAGE_DECODER_IGNORED = tuple(
    Ignored(f"{CONDITIONING}.{name}", "the frame-wise decoder, which was not asked for")
    for name in ("decoder", "post_quant_conv")
)

SPATIAL_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
)


def unet_rules(cfg: UNetConfig) -> Rules:
    """The names of the U-Net's tensors in the single file."""
    return Rules((rule(ours, f"{UNET}.{theirs}") for ours, theirs in _unet(cfg)), IGNORED)


def image_encoder_rules(cfg: ImageEncoderConfig) -> Rules:
    """The names of the vision tower's tensors in the single file, where one tensor holds queries, keys and values."""
    return Rules(_image_encoder(cfg), IGNORED)


def autoencoder_rules(cfg: AutoencoderConfig) -> Rules:
    """The names of the autoencoder: the encoder of the conditioning image, and the decoder of the first stage."""
    table = [
        *_encoder(cfg, f"{CONDITIONING}.encoder"),
        rule("quant_conv", f"{CONDITIONING}.quant_conv"),
        *_decoder(cfg, f"{FIRST_STAGE}.decoder"),
    ]
    if cfg.decoder == "image":
        table.append(rule("post_quant_conv", f"{FIRST_STAGE}.post_quant_conv"))
    return Rules(table, IGNORED)


def image_decoder_rules(cfg: AutoencoderConfig) -> Rules:
    """The names of the frame-wise decoder that travels with the encoder of the conditioning image."""
    table = [
        *_decoder(replace(cfg, decoder="image"), f"{CONDITIONING}.decoder"),
        rule("post_quant_conv", f"{CONDITIONING}.post_quant_conv"),
    ]
    return Rules(table, IGNORED)


def has_image_decoder(names: Iterable[str]) -> bool:
    """Whether a file with these tensors brings the frame-wise decoder beside the conditioning encoder."""
    return f"{CONDITIONING}.post_quant_conv.weight" in names


def first_stage_is_image(names: Iterable[str]) -> bool:
    """Whether the first stage is frame-wise, as in the `_image_decoder` files; it is temporal otherwise."""
    return f"{FIRST_STAGE}.post_quant_conv.weight" in names


def export(components: Components, image_encoder: ImageEncoderConfig) -> dict[str, tuple[Tensor, ...]]:
    """Every tensor of the single file that the networks give, by name; each holds parts to be joined.

    Written are the U-Net, the vision tower, the conditioning encoder with its quant_conv, the first stage (its encoder
    with quant_conv folded in, where the decoder is temporal, as the original keeps it) and the frame-wise decoder of
    `components.image_decoder`. Not written, as we do not have them: the leftovers of CLIP's text tower, and without an
    image decoder `conditioner.embedders.3.encoder.{decoder,post_quant_conv}`; the original's loader reports both as
    missing and goes on. A temporal decoder whose config has other than two `layers` has another middle than the
    original's, and only this package reads it.
    """
    autoencoder = components.autoencoder
    named = unet_rules(components.unet.cfg).export(components.unet.state_dict())
    named |= image_encoder_rules(image_encoder).export(components.image_encoder.state_dict())
    named |= autoencoder_rules(autoencoder.cfg).export(autoencoder.state_dict())
    named |= _first_stage_encoder(autoencoder)
    if components.image_decoder is not None:
        decoder = components.image_decoder
        tensors = {name: value for name, value in decoder.state_dict().items() if name.startswith(("decoder", "post"))}
        named |= image_decoder_rules(decoder.cfg).export(tensors)
    return named


def _first_stage_encoder(autoencoder: Autoencoder) -> dict[str, tuple[Tensor, ...]]:
    tensors = {f"encoder.{name}": value for name, value in autoencoder.encoder.state_dict().items()}
    table = _encoder(autoencoder.cfg, f"{FIRST_STAGE}.encoder")
    if autoencoder.cfg.decoder == "image":
        quant = {f"quant_conv.{name}": value for name, value in autoencoder.quant_conv.state_dict().items()}
        return Rules([*table, rule("quant_conv", f"{FIRST_STAGE}.quant_conv")]).export(tensors | quant)
    return Rules(table).export(tensors | _folded(autoencoder))


def _folded(autoencoder: Autoencoder) -> dict[str, Tensor]:
    """conv_out followed by the 1x1 quant_conv, as one convolution: W = Wq Wc, b = Wq bc + bq."""
    conv, quant = autoencoder.encoder.conv_out, autoencoder.quant_conv
    assert conv.bias is not None and quant.bias is not None
    mix = quant.weight[:, :, 0, 0].detach().double()
    weight = torch.einsum("oi,ichw->ochw", mix, conv.weight.detach().double())
    bias = mix @ conv.bias.detach().double() + quant.bias.detach().double()
    return {
        "encoder.conv_out.weight": weight.to(conv.weight.dtype),
        "encoder.conv_out.bias": bias.to(conv.bias.dtype),
    }


def _unet(cfg: UNetConfig) -> Iterator[tuple[str, str]]:
    yield "conv_in", "input_blocks.0.0"
    for ours, theirs in (("time_embedding", "time_embed"), ("add_embedding", "label_emb.0")):
        yield f"{ours}.linear_1", f"{theirs}.0"
        yield f"{ours}.linear_2", f"{theirs}.2"
    yield from _unet_down(cfg)
    yield from _unet_resnet(cfg, "mid_block.resnets.0", "middle_block.0")
    yield from _unet_attention("mid_block.attentions.0", "middle_block.1")
    yield from _unet_resnet(cfg, "mid_block.resnets.1", "middle_block.2")
    yield from _unet_up(cfg)
    yield "conv_norm_out", "out.0"
    yield "conv_out", "out.2"


def _unet_down(cfg: UNetConfig) -> Iterator[tuple[str, str]]:
    index = 1
    for level, layers in enumerate(cfg.layers):
        for layer in range(layers):
            yield from _unet_resnet(cfg, f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{index}.0")
            if cfg.has_attention[level]:
                yield from _unet_attention(f"down_blocks.{level}.attentions.{layer}", f"input_blocks.{index}.1")
            index += 1
        if level < len(cfg.layers) - 1:
            yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{index}.0.op"
            index += 1


def _unet_up(cfg: UNetConfig) -> Iterator[tuple[str, str]]:
    index = 0
    for i, level in enumerate(reversed(range(len(cfg.layers)))):
        for layer in range(cfg.layers[level] + 1):
            yield from _unet_resnet(cfg, f"up_blocks.{i}.resnets.{layer}", f"output_blocks.{index}.0")
            if cfg.has_attention[level]:
                yield from _unet_attention(f"up_blocks.{i}.attentions.{layer}", f"output_blocks.{index}.1")
            index += 1
        if level > 0:
            # The upsampler stands last in the level's last block, behind the attention where there is one.
            position = 2 if cfg.has_attention[level] else 1
            yield f"up_blocks.{i}.upsamplers.0.conv", f"output_blocks.{index - 1}.{position}.conv"


def _unet_resnet(cfg: UNetConfig, ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    spatial = f"{ours}.spatial_res_block" if cfg.is_temporal else ours
    for here, there in SPATIAL_RESNET:
        yield f"{spatial}.{here}", f"{theirs}.{there}"
        if cfg.is_temporal:
            yield f"{ours}.temporal_res_block.{here}", f"{theirs}.time_stack.{there}"
    yield f"{spatial}.conv_shortcut", f"{theirs}.skip_connection"
    if cfg.is_temporal:
        yield f"{ours}.time_mixer", f"{theirs}.time_mixer"


def _unet_attention(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for name in ("norm", "proj_in", "transformer_blocks", "time_mixer", "proj_out"):
        yield f"{ours}.{name}", f"{theirs}.{name}"
    yield f"{ours}.temporal_transformer_blocks", f"{theirs}.time_stack"
    yield f"{ours}.time_pos_embed.linear_1", f"{theirs}.time_pos_embed.0"
    yield f"{ours}.time_pos_embed.linear_2", f"{theirs}.time_pos_embed.2"


def _encoder(cfg: AutoencoderConfig, theirs: str) -> Iterator[Rule]:
    yield from _ends("encoder", theirs)
    for level in range(len(cfg.channels)):
        for layer in range(cfg.layers):
            ours = f"encoder.down_blocks.{level}.resnets.{layer}"
            yield from _autoencoder_resnet(ours, f"{theirs}.down.{level}.block.{layer}", is_temporal=False)
        yield rule(f"encoder.down_blocks.{level}.downsamplers.0.conv", f"{theirs}.down.{level}.downsample.conv")
    yield from _middle("encoder.mid_block", f"{theirs}.mid", resnets=2, is_temporal=False)


def _decoder(cfg: AutoencoderConfig, theirs: str) -> Iterator[Rule]:
    is_temporal = cfg.decoder == "temporal"
    top = len(cfg.channels) - 1
    yield from _ends("decoder", theirs)
    if is_temporal:
        yield rule("decoder.time_conv_out", f"{theirs}.conv_out.time_mix_conv")
    for i in range(len(cfg.channels)):
        up = f"{theirs}.up.{top - i}"
        for layer in range(cfg.layers + 1):
            ours = f"decoder.up_blocks.{i}.resnets.{layer}"
            yield from _autoencoder_resnet(ours, f"{up}.block.{layer}", is_temporal)
        yield rule(f"decoder.up_blocks.{i}.upsamplers.0.conv", f"{up}.upsample.conv")
    resnets = cfg.layers if is_temporal else 2
    yield from _middle("decoder.mid_block", f"{theirs}.mid", resnets, is_temporal)


def _ends(ours: str, theirs: str) -> Iterator[Rule]:
    yield rule(f"{ours}.conv_in", f"{theirs}.conv_in")
    yield rule(f"{ours}.conv_norm_out", f"{theirs}.norm_out")
    yield rule(f"{ours}.conv_out", f"{theirs}.conv_out")


def _middle(ours: str, theirs: str, resnets: int, is_temporal: bool) -> Iterator[Rule]:
    for i in range(resnets):
        yield from _autoencoder_resnet(f"{ours}.resnets.{i}", f"{theirs}.block_{i + 1}", is_temporal)
    attention = f"{ours}.attentions.0"
    yield rule(f"{attention}.group_norm", f"{theirs}.attn_1.norm")
    for here, there in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        yield rule(f"{attention}.{here}.weight", f"{theirs}.attn_1.{there}.weight", "pointwise")
        yield rule(f"{attention}.{here}.bias", f"{theirs}.attn_1.{there}.bias")


def _autoencoder_resnet(ours: str, theirs: str, is_temporal: bool) -> Iterator[Rule]:
    spatial = f"{ours}.spatial_res_block" if is_temporal else ours
    for name in ("norm1", "conv1", "norm2", "conv2"):
        yield rule(f"{spatial}.{name}", f"{theirs}.{name}")
    yield rule(f"{spatial}.conv_shortcut", f"{theirs}.nin_shortcut")
    if is_temporal:
        for here, there in SPATIAL_RESNET:
            yield rule(f"{ours}.temporal_res_block.{here}", f"{theirs}.time_stack.{there}")
        yield rule(f"{ours}.time_mixer.mix_factor", f"{theirs}.mix_factor")


def _image_encoder(cfg: ImageEncoderConfig) -> Iterator[Rule]:
    theirs, ours = f"{CLIP}.visual", "vision_model"
    yield rule(f"{ours}.embeddings.class_embedding", f"{theirs}.class_embedding")
    yield rule(f"{ours}.embeddings.position_embedding.weight", f"{theirs}.positional_embedding")
    yield rule(f"{ours}.embeddings.patch_embedding", f"{theirs}.conv1")
    yield rule(f"{ours}.pre_layrnorm", f"{theirs}.ln_pre")  # sic: transformers' spelling
    yield rule(f"{ours}.post_layernorm", f"{theirs}.ln_post")
    yield rule("visual_projection.weight", f"{theirs}.proj", "transposed")
    for i in range(cfg.layers):
        here, there = f"{ours}.encoder.layers.{i}", f"{theirs}.transformer.resblocks.{i}"
        yield rule(f"{here}.layer_norm1", f"{there}.ln_1")
        yield rule(f"{here}.layer_norm2", f"{there}.ln_2")
        yield rule(f"{here}.self_attn.out_proj", f"{there}.attn.out_proj")
        yield rule(f"{here}.mlp.fc1", f"{there}.mlp.c_fc")
        yield rule(f"{here}.mlp.fc2", f"{there}.mlp.c_proj")
        for kind in ("weight", "bias"):
            stacked = tuple(f"{here}.self_attn.{name}_proj.{kind}" for name in "qkv")
            yield Rule(stacked, f"{there}.attn.in_proj_{kind}")
