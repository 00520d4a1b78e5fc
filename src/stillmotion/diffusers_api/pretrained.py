"""Single networks and configurations from a diffusers folder, a preset or a hub repository, and back to a folder."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import hub
from ..checkpoints.load import HUB_ID
from ..checkpoints.store import TensorFile, TensorSet, write
from ..errors import CheckpointError, UsageError
from ..files import atomic_path
from ..presets import PRESETS

STEM = "diffusion_pytorch_model"  # the first word of diffusers' weight files


def model_folder(source: str | Path, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder of a preset, of a path or of a hub repository; of the last, the files that match are fetched.

    Raises UsageError where it is none of them, HubError where it cannot be fetched.
    """
    preset = PRESETS.get(source) if isinstance(source, str) else None
    if preset is not None and preset.hub_id is None:
        return Path(str(importlib.resources.files("stillmotion") / "weights" / preset.name))
    if preset is None and Path(source).is_dir():
        return Path(source)
    repo_id = str(source) if preset is None else str(preset.hub_id)
    if not re.fullmatch(HUB_ID, repo_id):
        raise UsageError(
            f"{source} is no model: there is no such folder; expected a diffusers folder, a hub repository owner/name, "
            f"or a preset: {', '.join(PRESETS)}."
        )
    return hub.fetch(repo_id, revision=revision, patterns=patterns)


def part_folder(source: str | Path, subfolder: str | None, variant: str | None, revision: str | None) -> Path:
    """The folder that holds the configuration and the weights of one part of a model."""
    inside = f"{subfolder}/" if subfolder else ""
    patterns = [f"{inside}*.json", f"{inside}*{f'.{variant}' if variant else ''}*.safetensors"]
    return model_folder(source, revision, patterns) / (subfolder or "")


def read_document(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; expected a configuration, as diffusers writes it.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {str(error).splitlines()[0]}.") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}; expected a JSON object.")
    return found


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_weights(network: nn.Module, place: Path, variant: str | None, dtype: torch.dtype | None) -> None:
    """Fill a network on the meta device from the weights in `place`, whole or in shards.

    dtype: what floating-point weights become; None keeps the stored type.
    Raises CheckpointError where tensors are missing, unknown or of another shape.
    """
    stem = f"{STEM}.{variant}" if variant else STEM
    files = [place / f"{stem}.safetensors"]
    if not files[0].exists():
        files = sorted(place.glob(f"{stem}-?????-of-?????.safetensors"))
    if not files:
        raise CheckpointError(f"{place} has no weights; expected {stem}.safetensors; a pickle is never opened.")
    tensors = TensorSet([TensorFile(path) for path in files], str(place))
    _check_names(network, tensors)
    # The clone also frees the network from the file, which may be written anew while it lives.
    state = {name: tensors.tensor(name).to(dtype=dtype, copy=True) for name in tensors.entries}
    network.load_state_dict(state, strict=True, assign=True)


def write_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights as one safetensors file, whole or not at all."""
    write(path, {name: (tensor,) for name, tensor in network.state_dict().items()})


def check_saving(safe_serialization: bool) -> None:
    """Raise UsageError where a pickle is asked for."""
    if not safe_serialization:
        raise UsageError("safe_serialization is False; expected True: only safetensors files are written.")


def check_loading(use_safetensors: bool | None) -> None:
    """Raise UsageError where a pickle is asked for."""
    if use_safetensors is False:
        raise UsageError("use_safetensors is False; expected True or nothing: a pickle is never opened.")


def chosen_dtype(torch_dtype: torch.dtype | None, dtype: torch.dtype | None) -> torch.dtype:
    """The precision under either of its names; float32 where neither is given, as in diffusers. Raises UsageError."""
    wanted = dtype if dtype is not None else torch_dtype
    if wanted is None:
        return torch.float32
    if not isinstance(wanted, torch.dtype) or not wanted.is_floating_point:
        raise UsageError(f"torch_dtype is {wanted!r}; expected a floating-point torch.dtype.")
    return wanted


def _check_names(network: nn.Module, tensors: TensorSet) -> None:
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: entry.shape for name, entry in tensors.entries.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{tensors.label} does not fit its configuration in {len(wrong)} tensors: {name} is "
            f"{found.get(name, 'missing')}; expected {expected.get(name, 'no such tensor')}."
        )
