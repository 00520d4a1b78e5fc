"""Networks that wait in main memory and come to the device only while they work."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from typing import Literal

import torch

from ..placement import Placement, layer_by_layer, resolve, visiting
from .generation import Component

logger = logging.getLogger(__name__)
Kind = Literal["model", "sequential"]


@dataclasses.dataclass(frozen=True, slots=True)
class Offload:
    """Where offloaded networks work, and whether they come there whole or a layer at a time."""

    kind: Kind
    device: torch.device

    def use(self, network: Component) -> contextlib.AbstractContextManager[None]:
        """The network is ready on the device inside the block, and gone from it afterwards."""
        return visiting(network, self.device) if self.kind == "model" else layer_by_layer(network, self.device)


def offload_to(kind: Kind, gpu_id: int | None, device: str | torch.device | None) -> Offload | None:
    """The offload that diffusers' arguments ask for; None on a machine without a GPU.

    Raises UsageError for a device that it lacks.
    """
    found = device_of(device or "auto")
    target = found if gpu_id is None or found.type == "cpu" else device_of(f"{found.type}:{gpu_id}")
    if target.type == "cpu":
        logger.info("There is no GPU here: offload keeps every network where it is.")
        return None
    return Offload(kind, target)


def device_of(device: str | torch.device) -> torch.device:
    """A device that this machine has. Raises UsageError for one that it lacks."""
    return torch.device(resolve(Placement(device=str(device), dtype="float32")).device)
