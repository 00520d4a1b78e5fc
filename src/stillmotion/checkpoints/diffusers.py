"""The diffusers folder: one subfolder a network, with its JSON configuration and its weights, whole or in shards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import parse, to_tree
from ..errors import CheckpointError, UsageError
from ..files import atomic_path
from ..models.autoencoder import Autoencoder, AutoencoderConfig
from ..models.components import Components
from ..models.image_encoder import MEAN, STD, ImageEncoderConfig
from ..models.unet import UNetConfig
from ..presets import Defaults, Preset
from .rules import Ignored, Rules, listed, rule
from .sgm_config import defaults_for
from .store import PICKLE_SUFFIXES, TensorFile, TensorSet, stored_bytes, write_to

# The subfolder and the first word of the weight files of each network.
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "image_encoder": "model",
    "image_decoder": "diffusion_pytorch_model",
}
OURS = "stillmotion.json"
VERSION = "0.24.0.dev0"  # of diffusers, in the released folders
PIPELINE = "StableVideoDiffusionPipeline"
UNET = "UNetSpatioTemporalConditionModel"
TOWER = "CLIPVisionModelWithProjection"

RULES = Rules(
    [rule("", "")],
    [Ignored("vision_model.embeddings.position_ids", "a buffer that older transformers stored; it is 0, 1, 2, ...")],
)

SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": VERSION,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "trained_betas": None,
    "use_karras_sigmas": True,
}

FEATURE_EXTRACTOR = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": list(MEAN),
    "image_processor_type": "CLIPImageProcessor",
    "image_std": list(STD),
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}

ATTENTION_DOWN, PLAIN_DOWN = "CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"
ATTENTION_UP, PLAIN_UP = "CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"
GROUPS = 32  # of every norm that this package builds; diffusers' AutoencoderKL lets it vary
AUTOENCODERS = {"temporal": "AutoencoderKLTemporalDecoder", "image": "AutoencoderKL"}


def read_preset(folder: Path) -> Preset:
    """The model in a diffusers folder: the shapes in its configurations, and its defaults.

    Defaults come from our own file in the folder where there is one; else the number of frames tells svd's from
    svd-xt's, and the scheduler's configuration gives the range of sigma. Raises CheckpointError where a configuration
    is missing, of another class, or has unknown block types.
    """
    folder = Path(folder)
    if (folder / "model_index.json").exists():
        _expect_class(_read_json(folder / "model_index.json"), [PIPELINE], folder / "model_index.json")
    unet = unet_config(_read_json(folder / "unet" / "config.json"), folder / "unet")
    ours = _read_json(folder / OURS) if (folder / OURS).exists() else {}
    defaults = parse(Defaults, ours["defaults"], str(folder / OURS)) if "defaults" in ours else None
    return Preset(
        name=str(ours.get("name", folder.resolve().name)),
        hub_id=None,
        unet=unet,
        autoencoder=autoencoder_config(_read_json(folder / "vae" / "config.json"), folder / "vae"),
        image_encoder=image_encoder_config(
            _read_json(folder / "image_encoder" / "config.json"), folder / "image_encoder"
        ),
        defaults=defaults or _derived_defaults(folder, unet.frames),
    )


def read_image_decoder(folder: Path) -> AutoencoderConfig | None:
    """The frame-wise decoder that we keep beside the others, or None where the folder has none."""
    path = Path(folder) / "image_decoder"
    return autoencoder_config(_read_json(path / "config.json"), path) if path.is_dir() else None


def open_weights(folder: Path, part: str, variant: str | None) -> TensorSet:
    """The tensors of one subfolder, from one file or from the shards that its index names.

    Raises CheckpointError where there are none of that variant, or the index and the shards disagree.
    """
    _check_variant(variant)
    place = Path(folder) / part
    middle = f".{variant}" if variant else ""
    whole = place / f"{WEIGHTS[part]}{middle}.safetensors"
    index = place / f"{WEIGHTS[part]}.safetensors.index{middle}.json"
    if whole.exists():
        return TensorSet([TensorFile(whole)], str(whole))
    if index.exists():
        return _open_shards(index)
    found = sorted(path.name for path in place.glob("*") if path.suffix in (".safetensors", *PICKLE_SUFFIXES))
    hint = "; a pickle is never opened" if any(name.endswith(PICKLE_SUFFIXES) for name in found) else ""
    raise CheckpointError(f"{place} has {listed(found) or 'no weights'}; expected {whole.name} or {index.name}{hint}.")


def patterns(variant: str | None, with_image_decoder: bool) -> list[str]:
    """What to fetch from a hub repository: configurations and the weights of one variant, and no pickle."""
    _check_variant(variant)
    found = ["model_index.json", OURS, "*/config.json", "scheduler/*.json", "feature_extractor/*.json"]
    middle = f".{variant}" if variant else ""
    for part, stem in WEIGHTS.items():
        if part == "image_decoder" and not with_image_decoder:
            continue
        found += [
            f"{part}/{stem}{middle}.safetensors",
            f"{part}/{stem}{middle}-?????-of-?????.safetensors",
            f"{part}/{stem}.safetensors.index{middle}.json",
        ]
        if variant:  # how diffusers named the shards of a variant before 0.30
            found.append(f"{part}/{stem}-?????-of-?????{middle}.safetensors")
    return found


def write(
    folder: Path,
    components: Components,
    preset: Preset,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    max_shard_bytes: int | None = None,
) -> None:
    """Write the whole folder; diffusers' StableVideoDiffusionPipeline loads it, and so do we.

    Weights of more than `max_shard_bytes` are spread over several files. Raises UsageError for an image-only U-Net,
    which this layout cannot hold, or where `folder` holds something else; a failure leaves nothing behind.
    """
    _check_variant(variant)
    folder = Path(folder)
    if folder.exists() and not (folder / "model_index.json").exists() and _is_occupied(folder):
        raise UsageError(f"{folder} holds something else than a model; expected a new folder or an older model's.")
    with atomic_path(folder) as temporary:
        for name, text in _documents(components, preset, dtype).items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_text(json.dumps(text, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for part, tensors in _tensors(components).items():
            _write_weights(temporary / part, WEIGHTS[part], RULES.export(tensors), dtype, variant, max_shard_bytes)


def decoder_only(image_decoder: Autoencoder) -> nn.ModuleDict:
    """The parts of a frame-wise decoder that are its own; its encoder is that of the model's autoencoder."""
    return nn.ModuleDict({"decoder": image_decoder.decoder, "post_quant_conv": image_decoder.post_quant_conv})


def unet_config(found: Mapping[str, Any], where: Path) -> UNetConfig:
    """The U-Net of a diffusers configuration. Raises CheckpointError for another class or unknown blocks."""
    _expect_class(found, [UNET], where)
    _expect_keys(found, ("block_out_channels", "down_block_types", "up_block_types", "num_attention_heads"), where)
    levels = len(found["block_out_channels"])
    attention = _attention(found["down_block_types"], ATTENTION_DOWN, PLAIN_DOWN, where)
    if _attention(found["up_block_types"], ATTENTION_UP, PLAIN_UP, where)[::-1] != attention:
        raise CheckpointError(f"{where} has attention at other levels up than down; expected the same levels.")
    width = found.get("addition_time_embed_dim", 256)
    numbers, rest = divmod(found.get("projection_class_embeddings_input_dim", 768), width)
    if rest:
        raise CheckpointError(f"{where} has numbers of width {width} that do not divide the width of all of them.")
    tree = {
        "in_channels": found.get("in_channels", 8),
        "out_channels": found.get("out_channels", 4),
        "channels": found["block_out_channels"],
        "has_attention": attention,
        "heads": _each_level(found["num_attention_heads"], levels),
        "layers": _each_level(found.get("layers_per_block", 2), levels),
        "transformer_depth": _each_level(found.get("transformer_layers_per_block", 1), levels),
        "context_width": _each_level(found.get("cross_attention_dim", 1024), levels),
        "number_width": width,
        "numbers": numbers,
        "frames": found.get("num_frames", 25),
        "sample_size": found.get("sample_size") or UNetConfig().sample_size,
    }
    return parse(UNetConfig, tree, str(where))


def unet_document(cfg: UNetConfig) -> dict[str, Any]:
    """The diffusers configuration of a U-Net. Raises UsageError for an image-only one."""
    if not cfg.is_temporal:
        raise UsageError(
            "the U-Net is image-only, and a diffusers SVD folder holds a temporal one; use another layout."
        )
    return {
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


def autoencoder_config(found: Mapping[str, Any], where: Path) -> AutoencoderConfig:
    """The autoencoder of a diffusers configuration. Raises CheckpointError for another class or unknown blocks."""
    kinds = {name: kind for kind, name in AUTOENCODERS.items()}
    _expect_class(found, list(kinds), where)
    _expect_keys(found, ("block_out_channels", "layers_per_block", "latent_channels"), where)
    expected = {"DownEncoderBlock2D", "UpDecoderBlock2D"}
    blocks = {*found.get("down_block_types", ()), *found.get("up_block_types", ())}
    if not blocks <= expected or found.get("norm_num_groups", GROUPS) != GROUPS:
        raise CheckpointError(
            f"{where} has blocks {sorted(blocks)} in {found.get('norm_num_groups', GROUPS)} groups; "
            f"expected {sorted(expected)} in {GROUPS}."
        )
    tree = {
        "image_channels": found.get("in_channels", 3),
        "latent_channels": found["latent_channels"],
        "channels": found["block_out_channels"],
        "layers": found["layers_per_block"],
        "decoder": kinds[found["_class_name"]],
        "scaling_factor": found.get("scaling_factor", AutoencoderConfig().scaling_factor),
        "sample_size": found.get("sample_size", AutoencoderConfig().sample_size),
        "force_upcast": bool(found.get("force_upcast", True)),
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


def image_encoder_config(found: Mapping[str, Any], where: Path) -> ImageEncoderConfig:
    """The vision tower of a transformers configuration; what it leaves out has transformers' value."""
    classes = found.get("architectures") or [TOWER]
    if TOWER not in classes:
        raise CheckpointError(f"{where} is a {', '.join(map(str, classes))}; expected a {TOWER}.")
    tree = {
        "width": found.get("hidden_size", 768),
        "mlp_width": found.get("intermediate_size", 3072),
        "layers": found.get("num_hidden_layers", 12),
        "heads": found.get("num_attention_heads", 12),
        "patch_size": found.get("patch_size", 32),
        "image_size": found.get("image_size", 224),
        "projection_width": found.get("projection_dim", 512),
        "activation": found.get("hidden_act", "quick_gelu"),
        "norm_eps": found.get("layer_norm_eps", 1e-5),
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


def _derived_defaults(folder: Path, frames: int) -> Defaults:
    path = folder / "scheduler" / "scheduler_config.json"
    scheduler = _read_json(path) if path.exists() else {}
    given = {name: scheduler[name] for name in ("sigma_min", "sigma_max") if scheduler.get(name) is not None}
    return parse(Defaults, to_tree(defaults_for(frames)) | given, str(path))


def _documents(components: Components, preset: Preset, dtype: torch.dtype | None) -> dict[str, dict[str, Any]]:
    tower = components.image_encoder
    vae = components.autoencoder.cfg
    documents = {
        "model_index.json": {
            "_class_name": PIPELINE,
            "_diffusers_version": VERSION,
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "image_encoder": ["transformers", TOWER],
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "unet": ["diffusers", UNET],
            "vae": ["diffusers", AUTOENCODERS[vae.decoder]],
        },
        "unet/config.json": unet_document(components.unet.cfg),
        "vae/config.json": autoencoder_document(vae),
        "image_encoder/config.json": image_encoder_document(
            image_encoder_config(tower.config.to_dict(), Path("the image encoder")), dtype or tower.dtype
        ),
        "scheduler/scheduler_config.json": SCHEDULER
        | {"sigma_min": preset.defaults.sigma_min, "sigma_max": preset.defaults.sigma_max},
        "feature_extractor/preprocessor_config.json": FEATURE_EXTRACTOR,
        OURS: {"name": preset.name, "defaults": to_tree(preset.defaults)},
    }
    if components.image_decoder is not None:
        documents["image_decoder/config.json"] = autoencoder_document(components.image_decoder.cfg)
    return documents


def _tensors(components: Components) -> dict[str, dict[str, Tensor]]:
    tensors = {
        "unet": components.unet.state_dict(),
        "vae": components.autoencoder.state_dict(),
        "image_encoder": components.image_encoder.state_dict(),
    }
    if components.image_decoder is not None:
        tensors["image_decoder"] = decoder_only(components.image_decoder).state_dict()
    return tensors


def _write_weights(
    folder: Path,
    stem: str,
    tensors: Mapping[str, Sequence[Tensor]],
    dtype: torch.dtype | None,
    variant: str | None,
    max_shard_bytes: int | None,
) -> None:
    middle = f".{variant}" if variant else ""
    shards = list(_shards(tensors, dtype, max_shard_bytes))
    names = [f"{stem}{middle}-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [f"{stem}{middle}.safetensors"]
    else:
        total = sum(stored_bytes(parts, dtype) for parts in tensors.values())
        places = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / f"{stem}.safetensors.index{middle}.json").write_text(text, encoding="utf-8")
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb") as file:
            write_to(file, shard, dtype)


def _shards(
    tensors: Mapping[str, Sequence[Tensor]], dtype: torch.dtype | None, max_bytes: int | None
) -> Iterator[dict[str, Sequence[Tensor]]]:
    shard: dict[str, Sequence[Tensor]] = {}
    held = 0
    for name, parts in tensors.items():
        size = stored_bytes(parts, dtype)
        if shard and max_bytes is not None and held + size > max_bytes:
            yield shard
            shard, held = {}, 0
        shard[name] = parts
        held += size
    yield shard


def _open_shards(index: Path) -> TensorSet:
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index} has no weight_map of tensors to files; expected one.")
    names = sorted(set(places.values()))
    # A name is a file beside the index: never a path that leads elsewhere.
    unsafe = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    if unsafe:
        raise CheckpointError(f"{index} names {listed(unsafe)}; expected .safetensors files beside it.")
    files = {name: TensorFile(index.parent / name) for name in names}
    lost = [key for key, name in places.items() if key not in files[name].entries]
    if lost:
        raise CheckpointError(f"{index} names files that lack {listed(lost)}; expected every tensor in its file.")
    return TensorSet(list(files.values()), str(index))


def _is_occupied(folder: Path) -> bool:
    return not folder.is_dir() or any(folder.iterdir())


def _check_variant(variant: str | None) -> None:
    if variant is not None and not re.fullmatch(r"[\w-]+", variant):
        raise UsageError(f"the variant is {variant!r}; expected a word such as fp16.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing; expected a diffusers folder with unet, vae and image_encoder in it."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {str(error).splitlines()[0]}.") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}; expected a JSON object.")
    return found


def _expect_class(found: Mapping[str, Any], expected: list[str], where: Path) -> None:
    if found.get("_class_name") not in expected:
        raise CheckpointError(f"{where} is a {found.get('_class_name')}; expected {' or '.join(expected)}.")


def _expect_keys(found: Mapping[str, Any], keys: Sequence[str], where: Path) -> None:
    missing = [key for key in keys if found.get(key) is None]
    if missing:
        raise CheckpointError(f"{where} says nothing of {', '.join(missing)}; expected all of {', '.join(keys)}.")


def _attention(blocks: Sequence[str], attending: str, plain: str, where: Path) -> tuple[bool, ...]:
    unknown = [str(name) for name in blocks if name not in (attending, plain)]
    if unknown:
        raise CheckpointError(f"{where} has blocks of type {listed(unknown)}; expected {attending} or {plain}.")
    return tuple(name == attending for name in blocks)


def _each_level(value: Any, levels: int) -> Any:
    return (value,) * levels if isinstance(value, int) else value


def _shortest(values: Sequence[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else list(values)
