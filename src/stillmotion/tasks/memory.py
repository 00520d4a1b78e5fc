"""How much memory a request may take, and the plan that keeps within it."""

from __future__ import annotations

import dataclasses

import torch

from ..checkpoints.load import stored_dtype
from ..errors import UsageError
from ..pipelines.memory import MemoryPlan, Workload, at_most, lowest, plan_memory, predict
from ..placement import DTYPES, Placement
from .machine import free_bytes, held_bytes
from .request import Request

# Of what is free, what `auto` leaves to others and to the error of the prediction.
RESERVED_SHARE = 0.1
# What CUDA itself takes: its context, its kernels, the workspaces of its libraries.
CONTEXT_BYTES = 600 * 10**6


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """Memory before the first weight is read: what of the device is free, and what the process holds on it."""

    free_bytes: int
    held_bytes: int


def room_now(placement: Placement) -> Room:
    """Of the device of a resolved placement."""
    device = torch.device(placement.device)
    return Room(free_bytes(device), held_bytes() if device.type == "cpu" else CONTEXT_BYTES)


def workload(request: Request, width: int, height: int) -> Workload:
    """What decides the memory of a video of this size."""
    placement, variant = request.placement, request.settings.variant
    is_mapped = placement.device == "cpu" and stored_dtype(request.model, variant) == DTYPES[placement.dtype]
    return Workload(request.preset, request.video, width, height, is_mapped)


def placement_for(request: Request, width: int, height: int, room: Room | None = None) -> Placement:
    """Where and how a video of this size runs, within the memory that was asked for.

    room: that of before the model was read, where it has been; else that of now.

    Without a wish, an accelerator is treated as `auto`, and a CPU is left alone as long as its memory suffices; where
    no plan fits, that of least memory is tried. Raises UsageError where a wish cannot be met.
    """
    load, wish = workload(request, width, height), request.settings.memory
    room = room or room_now(request.placement)
    if wish == "recipe":
        assert request.recipe is not None
        return dataclasses.replace(request.placement, savings=request.recipe.plan.savings)
    if wish is not None:
        return plan_memory(load, request.placement, *_budget(wish, room)).placement
    budget, _ = _budget("auto", room)
    if at_most(load, request.placement) <= budget:
        return request.placement
    try:
        return plan_memory(load, request.placement, budget).placement
    except UsageError:
        return lowest(load, request.placement).placement


def prediction(request: Request, width: int, height: int) -> MemoryPlan:
    """The plan of a video of this size with the peak of each stage."""
    return predict(workload(request, width, height), placement_for(request, width, height))


def _budget(wish: int | str, room: Room) -> tuple[int, int]:
    """Bytes in all, and how many of them are taken before the first weight is read."""
    if wish == "auto":
        return int(room.free_bytes * (1 - RESERVED_SHARE)), 0
    # A wish is for the whole process on a CPU, and for all that it takes of a GPU.
    return int(wish), room.held_bytes
