"""The components of a pipeline from a diffusers folder or a single file, and back to a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from ..checkpoints import diffusers as layout
from ..checkpoints.load import Loaded
from ..config import to_tree
from ..presets import Preset
from . import pretrained
from .generation import Component
from .networks import (
    AutoencoderKLTemporalDecoder,
    NormEps,
    UNetSpatioTemporalConditionModel,
    as_autoencoder,
    as_unet,
)
from .records import Config
from .scheduler import FILE as SCHEDULER_FILE
from .scheduler import EulerDiscreteScheduler

COMPONENTS = ("vae", "image_encoder", "unet", "scheduler", "feature_extractor")
NETWORKS = ("unet", "vae", "image_encoder")
EXTRACTOR_FILE = "preprocessor_config.json"


def read_components(
    folder: Path,
    given: Mapping[str, Component],
    preset: Preset | None,
    variant: str | None,
    dtype: torch.dtype,
    norm_eps: NormEps | None,
) -> dict[str, Component]:
    """Every component of a folder that is not given, in place of which nothing is read, and those given."""
    made = dict(given)
    if "vae" not in made:
        made["vae"] = AutoencoderKLTemporalDecoder.from_pretrained(folder / "vae", variant=variant, dtype=dtype)
    if "image_encoder" not in made:
        made["image_encoder"] = pretrained.read_image_encoder(folder / "image_encoder", variant, dtype)
    if "unet" not in made:
        made["unet"] = UNetSpatioTemporalConditionModel.from_pretrained(
            folder / "unet", variant=variant, dtype=dtype, norm_eps=norm_eps
        )
    if "scheduler" not in made:
        made["scheduler"] = _read_scheduler(folder, preset)
    if "feature_extractor" not in made:
        made["feature_extractor"] = _read_extractor(folder)
    return made


def components_of(loaded: Loaded, norm_eps: NormEps | None) -> dict[str, Component]:
    """Our networks behind diffusers' faces, beside the released scheduler and feature extractor."""
    components = loaded.components
    return {
        "vae": as_autoencoder(components.autoencoder, layout.autoencoder_document(components.autoencoder.cfg)),
        "image_encoder": pretrained.as_image_encoder(components.image_encoder),
        "unet": as_unet(components.unet, norm_eps or "original", layout.unet_document(components.unet.cfg)),
        "scheduler": _read_scheduler(None, loaded.preset),
        "feature_extractor": _read_extractor(None),
    }


def write_components(
    folder: Path,
    components: Mapping[str, Component],
    preset: Preset | None,
    variant: str | None,
    max_shard_size: int | str | None,
) -> None:
    """Write the diffusers folder, each file whole or not at all, beside what else is there."""
    size = pretrained.MAX_SHARD_SIZE if max_shard_size is None else max_shard_size
    most = pretrained.shard_bytes(size)
    for name in ("unet", "vae"):
        uncompiled(components[name]).save_pretrained(folder / name, variant=variant, max_shard_size=size)
    tower, place = uncompiled(components["image_encoder"]), folder / "image_encoder"
    shape = layout.image_encoder_config(tower.config.to_dict(), Path("the image encoder"))
    pretrained.write_network(tower, place, layout.WEIGHTS["image_encoder"], variant, most)
    layout.write_json(place / "config.json", layout.image_encoder_document(shape, tower.dtype))
    components["scheduler"].save_pretrained(folder / "scheduler")
    if components["feature_extractor"] is not None:
        components["feature_extractor"].save_pretrained(folder / "feature_extractor")
    if preset is not None:
        layout.write_json(folder / layout.OURS, {"name": preset.name, "defaults": to_tree(preset.defaults)})
    layout.write_json(folder / "model_index.json", index_of(components))


def index_of(components: Mapping[str, Component]) -> Config:
    """The index of a diffusers folder: library and class of each component."""
    index: dict[str, Any] = {"_class_name": layout.PIPELINE, "_diffusers_version": layout.VERSION}
    for name, component in components.items():
        of_transformers = name in ("image_encoder", "feature_extractor")
        kind = None if component is None else type(uncompiled(component)).__name__
        index[name] = [None if kind is None else "transformers" if of_transformers else "diffusers", kind]
    if components["feature_extractor"] is not None:  # transformers' name for it varies with what else is installed
        index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    return Config(index)


def uncompiled(component: Component) -> Component:
    """What torch.compile was given, or the component itself."""
    return component._orig_mod if isinstance(component, torch._dynamo.OptimizedModule) else component


def has_every_shape(folder: Path) -> bool:
    """Whether the folder has the configuration of every network, also of those that are given instead."""
    return all((folder / name / "config.json").exists() for name in NETWORKS)


def _read_scheduler(folder: Path | None, preset: Preset | None) -> EulerDiscreteScheduler:
    """The scheduler in a folder; where there is none, the released one with the range of the preset."""
    if folder is not None and (folder / "scheduler" / SCHEDULER_FILE).exists():
        return EulerDiscreteScheduler.from_config(layout.read_json(folder / "scheduler" / SCHEDULER_FILE))
    ends = {} if preset is None else {"sigma_min": preset.defaults.sigma_min, "sigma_max": preset.defaults.sigma_max}
    return EulerDiscreteScheduler.from_config(layout.SCHEDULER, **ends)


def _read_extractor(folder: Path | None) -> transformers.CLIPImageProcessor:
    """The feature extractor in a folder; where there is none, the released one."""
    path = None if folder is None else folder / "feature_extractor" / EXTRACTOR_FILE
    settings = dict(layout.FEATURE_EXTRACTOR) if path is None or not path.exists() else layout.read_json(path)
    made = transformers.CLIPImageProcessor.from_dict(settings)
    assert not isinstance(made, tuple)  # which it is only where unused settings are asked for
    return made
