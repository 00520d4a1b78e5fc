"""Going on where memory runs out: the next cheaper plan for what failed, and a sentence about it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ..errors import StillmotionError
from ..models.heap import trim
from ..placement import Placement, Stage
from .memory import Workload, described, next_rung

Result = TypeVar("Result")


class Ladder:
    """An Attempt that survives running out of memory: it takes the next cheaper plan for the stage, and tries again.

    `notes` say what happened, a sentence each. Past the last rung it raises StillmotionError.
    """

    def __init__(self, stage: Stage, load: Workload) -> None:
        self._stage = stage
        self._load = load
        self.notes: list[str] = []

    def __call__(self, stage_name: str, run: Callable[[], Any]) -> Any:
        def step_down(whose: str) -> None:
            lower, note = next_plan(self._load, self._stage.placement, stage_name, whose)
            self._stage.adopt(lower)
            self.notes.append(note)

        return until_it_fits(run, self._stage.device, step_down)


def until_it_fits(run: Callable[[], Result], device: torch.device, step_down: Callable[[str], None]) -> Result:
    """What `run` returns once it does not run out of memory.

    step_down: told whose memory ran out, it makes the next attempt take less, or raises. Other errors pass.
    """
    while True:
        trim()
        try:
            return run()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            whose = "the device" if isinstance(error, torch.OutOfMemoryError) else "this machine"
        # Out here, where no traceback keeps the tensors of the failed attempt alive.
        free_caches(device)
        step_down(whose)


def next_plan(load: Workload, placement: Placement, stage_name: str, whose: str) -> tuple[Placement, str]:
    """The plan to go on with where a stage ran out of memory under this one, and the sentence that says so.

    Raises StillmotionError where none is left.
    """
    lower = next_rung(load, placement, stage_name)
    if lower is None:
        raise StillmotionError(
            f"memory ran out in {stage_name} at {load.video.frames} frames of {load.width}x{load.height}, also with "
            "every saving; try a smaller --size or fewer --frames."
        )
    return lower, f"{whose} ran out of memory in {stage_name}; went on with {described(lower)}."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; the CPU's allocator and some libraries raise a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error).lower()
    signs = ("out of memory", "not enough memory", "allocate memory", "alloc_failed", "could not create a memory")
    return isinstance(error, RuntimeError) and any(sign in said for sign in signs)


def free_caches(device: torch.device) -> None:
    """Give back what is no longer used: cycles of Python, and the blocks that a device's allocator keeps."""
    gc.collect()
    trim()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
