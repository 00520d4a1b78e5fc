"""The training loop, on one screen."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..events import Progress, Watch, unwatched
from ..placement import Placement, resolve
from . import checkpoint
from .config import AutoencoderTraining, LoopConfig, VideoTraining, settings_digest
from .ema import Ema
from .optim import learning_rate, optimizer_of


@runtime_checkable
class Loss(Protocol):
    """One training objective: the loss of the batch of `step`, a pure function of weights, seed and step."""

    def __call__(self, step: int) -> Tensor: ...


def train(
    cfg: LoopConfig,
    modules: Mapping[str, nn.Module],
    loss: Loss,
    folder: Path,
    watch: Watch = unwatched,
    stage: AutoencoderTraining | VideoTraining | None = None,
) -> Ema:
    """Train `modules` until `cfg.steps`, going on from the state in `folder` if there is one, and return the averages.

    Killed at any point and started again, it ends with the same weights. `stage` holds what `loss` depends on beside
    `cfg`. Raises TrainingError when the loss is no longer finite, or the state is another's or of other settings. The
    log is one JSON line every `cfg.log_every` steps in `folder/log.jsonl`.
    """
    for module in modules.values():
        module.to(device_of(cfg))
    optimizer = optimizer_of(cfg.optimizer, modules.values())
    ema = Ema(modules, cfg.optimizer.ema_decay)
    settings = settings_digest(cfg, stage)
    start = checkpoint.restore(folder, modules, ema, optimizer, settings)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    began, losses = time.monotonic(), []
    for step in range(start, cfg.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(cfg.optimizer, step, cfg.steps)
        value = loss(step)
        value.backward()
        norm = nn.utils.clip_grad_norm_(parameters, cfg.optimizer.max_grad_norm)
        if not math.isfinite(norm.item()):
            raise TrainingError(f"the gradient at step {step} is {norm.item()}; expected a finite one. Lower the rate.")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(modules, step)
        losses.append(value.item())
        done = step + 1
        if done % cfg.log_every == 0 or done == cfg.steps:
            seconds = (time.monotonic() - began) / (done - start)
            _log(folder, {"step": done, "loss": sum(losses) / len(losses), "norm": norm.item(), "seconds": seconds})
            losses = []
        if done % cfg.save_every == 0 or done == cfg.steps:
            checkpoint.save(folder, done, modules, ema, optimizer, settings)
        watch(Progress("train", done, cfg.steps))
    return ema


def device_of(cfg: LoopConfig) -> torch.device:
    """Where a run computes. Raises UsageError for a device that this machine lacks."""
    return torch.device(resolve(Placement(device=cfg.device, dtype="float32")).device)


def mixed_precision(cfg: LoopConfig) -> torch.autocast:
    """The context in which a run's networks are called."""
    return torch.autocast(device_of(cfg).type, torch.bfloat16, enabled=cfg.precision == "bf16")


def generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """The random numbers of one step: the same whenever and wherever the step is run."""
    mixed = (seed * 1_000_003 + step) * 8 + stream
    return torch.Generator().manual_seed(mixed)


def _log(folder: Path, line: dict[str, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
