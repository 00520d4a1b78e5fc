"""The resumable state of a run: weights, averages, optimiser moments and step, whole on disk or absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import TrainingError
from ..files import atomic_path
from .ema import Ema, named_parameters

WEIGHTS, AVERAGES, MOMENTS = "weights", "averages", "moments"


def save(folder: Path, step: int, modules: Mapping[str, nn.Module], ema: Ema, optimizer: Optimizer) -> None:
    """Replace the state in `folder` with the one after `step` steps, in one atomic move."""
    tensors = {f"{WEIGHTS}.{name}": p.detach() for name, p in named_parameters(modules).items()}
    tensors |= {f"{AVERAGES}.{name}": p for name, p in ema.averages.items()}
    tensors |= {f"{MOMENTS}.{name}": p for name, p in _moments(optimizer).items()}
    with atomic_path(Path(folder) / "state.safetensors") as path:
        save_file({key: value.contiguous() for key, value in tensors.items()}, path, {"step": json.dumps(step)})


def restore(folder: Path, modules: Mapping[str, nn.Module], ema: Ema, optimizer: Optimizer) -> int:
    """Put a saved state back and return how many steps it has behind it; 0 where there is none.

    Raises TrainingError when the state belongs to another model or is damaged.
    """
    path = Path(folder) / "state.safetensors"
    if not path.exists():
        return 0
    tensors = _read(path)
    step = saved_step(path)
    parameters = named_parameters(modules)
    wanted = {f"{WEIGHTS}.{name}": p.shape for name, p in parameters.items()}
    found = {key: value.shape for key, value in tensors.items() if key.startswith(f"{WEIGHTS}.")}
    foreign = [key for key in (wanted | found) if wanted.get(key) != found.get(key)]
    if foreign:
        raise TrainingError(
            f"{path} differs from this run in {len(foreign)} tensors, the first {foreign[0]}; expected this run's own."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"{WEIGHTS}.{name}"])
            if name in ema.averages:
                ema.averages[name].copy_(tensors[f"{AVERAGES}.{name}"])
    _restore_moments(optimizer, tensors)
    return step


def saved_step(path: Path) -> int:
    """How many steps the state in a file has behind it."""
    with Path(path).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return int(json.loads(header["__metadata__"]["step"]))


def averages(folder: Path, module_name: str) -> dict[str, Tensor]:
    """The averaged weights of one module of a saved run. Raises TrainingError where there is no run."""
    path = Path(folder) / "state.safetensors"
    if not path.exists():
        raise TrainingError(f"{folder} holds no training state; expected {path.name}.")
    prefix = f"{AVERAGES}.{module_name}."
    return {key.removeprefix(prefix): v for key, v in _read(path).items() if key.startswith(prefix)}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise TrainingError(f"{path} cannot be read ({error}); expected a whole training state. Remove it.") from None


def _moments(optimizer: Optimizer) -> dict[str, Tensor]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, parameter in enumerate(parameters)
        for name, value in optimizer.state.get(parameter, {}).items()
    }


def _restore_moments(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, value in tensors.items():
        if key.startswith(f"{MOMENTS}."):
            _, index, name = key.split(".", 2)
            optimizer.state[parameters[int(index)]][name] = value.clone()
