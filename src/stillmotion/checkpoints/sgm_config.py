"""The original's configurations, as YAML or as the plain JSON of a small model, read through an allow-list."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ..config import config, parse, read_yaml
from ..errors import ConfigError
from ..models.autoencoder import AutoencoderConfig
from ..models.image_encoder import ImageEncoderConfig
from ..models.unet import UNetConfig
from ..presets import SVD, SVD_XT, Defaults, Preset

Size = Annotated[int, Field(ge=1)]
Levels = Annotated[tuple[Size, ...], Field(min_length=1)]

# The original's configurations. What stands here is the allow-list: a target or a parameter that does not is refused,
# and no name is ever imported. Fields of type Any are known and make no difference to the model that is read.


@config
class _UNet:
    in_channels: Size
    out_channels: Size
    model_channels: Size
    channel_mult: Levels
    num_res_blocks: Size | tuple[Size, ...]
    attention_resolutions: tuple[int, ...]
    adm_in_channels: Size
    context_dim: Size
    num_head_channels: Size
    transformer_depth: Size | tuple[Size, ...] = 1
    num_classes: Literal["sequential"]
    use_linear_in_transformer: Literal[True]
    extra_ff_mix_layer: Literal[True]
    use_spatial_context: Literal[True]
    merge_strategy: Literal["learned_with_images"]
    video_kernel_size: tuple[Literal[3], Literal[1], Literal[1]]
    spatial_transformer_attn_type: Literal["softmax", "softmax-xformers"] = "softmax"
    merge_factor: Any = None
    use_checkpoint: Any = None


@config
class _Autoencoder:
    ch: Size
    ch_mult: Levels
    num_res_blocks: Size
    z_channels: Size
    in_channels: Size
    out_ch: Size
    double_z: Literal[True]
    attn_resolutions: tuple[()] = ()
    attn_type: Literal["vanilla", "vanilla-xformers"] = "vanilla"
    video_kernel_size: tuple[Literal[3], Literal[1], Literal[1]] = (3, 1, 1)
    resolution: Any = None
    dropout: Any = None


@config
class _Vision:
    image_size: Size
    patch_size: Size
    width: Size
    layers: Size
    heads: Size
    mlp_ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    output_dim: Size
    activation: Literal["gelu", "quick_gelu"]


@config
class _Settings:
    unet: _UNet
    autoencoder: _Autoencoder
    vision: _Vision
    embed_width: Size
    frames: Size
    # What latents are multiplied with; the released models' where it is not given.
    scale_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = AutoencoderConfig().scaling_factor
    guidance_min: float | None = None
    guidance_max: float | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    fps_id: int | None = None
    motion_bucket_id: float | None = None
    cond_aug: float | None = None
    seed: Any = None


@config
class _Network:
    target: Literal["sgm.modules.diffusionmodules.video_model.VideoUNet"]
    params: _UNet


@config
class _OpenClipParams:
    arch: Literal["ViT-H-14"] = "ViT-H-14"
    version: Any = None
    freeze: Any = None


@config
class _OpenClip:
    target: Literal["sgm.modules.encoders.modules.FrozenOpenCLIPImageEmbedder"]
    params: _OpenClipParams = _OpenClipParams()


@config
class _ClipParams:
    open_clip_embedding_config: _OpenClip
    n_cond_frames: Literal[1] = 1
    n_copies: Literal[1] = 1


@config
class _Clip:
    target: Literal["sgm.modules.encoders.modules.FrozenOpenCLIPImagePredictionEmbedder"]
    params: _ClipParams
    input_key: Literal["cond_frames_without_noise"]
    is_trainable: Any = None
    ucg_rate: Any = None


@config
class _NumberParams:
    outdim: Size


@config
class _Number:
    target: Literal["sgm.modules.encoders.modules.ConcatTimestepEmbedderND"]
    params: _NumberParams
    input_key: Literal["fps_id", "motion_bucket_id", "cond_aug"]
    is_trainable: Any = None
    ucg_rate: Any = None


@config
class _KLParams:
    ddconfig: _Autoencoder
    embed_dim: int
    monitor: Any = None
    lossconfig: Any = None


@config
class _KL:
    target: Literal["sgm.models.autoencoder.AutoencoderKLModeOnly", "sgm.models.autoencoder.AutoencoderKL"]
    params: _KLParams


@config
class _ImageParams:
    encoder_config: _KL
    n_cond_frames: Literal[1] = 1
    n_copies: Literal[1] = 1
    is_ae: Literal[True] = True
    disable_encoder_autocast: Any = None
    en_and_decode_n_samples_a_time: Any = None


@config
class _Image:
    target: Literal["sgm.modules.encoders.modules.VideoPredictionEmbedderWithEncoder"]
    params: _ImageParams
    input_key: Literal["cond_frames"]
    is_trainable: Any = None
    ucg_rate: Any = None


@config
class _ConditionerParams:
    # The order is that of the file: the image encoder is embedder 0, the autoencoder embedder 3.
    emb_models: tuple[_Clip, _Number, _Number, _Image, _Number]


@config
class _Conditioner:
    target: Literal["sgm.modules.GeneralConditioner"]
    params: _ConditionerParams


@config
class _GuiderParams:
    min_scale: float = 1.0
    max_scale: float
    num_frames: Size | None = None
    additional_cond_keys: Any = None


@config
class _Guider:
    target: Literal["sgm.modules.diffusionmodules.guiders.LinearPredictionGuider"]
    params: _GuiderParams


@config
class _SamplerParams:
    guider_config: _Guider
    discretization_config: Any = None
    num_steps: Any = None
    verbose: Any = None
    device: Any = None


@config
class _Sampler:
    target: Literal["sgm.modules.diffusionmodules.sampling.EulerEDMSampler"]
    params: _SamplerParams


@config
class _Model:
    network_config: _Network
    conditioner_config: _Conditioner
    sampler_config: _Sampler
    scale_factor: float = 1.0
    # The first stage and the denoiser follow from the tensors and from the family of models.
    first_stage_config: Any = None
    denoiser_config: Any = None
    disable_first_stage_autocast: Any = None
    en_and_decode_n_samples_a_time: Any = None
    ckpt_path: Any = None
    use_ema: Any = None
    ema_decay_rate: Any = None
    input_key: Any = None
    log_keys: Any = None
    loss_fn_config: Any = None
    optimizer_config: Any = None
    scheduler_config: Any = None
    network_wrapper: Any = None
    compile_model: Any = None
    no_cond_log: Any = None


@config
class _Engine:
    target: Literal["sgm.models.diffusion.DiffusionEngine"]
    params: _Model


def read_config(path: Path) -> Preset:
    """The model that a configuration of the original describes, named after the file.

    The original's YAML may leave the number of frames to its scripts; then the guidance tells svd from svd-xt.
    Raises ConfigError naming every target and parameter that is not known, or the number of frames if nothing tells it.
    """
    path = Path(path)
    tree = read_yaml(path)
    if "model" not in tree:
        return _from_settings(parse(_Settings, tree, str(path)), path.stem)
    model = parse(_Engine, tree["model"] or {}, str(path)).params
    *_, image, number = model.conditioner_config.params.emb_models
    guider = model.sampler_config.params.guider_config.params
    base = _base(guider, path)
    unet = model.network_config.params
    return replace(
        base,
        name=path.stem,
        hub_id=None,
        file_names=(),
        unet=_unet(unet, number.params.outdim, base.defaults.frames, str(path)),
        autoencoder=_autoencoder(image.params.encoder_config.params.ddconfig, model.scale_factor, str(path)),
        # The original names no shape here, only CLIP ViT-H/14.
        image_encoder=ImageEncoderConfig(),
        defaults=replace(base.defaults, guidance=(guider.min_scale, guider.max_scale)),
    )


def defaults_for(frames: int) -> Defaults:
    """The defaults of the released model whose clips are as long: svd's up to 14 frames, svd-xt's above."""
    base = SVD if frames <= SVD.defaults.frames else SVD_XT
    return replace(base.defaults, frames=frames)


def _base(guider: _GuiderParams, path: Path) -> Preset:
    if guider.num_frames is not None:
        base = SVD if guider.num_frames <= SVD.defaults.frames else SVD_XT
        return replace(base, defaults=defaults_for(guider.num_frames))
    for preset in (SVD, SVD_XT):
        if preset.defaults.guidance == (guider.min_scale, guider.max_scale):
            return preset
    raise ConfigError(f"{path} does not tell the number of frames; expected num_frames beside the guider's max_scale.")


def _from_settings(found: _Settings, name: str) -> Preset:
    defaults = defaults_for(found.frames)
    given = {
        "width": found.width,
        "height": found.height,
        "steps": found.steps,
        # The network is given one less than the true rate.
        "fps": None if found.fps_id is None else found.fps_id + 1.0,
        "motion_bucket": found.motion_bucket_id,
        "noise_aug": found.cond_aug,
        # Those of the released models are no sizes of a model that was trained at another.
        "other_sizes": None if found.width is None and found.height is None else (),
    }
    if found.guidance_min is not None and found.guidance_max is not None:
        given["guidance"] = (found.guidance_min, found.guidance_max)
    vision = found.vision
    tower = {
        "width": vision.width,
        "mlp_width": int(vision.width * vision.mlp_ratio),
        "layers": vision.layers,
        "heads": vision.heads,
        "patch_size": vision.patch_size,
        "image_size": vision.image_size,
        "projection_width": vision.output_dim,
        "activation": vision.activation,
    }
    return Preset(
        name=name,
        hub_id=None,
        unet=_unet(found.unet, found.embed_width, found.frames, name),
        autoencoder=_autoencoder(found.autoencoder, found.scale_factor, name),
        image_encoder=parse(ImageEncoderConfig, tower, name),
        defaults=replace(defaults, **{key: value for key, value in given.items() if value is not None}),
    )


def _unet(found: _UNet, number_width: int, frames: int, source: str) -> UNetConfig:
    levels = len(found.channel_mult)
    channels = tuple(found.model_channels * times for times in found.channel_mult)
    heads, rest = zip(*(divmod(width, found.num_head_channels) for width in channels), strict=True)
    numbers, odd = divmod(found.adm_in_channels, number_width)
    if odd or any(rest):
        raise ConfigError(
            f"{source} has channels {channels} with heads of {found.num_head_channels} and {found.adm_in_channels} "
            f"channels of numbers of width {number_width}; expected each to divide without a rest."
        )
    tree = {
        "in_channels": found.in_channels,
        "out_channels": found.out_channels,
        "channels": channels,
        # The original gives the downsampling factors at which there is attention.
        "has_attention": tuple(2**level in found.attention_resolutions for level in range(levels)),
        "heads": heads,
        "layers": _each_level(found.num_res_blocks, levels),
        "transformer_depth": _each_level(found.transformer_depth, levels),
        "context_width": (found.context_dim,) * levels,
        "number_width": number_width,
        "numbers": numbers,
        "frames": frames,
    }
    return parse(UNetConfig, tree, source)


def _autoencoder(found: _Autoencoder, scaling_factor: float, source: str) -> AutoencoderConfig:
    if found.in_channels != found.out_ch:
        raise ConfigError(f"{source} has {found.in_channels} image channels in, {found.out_ch} out; expected as many.")
    tree = {
        "image_channels": found.in_channels,
        "latent_channels": found.z_channels,
        "channels": tuple(found.ch * times for times in found.ch_mult),
        "layers": found.num_res_blocks,
        "scaling_factor": scaling_factor,
    }
    return parse(AutoencoderConfig, tree, source)


def _each_level(value: int | tuple[int, ...], levels: int) -> tuple[int, ...]:
    return (value,) * levels if isinstance(value, int) else value
