"""Where and how modules run: device, precision, and which of them wait in main memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

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


def resolved_dtype(placement: Placement) -> Literal["float32", "bfloat16", "float16"]:
    """The precision of a placement that `resolve` has settled."""
    assert placement.dtype != "auto", "resolve has not been called"
    return placement.dtype


class Stage:
    """Components made ready to run under one resolved placement; `use` brings a network to the device for a while."""

    def __init__(self, components: Components, placement: Placement) -> None:
        self.components = components
        self.placement = placement
        self.device = torch.device(placement.device)
        self.dtype = DTYPES[placement.dtype]
        for network in components.networks().values():
            home = self.device if placement.offload == "none" else torch.device("cpu")
            network.to(home, self.dtype_of(network))

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


class _Home:
    """Where a module's tensors lie in main memory: they are sent out as copies, and come back by being remembered.

    Weights do not change while they are away, so nothing is copied back; and they stay what they were, ordinary
    tensors in mapped pages, also where the generation runs in inference mode.
    """

    def __init__(self, module: nn.Module) -> None:
        with _plainly():
            tensors = (*module.parameters(), *module.buffers())
            self._tensors = [(tensor, tensor.data.to("cpu")) for tensor in tensors]
        self.recall()

    def send(self, device: torch.device) -> None:
        """Put copies on the device in the tensors' places."""
        with _plainly():
            for tensor, home in self._tensors:
                tensor.data = _copy(home, device)

    def before(self, device: torch.device) -> Callable[[nn.Module, Any], None]:
        """A hook that sends the tensors when their layer is called."""
        return lambda layer, inputs: self.send(device)

    def after(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        """A hook that puts them back behind the call."""
        self.recall()

    def recall(self) -> None:
        """Put the tensors back; the copies are freed."""
        with _plainly():
            for tensor, home in self._tensors:
                tensor.data = home


def _copy(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor.to(device)


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Tensors made inside are ordinary ones, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.no_grad():
        yield


@contextlib.contextmanager
def visiting(network: nn.Module, device: torch.device) -> Iterator[None]:
    """The whole network is on the device inside the block, and back in main memory behind it."""
    home = _Home(network)
    try:
        home.send(device)
        yield
    finally:
        home.recall()


@contextlib.contextmanager
def layer_by_layer(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside the block every layer that owns tensors is on the device only while it computes; behind it none is."""
    handles, homes = [], []
    for module in owners(network):
        home = _Home(module)
        homes.append(home)
        handles.append(module.register_forward_pre_hook(home.before(device)))
        handles.append(module.register_forward_hook(home.after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for home in homes:  # an error inside a layer leaves it on the device
            home.recall()


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
