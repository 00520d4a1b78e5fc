"""Single networks and configurations from a diffusers folder, a preset or a hub repository, and back to a folder."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ..checkpoints import diffusers as layout
from ..checkpoints.load import fill, locate
from ..errors import UsageError
from ..hub import Access
from ..models.image_encoder import ImageEncoder, build_image_encoder

STEM = layout.WEIGHTS["unet"]  # the first word of diffusers' own weight files
MAX_SHARD_SIZE = "10GB"  # diffusers' default for one network
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

Network = TypeVar("Network", bound=nn.Module)


def part_folder(
    source: str | Path, subfolder: str | None, names: Sequence[str], revision: str | None, access: Access
) -> Path:
    """The folder of one part of a model; of a hub repository only the files of these `names` are fetched from it."""
    inside = f"{subfolder}/" if subfolder else ""
    return locate(source, [inside + name for name in names], revision, access) / (subfolder or "")


def network_files(variant: str | None) -> list[str]:
    """The names that the files of one of diffusers' networks may have in its folder."""
    return ["config.json", *layout.weight_patterns(STEM, variant)]


def read_config(place: Path, class_name: str) -> dict[str, Any]:
    """The configuration of a network. Raises CheckpointError where there is none of this class."""
    found = layout.read_json(place / "config.json")
    layout.expect_class(found, [class_name], place)
    return found


def filled(network: Network, place: Path, variant: str | None, dtype: torch.dtype) -> Network:
    """A network on the meta device, given its weights; in eval mode, with gradients, as diffusers has it."""
    fill(network, layout.open_weights(place, STEM, variant), dtype)
    return network.requires_grad_(True).eval()


def read_image_encoder(place: Path, variant: str | None, dtype: torch.dtype) -> CLIPVisionModelWithProjection:
    """The vision tower in a folder."""
    with torch.device("meta"):
        tower = build_image_encoder(layout.image_encoder_config(layout.read_json(place / "config.json"), place))
    fill(tower, layout.open_weights(place, layout.WEIGHTS["image_encoder"], variant), dtype)
    return as_image_encoder(tower)


def as_image_encoder(tower: ImageEncoder) -> CLIPVisionModelWithProjection:
    """The same weights, not copied, in transformers' class; in eval mode, without gradients."""
    shape = CLIPVisionConfig.from_dict(layout.image_encoder_document(tower.cfg, tower.visual_projection.weight.dtype))
    with torch.device("meta"):
        theirs = CLIPVisionModelWithProjection(shape)
    theirs.load_state_dict(tower.state_dict(), assign=True)
    # It keeps the positions 0, 1, 2, ... in a buffer that no checkpoint holds.
    embeddings = theirs.vision_model.embeddings
    positions = torch.arange(embeddings.num_positions, device=tower.visual_projection.weight.device)[None]
    embeddings.register_buffer("position_ids", positions, persistent=False)
    return theirs.eval().requires_grad_(False)


def write_network(network: nn.Module, place: Path, stem: str, variant: str | None, max_shard_bytes: int | None) -> None:
    """Write a network's weights, each file whole or not at all."""
    tensors = {name: (tensor,) for name, tensor in network.state_dict().items()}
    layout.write_weights(place, stem, tensors, None, variant, max_shard_bytes)


def shard_bytes(size: int | str | None) -> int | None:
    """The most bytes of one file, given as a number or as in "5GB" or "200MiB". Raises UsageError."""
    if size is None or (isinstance(size, int) and size > 0):
        return size
    found = re.fullmatch(rf"(\d+)\s*({'|'.join(UNITS)})", str(size).strip().upper())
    if found is None or int(found[1]) == 0:
        raise UsageError(f"max_shard_size is {size!r}; expected a number of bytes above 0, or a text such as 5GB.")
    return int(found[1]) * UNITS[found[2]]


def check_saving(safe_serialization: bool = True, save_function: object = None, push_to_hub: bool = False) -> None:
    """Raise UsageError where a pickle, another writer or an upload is asked for."""
    if not safe_serialization:
        raise UsageError("safe_serialization is False; expected True: only safetensors files are written.")
    if save_function is not None:
        raise UsageError("save_function is given; expected None: safetensors files are written here.")
    if push_to_hub:
        raise UsageError("push_to_hub is True; expected False: upload the folder with `hf upload`.")


def check_loading(use_safetensors: bool | None) -> None:
    """Raise UsageError where a pickle is asked for."""
    if use_safetensors is False:
        raise UsageError("use_safetensors is False; expected True or nothing: a pickle is never opened.")


def warn_of(ignored: Mapping[str, object]) -> None:
    """Say which arguments nobody heeds."""
    if ignored:
        warnings.warn(f"from_pretrained does not know {', '.join(ignored)}, and goes on without.", stacklevel=3)


def chosen_dtype(torch_dtype: torch.dtype | None, dtype: torch.dtype | None) -> torch.dtype:
    """The precision under either of its names; float32 where neither is given, as in diffusers. Raises UsageError."""
    wanted = dtype if dtype is not None else torch_dtype
    if wanted is None:
        return torch.float32
    if not isinstance(wanted, torch.dtype) or not wanted.is_floating_point:
        raise UsageError(f"torch_dtype is {wanted!r}; expected a floating-point torch.dtype.")
    return wanted
