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


def workload(request: Request, width: int, height: int) -> Workload:
    """What decides the memory of a video of this size."""
    placement, variant = request.placement, request.settings.variant
    is_mapped = placement.device == "cpu" and stored_dtype(request.model, variant) == DTYPES[placement.dtype]
    return Workload(request.preset, request.video, width, height, is_mapped)


def placement_for(request: Request, width: int, height: int) -> Placement:
    """Where and how a video of this size runs, within the memory that was asked for.

    Without a wish, an accelerator is treated as `auto`, and a CPU is left alone as long as its memory suffices; where
    no plan fits, that of least memory is tried. Raises UsageError where a wish cannot be met.
    """
    load, wish = workload(request, width, height), request.settings.memory
    if wish == "recipe":
        assert request.recipe is not None
        return dataclasses.replace(request.placement, savings=request.recipe.plan.savings)
    if wish is not None:
        return plan_memory(load, request.placement, *_budget(wish, request.placement)).placement
    room, _ = _budget("auto", request.placement)
    if at_most(load, request.placement) <= room:
        return request.placement
    try:
        return plan_memory(load, request.placement, room).placement
    except UsageError:
        return lowest(load, request.placement).placement


def prediction(request: Request, width: int, height: int) -> MemoryPlan:
    """The plan of a video of this size with the peak of each stage."""
    return predict(workload(request, width, height), placement_for(request, width, height))


def _budget(wish: int | str, placement: Placement) -> tuple[int, int]:
    """Bytes in all, and how many of them are taken before the first weight is read."""
    device = torch.device(placement.device)
    if wish == "auto":
        return int(free_bytes(device) * (1 - RESERVED_SHARE)), 0
    # A wish is for the whole process on a CPU, and for all that it takes of a GPU.
    return int(wish), held_bytes() if device.type == "cpu" else CONTEXT_BYTES
