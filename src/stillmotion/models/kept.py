"""What is made of a network's weights, kept from one video to the next while both stay what they are."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Made = TypeVar("Made")
# Numbers of each tensor that are looked at: whoever writes past torch's count of changes (`parameter.data`) rarely
# leaves the first ones as they were.
SEEN = 8


class Kept:
    """Weights of one network as a library orders them, for inputs of one size."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}
        self._of: Hashable = None

    def __len__(self) -> int:
        return len(self._made)

    def settle(self, network: nn.Module, size: tuple[int, ...]) -> None:
        """Before each video: everything goes unless weights and size are those of the last one."""
        of = size, tuple(_mark(parameter) for parameter in network.parameters())
        if of != self._of:
            self.clear()
            self._of = of

    def ready(self, key: Hashable, make: Callable[[], Made]) -> tuple[Made, bool]:
        """What `make` once made under this key, and whether that was now."""
        is_new = key not in self._made
        if is_new:
            self._made[key] = make()
        return self._made[key], is_new

    def clear(self) -> None:
        """Let go of everything."""
        self._made.clear()
        self._of = None


def _mark(parameter: Tensor) -> Hashable:
    """What changes when a tensor's numbers do, but for writes that pass torch by and leave its first numbers alone."""
    changes = 0 if parameter.is_inference() else parameter._version
    first = parameter.detach().flatten()[:SEEN].contiguous().view(torch.uint8)
    return parameter.data_ptr(), changes, tuple(first.tolist())
