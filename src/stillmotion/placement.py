"""Where and how modules run: device, precision, and which of them wait in main memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from .config import config
from .errors import UsageError
from .models.components import Components

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DType = Literal["auto", "float32", "bfloat16", "float16"]
Offload = Literal["none", "model", "sequential"]


@config
class Placement:
    """How a generation is to run; `auto` is resolved by `resolve` for the machine at hand."""

    # auto, cpu, cuda, cuda:1, mps, ...
    device: str = "auto"
    dtype: DType = "auto"
    # none: all on the device. model: one network at a time. sequential: one layer at a time.
    offload: Offload = "none"


def resolve(placement: Placement) -> Placement:
    """The same with the device and the precision that this machine has. Raises UsageError for a device it lacks."""
    device = _default_device() if placement.device == "auto" else placement.device
    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"device is {device!r}, which this machine cannot use ({reason}); expected one it has."
        ) from None
    dtype = _default_dtype(torch.device(device)) if placement.dtype == "auto" else placement.dtype
    if dtype == "float16" and torch.device(device).type == "cpu":
        raise UsageError("dtype is float16 on the CPU, which is slow and overflows; expected bfloat16 or float32.")
    return Placement(device=device, dtype=dtype, offload=placement.offload)


class Stage:
    """Components made ready to run under one resolved placement; `use` brings a network to the device for a while."""

    def __init__(self, components: Components, placement: Placement) -> None:
        self.components = components
        self.placement = placement
        self.device = torch.device(placement.device)
        self.dtype = DTYPES[placement.dtype]
        for network in components.networks().values():
            network.to(dtype=self.dtype_of(network))
            if placement.offload == "none":
                network.to(self.device)

    def dtype_of(self, network: nn.Module) -> torch.dtype:
        """The precision a network runs in: an autoencoder whose weights overflow in float16 stays in float32."""
        overflows = network is not self.components.unet and network is not self.components.image_encoder
        if overflows and self.dtype == torch.float16 and self.components.autoencoder.cfg.force_upcast:
            return torch.float32
        return self.dtype

    @contextlib.contextmanager
    def use(self, network: nn.Module) -> Iterator[None]:
        """The network is ready on the device inside the block, and gone from it afterwards where it is offloaded."""
        if self.placement.offload == "none":
            yield
        else:
            visit = visiting if self.placement.offload == "model" else layer_by_layer
            with visit(network, self.device):
                yield


@contextlib.contextmanager
def visiting(network: nn.Module, device: torch.device) -> Iterator[None]:
    """The whole network is on the device inside the block, and back in main memory behind it."""
    try:
        network.to(device)
        yield
    finally:
        network.to("cpu")


@contextlib.contextmanager
def layer_by_layer(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside the block every layer that owns tensors is on the device only while it computes; behind it none is."""
    handles = []
    for module in owners(network):
        handles.append(module.register_forward_pre_hook(lambda layer, inputs: (layer.to(device), None)[1]))
        handles.append(module.register_forward_hook(lambda layer, inputs, output: (layer.to("cpu"), None)[1]))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        network.to("cpu")  # an error inside a layer leaves it on the device


def owners(module: nn.Module) -> list[nn.Module]:
    """The outermost modules with parameters or buffers of their own."""
    if any(True for _ in module.parameters(recurse=False)) or any(True for _ in module.buffers(recurse=False)):
        return [module]
    return [owner for child in module.children() for owner in owners(child)]


def _default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _default_dtype(device: torch.device) -> Literal["float32", "bfloat16", "float16"]:
    if device.type == "cpu":
        return "bfloat16" if cpu_has_bf16() else "float32"
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    return "float16"


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 natively (AVX-512 BF16 or AMX)."""
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
