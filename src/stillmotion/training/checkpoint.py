"""The resumable state of a run: weights, averages, optimiser moments and step, whole on disk or absent."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from ..checkpoints.store import write
from ..errors import TrainingError
from .ema import Ema, named_parameters

WEIGHTS, AVERAGES, MOMENTS = "weights", "averages", "moments"


def save(
    folder: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    ema: Ema,
    optimizer: Optimizer,
    settings: str | None = None,
) -> None:
    """Replace the state in `folder` with the one after `step` steps, in one atomic move.

    settings: a digest of what the weights depend on; `restore` refuses another.
    """
    metadata = {"step": json.dumps(step)} | ({} if settings is None else {"settings": settings})
    tensors = {f"{WEIGHTS}.{name}": p.detach() for name, p in named_parameters(modules).items()}
    tensors |= {f"{AVERAGES}.{name}": p for name, p in ema.averages.items()}
    tensors |= {f"{MOMENTS}.{name}": p for name, p in _moments(optimizer).items()}
    write(Path(folder) / "state.safetensors", {key: [value] for key, value in tensors.items()}, metadata=metadata)


def restore(
    folder: Path, modules: Mapping[str, nn.Module], ema: Ema, optimizer: Optimizer, settings: str | None = None
) -> int:
    """Put a saved state back and return how many steps it has behind it; 0 where there is none.

    A state without a digest of its settings, as older ones are, is taken whatever `settings` is. Raises TrainingError,
    and changes nothing, when the state belongs to another model or to other settings, or is damaged.
    """
    path = Path(folder) / "state.safetensors"
    if not path.exists():
        return 0
    tensors = _read(path)
    step = saved_step(path)
    begun_with = _metadata(path).get("settings")
    if None not in (begun_with, settings) and begun_with != settings:
        raise TrainingError(
            f"{path} was begun with other settings; expected the same, but for the numbers of steps, or another folder."
        )
    parameters = named_parameters(modules)
    wanted = {f"{WEIGHTS}.{name}": p.shape for name, p in parameters.items()}
    wanted |= {f"{AVERAGES}.{name}": p.shape for name, p in ema.averages.items()}
    found = {key: value.shape for key, value in tensors.items() if key.startswith((f"{WEIGHTS}.", f"{AVERAGES}."))}
    foreign = [key for key in (wanted | found) if wanted.get(key) != found.get(key)]
    if foreign:
        raise TrainingError(
            f"{path} differs from this run in {len(foreign)} tensors, the first {foreign[0]}; expected this run's own."
        )
    moments = _saved_moments(path, optimizer, tensors)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"{WEIGHTS}.{name}"])
            if name in ema.averages:
                ema.averages[name].copy_(tensors[f"{AVERAGES}.{name}"])
    for parameter, name, value in moments:
        # AdamW keeps the number of steps on the CPU, whatever the parameters' device.
        optimizer.state[parameter][name] = value.clone().to(parameter.device if value.ndim else "cpu")
    return step


def saved_step(path: Path) -> int:
    """How many steps the state in a file has behind it. Raises TrainingError where the file does not say."""
    text = _metadata(Path(path)).get("step", "")
    if not text.isdecimal():
        raise TrainingError(f"{path} says {text or 'nothing'} of its steps; expected a number of them. Remove it.")
    return int(text)


def averages(folder: Path, module_name: str) -> dict[str, Tensor]:
    """The averaged weights of one module of a saved run. Raises TrainingError where there is no such run or module."""
    path = Path(folder) / "state.safetensors"
    if not path.exists():
        raise TrainingError(f"{folder} holds no training state; expected {path.name}.")
    prefix = f"{AVERAGES}.{module_name}."
    found = {key.removeprefix(prefix): v for key, v in _read(path).items() if key.startswith(prefix)}
    if not found:
        raise TrainingError(f"{path} has no averages of {module_name}; expected the state of a run that trains it.")
    return found


def _read(path: Path) -> dict[str, Tensor]:
    with _readable(path):
        return load_file(path)


def _metadata(path: Path) -> dict[str, str]:
    with _readable(path), safe_open(path, framework="pt") as file:
        return file.metadata() or {}


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"{path} cannot be read ({error}); expected a whole training state. Remove it.") from None


def _moments(optimizer: Optimizer) -> dict[str, Tensor]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, parameter in enumerate(parameters)
        for name, value in optimizer.state.get(parameter, {}).items()
    }


def _saved_moments(
    path: Path, optimizer: Optimizer, tensors: Mapping[str, Tensor]
) -> list[tuple[nn.Parameter, str, Tensor]]:
    """Each stored moment with its parameter and its name. Raises TrainingError for one of another shape or place."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found = []
    for key, value in tensors.items():
        part, _, rest = key.partition(".")
        if part != MOMENTS:
            continue
        index, _, name = rest.partition(".")
        if not (index.isdecimal() and name and int(index) < len(parameters)) or (
            value.ndim > 0 and value.shape != parameters[int(index)].shape
        ):
            raise TrainingError(f"{path} has the moment {key}, which is none of this run's; expected this run's own.")
        found.append((parameters[int(index)], name, value))
    return found
