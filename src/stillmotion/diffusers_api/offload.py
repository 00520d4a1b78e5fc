"""Networks that wait in main memory and visit the device only while they compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

CPU = torch.device("cpu")


def accelerator() -> torch.device:
    """The machine's GPU, or its CPU where it has none."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return CPU if found is None else found


@contextlib.contextmanager
def visiting(network: nn.Module, device: torch.device) -> Iterator[None]:
    """The whole network is on the device inside the block, and back in main memory behind it."""
    network.to(device)
    try:
        yield
    finally:
        network.to(CPU)


@contextlib.contextmanager
def layer_by_layer(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside the block each layer that owns weights is on the device only while it computes."""
    handles = []
    for module in _owners(network):
        handles.append(module.register_forward_pre_hook(lambda layer, inputs: (layer.to(device), None)[1]))
        handles.append(module.register_forward_hook(lambda layer, inputs, output: (layer.to(CPU), None)[1]))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        network.to(CPU)


def _owners(module: nn.Module) -> list[nn.Module]:
    """The outermost modules with tensors of their own."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if own:
        return [module]
    return [owner for child in module.children() for owner in _owners(child)]
