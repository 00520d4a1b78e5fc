"""The diffusers folder: one subfolder a network, with its JSON configuration and its weights, whole or in shards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import parse, to_tree
from ..errors import CheckpointError, UsageError
from ..files import atomic_path
from ..models.autoencoder import Autoencoder, AutoencoderConfig
from ..models.components import Components
from ..models.image_encoder import MEAN, STD
from ..presets import Defaults, Preset
from .diffusers_config import (
    AUTOENCODERS,
    TOWER,
    UNET,
    VERSION,
    autoencoder_config,
    autoencoder_document,
    expect_class,
    image_encoder_config,
    image_encoder_document,
    unet_config,
    unet_document,
)
from .rules import Ignored, Rules, listed, rule
from .sgm_config import defaults_for
from .store import PICKLE_SUFFIXES, TensorFile, TensorSet, stored_bytes
from .store import write as write_file

# The subfolder and the first word of the weight files of each network.
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "image_encoder": "model",
    "image_decoder": "diffusion_pytorch_model",
}
OURS = "stillmotion.json"
PIPELINE = "StableVideoDiffusionPipeline"
# Everything but weights.
DOCUMENTS = ("model_index.json", OURS, "*/config.json", "scheduler/*.json", "feature_extractor/*.json")

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


def read_preset(folder: Path) -> Preset:
    """The model in a diffusers folder: the shapes in its configurations, and its defaults.

    Defaults come from our own file in the folder where there is one; else the number of frames tells svd's from
    svd-xt's, and the scheduler's configuration gives the range of sigma. Raises CheckpointError where a configuration
    is missing, of another class, or has unknown block types.
    """
    folder = Path(folder)
    if (folder / "model_index.json").exists():
        expect_class(read_json(folder / "model_index.json"), [PIPELINE], folder / "model_index.json")
    unet = unet_config(read_json(folder / "unet" / "config.json"), folder / "unet")
    ours = read_json(folder / OURS) if (folder / OURS).exists() else {}
    defaults = parse(Defaults, ours["defaults"], str(folder / OURS)) if "defaults" in ours else None
    return Preset(
        name=str(ours.get("name", folder.resolve().name)),
        hub_id=None,
        unet=unet,
        autoencoder=autoencoder_config(read_json(folder / "vae" / "config.json"), folder / "vae"),
        image_encoder=image_encoder_config(
            read_json(folder / "image_encoder" / "config.json"), folder / "image_encoder"
        ),
        defaults=defaults or _derived_defaults(folder, unet.frames),
    )


def read_image_decoder(folder: Path) -> AutoencoderConfig | None:
    """The frame-wise decoder that we keep beside the others, or None where the folder has none."""
    path = Path(folder) / "image_decoder"
    return autoencoder_config(read_json(path / "config.json"), path) if path.is_dir() else None


def open_weights(place: Path, stem: str, variant: str | None) -> TensorSet:
    """The tensors of one network's folder, from one file or from the shards that its index names.

    stem: the first word of the files' names, one of WEIGHTS.
    Raises CheckpointError where there are none of that variant, or the index and the shards disagree.
    """
    _check_variant(variant)
    middle = f".{variant}" if variant else ""
    whole = place / f"{stem}{middle}.safetensors"
    index = place / f"{stem}.safetensors.index{middle}.json"
    if whole.exists():
        return TensorSet([TensorFile(whole)], str(whole))
    if index.exists():
        return _open_shards(index)
    found = sorted(path.name for path in place.glob("*") if path.suffix in (".safetensors", *PICKLE_SUFFIXES))
    hint = "; a pickle is never opened" if any(name.endswith(PICKLE_SUFFIXES) for name in found) else ""
    raise CheckpointError(f"{place} has {listed(found) or 'no weights'}; expected {whole.name} or {index.name}{hint}.")


def patterns(variant: str | None, parts: Iterable[str]) -> list[str]:
    """What to fetch from a hub repository: configurations, and the weights of some of WEIGHTS; no pickle."""
    weights = (f"{part}/{name}" for part in parts for name in weight_patterns(WEIGHTS[part], variant))
    return [*DOCUMENTS, *weights]


def weight_patterns(stem: str, variant: str | None) -> list[str]:
    """The names that one variant of a network's weights may have in its folder."""
    _check_variant(variant)
    middle = f".{variant}" if variant else ""
    found = [
        f"{stem}{middle}.safetensors",
        f"{stem}{middle}-?????-of-?????.safetensors",
        f"{stem}.safetensors.index{middle}.json",
    ]
    # How diffusers named the shards of a variant before 0.30.
    return [*found, f"{stem}-?????-of-?????{middle}.safetensors"] if variant else found


def write(
    folder: Path,
    components: Components,
    preset: Preset,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    max_shard_bytes: int | None = None,
    overwrite: bool = True,
) -> None:
    """Write the whole folder; diffusers' StableVideoDiffusionPipeline loads it, and so do we.

    Weights of more than `max_shard_bytes` are spread over several files. Raises UsageError for an image-only U-Net,
    which this layout cannot hold, or where `folder` holds something else, or exists and `overwrite` is off; a failure
    leaves nothing behind.
    """
    _check_variant(variant)
    folder = Path(folder)
    if folder.exists() and not (folder / "model_index.json").exists() and _is_occupied(folder):
        raise UsageError(f"{folder} holds something else than a model; expected a new folder or an older model's.")
    with atomic_path(folder, overwrite) as temporary:
        for name, text in _documents(components, preset, dtype).items():
            write_json(temporary / name, text)
        for part, tensors in _tensors(components).items():
            write_weights(temporary / part, WEIGHTS[part], RULES.export(tensors), dtype, variant, max_shard_bytes)


def write_weights(
    place: Path,
    stem: str,
    tensors: Mapping[str, Sequence[Tensor]],
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    max_shard_bytes: int | None = None,
) -> None:
    """Write one network's weights into its folder, over older ones of the same variant; each file whole or not at all.

    Weights of more than `max_shard_bytes` are spread over several files, which an index names.
    """
    _check_variant(variant)
    middle = f".{variant}" if variant else ""
    older = {path for pattern in weight_patterns(stem, variant) for path in place.glob(pattern)}
    shards = list(_shards(tensors, dtype, max_shard_bytes))
    names = [f"{stem}{middle}-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    index = place / f"{stem}.safetensors.index{middle}.json"
    if len(shards) == 1:
        names = [f"{stem}{middle}.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        write_file(place / name, shard, dtype)
    written = {place / name for name in names}
    if len(shards) > 1:
        total = sum(stored_bytes(parts, dtype) for parts in tensors.values())
        places = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        write_json(index, {"metadata": {"total_size": total}, "weight_map": places})
        written.add(index)
    for path in older - written:  # a whole file would be read before the shards
        path.unlink()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing; expected a diffusers folder, with unet, vae and image_encoder in it, or one of these."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({str(error).splitlines()[0]}); expected a configuration.") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}; expected a JSON object.")
    return found


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def decoder_only(image_decoder: Autoencoder) -> nn.ModuleDict:
    """The parts of a frame-wise decoder that are its own; its encoder is that of the model's autoencoder."""
    return nn.ModuleDict({"decoder": image_decoder.decoder, "post_quant_conv": image_decoder.post_quant_conv})


def _derived_defaults(folder: Path, frames: int) -> Defaults:
    path = folder / "scheduler" / "scheduler_config.json"
    scheduler = read_json(path) if path.exists() else {}
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
        "image_encoder/config.json": image_encoder_document(tower.cfg, dtype or tower.visual_projection.weight.dtype),
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
    places = read_json(index).get("weight_map")
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
