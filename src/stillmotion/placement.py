"""Where and how modules run: device, precision, and which of them wait in main memory."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import nn

from .config import config
from .errors import UsageError
from .models.compiled import Compiled
from .models.components import Components
from .models.kept import Kept
from .models.mapped import settle, sparing
from .models.prepared import is_small
from .models.unet import set_forward_slices

MAX_REASON = 80  # characters of what torch says of a device
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DType = Literal["auto", "float32", "bfloat16", "float16"]
Offload = Literal["none", "model", "sequential"]
Branches = Literal["together", "in-turn"]
Park = Literal["device", "host", "disk"]
Compile = Literal["off", "region"]
CompileWish = Literal["off", "region", "auto"]
# Calls of the network beyond which compiling is worth its wait on a GPU: by counts it spares up to 450 GB of traffic in
# a step of 25 frames of 576 x 1024, 0.1 s of an H200; starting with what an earlier run has compiled takes some 8 s.
COMPILED_CALLS = 80
# Reads one network of a model, by its name in `Components`, into main memory, in the precision that is stored.
Fetch = Callable[[str], nn.Module]


# Steps from which on it takes less time to keep a U-Net's weights in the order of a CPU's library than to order them in
# each: at 14 x 128 x 128 the first step takes 19 s and others 8.7 instead of 10.7 (float32), 6.6 and 4.8 instead of 5.8
# (bfloat16).
LEAST_STEPS = {"float32": 5, "bfloat16": 2}


@config
class Savings:
    """Time given for memory. None of it changes a frame by more than the rounding of sums."""

    # The conditional and the unconditional estimate of a step: in one batch, or one after the other.
    branches: Branches = "together"
    # Parts in which the wide middle of every feed-forward is computed; None for all at once.
    slices: Annotated[int | None, Field(ge=1, le=1024)] = None
    # Whether a CPU keeps the U-Net's weights in its library's order from the first step on, and for the next video of
    # that size, beside the file's own; else each step orders them anew.
    keeps_order: bool = True
    # Frames that go through a layer of the decoder together, and rows of them; None leaves it to the decoder.
    decode_frames: Annotated[int | None, Field(ge=1, le=100_000)] = None
    decode_rows: Annotated[int | None, Field(ge=1, le=100_000)] = None
    # Where the decoder's activations wait.
    park: Park = "device"
    # Where an image that is encoded in bands of rows waits between layers; None to encode it whole.
    encode_park: Park | None = None


@config
class Placement:
    """How a generation is to run; `auto` is resolved by `resolve` for the machine at hand."""

    # auto, cpu, cuda, cuda:1, mps, ...
    device: str = "auto"
    dtype: DType = "auto"
    # none: all on the device. model: one network at a time. sequential: one layer at a time; on a CPU, the weights are
    # pages of a file, and in memory only around their use.
    offload: Offload = "none"
    # region: each kind of block is compiled, once for all its blocks, sizes and images.
    compile: Compile = "off"
    savings: Savings = Savings()

    def keeps_order(self, steps: int) -> bool:
        """Whether the U-Net's weights stay in the order of a CPU's library for so many steps, which have to repay it.

        Those that wait in their file never do.
        """
        is_worth_it = steps >= LEAST_STEPS.get(self.dtype, LEAST_STEPS["float32"])
        return self.savings.keeps_order and is_worth_it and self.offload != "sequential"


def resolve(placement: Placement) -> Placement:
    """The same with the device and the precision that this machine has. Raises UsageError for a device it lacks."""
    device = _default_device() if placement.device == "auto" else placement.device
    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"device is {device!r}, which this machine cannot use ({_reason(error)}); expected one it has."
        ) from None
    dtype = _default_dtype(torch.device(device)) if placement.dtype == "auto" else placement.dtype
    if dtype == "float16" and torch.device(device).type == "cpu":
        raise UsageError("dtype is float16 on the CPU, which is slow and overflows; expected bfloat16 or float32.")
    return dataclasses.replace(placement, device=device, dtype=dtype)


def _reason(error: Exception) -> str:
    """torch's own words where they are few: of some devices it lists every one that it knows."""
    said = str(error).splitlines()[0]
    if len(said) <= MAX_REASON:
        return said
    return "this build of torch does not have it" if "backend" in said else "torch knows no such device"


def resolved_dtype(placement: Placement) -> Literal["float32", "bfloat16", "float16"]:
    """The precision of a placement that `resolve` has settled."""
    assert placement.dtype != "auto", "resolve has not been called"
    return placement.dtype


def chosen_compile(wish: CompileWish, placement: Placement, calls: int) -> Compile:
    """What `auto` means for so many calls of the network under a resolved placement."""
    if wish != "auto":
        return wish
    pays = torch.device(placement.device).type == "cuda" and placement.offload != "sequential"
    return "region" if pays and calls > COMPILED_CALLS else "off"


class Stage:
    """Components made ready to run under one resolved placement; `use` brings a network to the device for a while.

    With `fetch`, a network that holds no numbers yet is read when it is needed. On a CPU, where there is nowhere else
    to wait, an offloaded network is then let go behind its use, and read again for the next.
    """

    def __init__(self, components: Components, placement: Placement, fetch: Fetch | None = None) -> None:
        self.components = components
        self.device = torch.device(placement.device)
        self.dtype = DTYPES[placement.dtype]
        self._fetch = fetch
        self._compiled: Compiled | None = None
        self._kept = Kept()
        self.adopt(placement)

    def adopt(self, placement: Placement) -> None:
        """Run under `placement` from now on, which has the same device and the same precision."""
        self.placement = placement
        self._kept.clear()
        set_forward_slices(self.components.unet, placement.savings.slices)
        for name, network in self.components.networks().items():
            if self._reads_anew:
                network.to("meta")
                continue
            if self._fetch is not None and _is_empty(network):
                _fill(network, self._read(name, self.dtype_of(network)))
            home = self.device if placement.offload == "none" else torch.device("cpu")
            network.to(home, self.dtype_of(network))
            if placement.offload == "none" and self.device.type == "cuda":
                # As the prepared network and the decoder convolve.
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if placement.offload == "sequential" and self.device.type == "cuda":
                _pin(network)

    @property
    def compiled(self) -> Compiled | None:
        """How the networks are compiled, if they are; not where each layer is away until it computes."""
        if self.placement.compile == "off" or self.placement.offload == "sequential":
            return None
        self._compiled = self._compiled or Compiled(self.device)
        return self._compiled

    def kept_for(self, steps: int) -> Kept | None:
        """Where the U-Net's weights stay in the order of a CPU's library; None where each generation sees to its own.

        steps: of the generation, as for `Placement.keeps_order`.
        """
        stays = self.placement.keeps_order(steps) or is_small(self.components.unet)
        return self._kept if self.device.type == "cpu" and stays else None

    @property
    def runs_compiled(self) -> Compile:
        """What came of the placement's wish: nothing is compiled once the compiler has failed."""
        return "region" if self.compiled is not None and self.compiled.failure is None else "off"

    @property
    def _reads_anew(self) -> bool:
        """Whether a network is in memory only while it is used."""
        return self._fetch is not None and self.device.type == "cpu" and self.placement.offload != "none"

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
            return
        try:
            with self._visit(network):
                yield
        finally:
            self._kept.clear()

    def _visit(self, network: nn.Module) -> contextlib.AbstractContextManager[None]:
        if self._reads_anew:
            return self._reading(network)
        visit = visiting if self.placement.offload == "model" else layer_by_layer
        return visit(network, self.device)

    @contextlib.contextmanager
    def _reading(self, network: nn.Module) -> Iterator[None]:
        """The network has its numbers inside the block."""
        empty = [(dict(module._parameters), dict(module._buffers)) for module in network.modules()]
        names = [name for name, each in self.components.networks().items() if each is network]
        try:
            with _plainly():
                _fill(network, self._read(names[0], self.dtype_of(network)))
            with sparing(network) if self.placement.offload == "sequential" else contextlib.nullcontext():
                yield
        finally:
            for module, (parameters, buffers) in zip(network.modules(), empty, strict=True):
                module._parameters.update(parameters)
                module._buffers.update(buffers)

    def _read(self, name: str, dtype: torch.dtype) -> nn.Module:
        """One network, changed tensor by tensor to the precision that it runs in."""
        assert self._fetch is not None
        source = self._fetch(name)
        with sparing(source):
            if self._reads_anew and self.placement.offload == "sequential":
                settle(source, dtype)
            return source.to(dtype)


def _is_empty(network: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in network.parameters())


def _fill(network: nn.Module, source: nn.Module) -> None:
    """Take the numbers of a network of the same build; those that it lacks too stay away."""
    for mine, theirs in zip(network.modules(), source.modules(), strict=True):
        mine._parameters.update(theirs._parameters)
        mine._buffers.update(theirs._buffers)


def _pin(network: nn.Module) -> None:
    """Lock the network's pages, so that copies to a GPU run beside its work; where that fails they are only slower."""
    with _plainly(), contextlib.suppress(RuntimeError):
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = tensor.data.pin_memory()


@runtime_checkable
class Copier(Protocol):
    """Brings weights to a device."""

    # Whether copying goes on beside computing, so that it pays to begin early.
    is_beside: bool

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy on the device, perhaps still on its way."""
        ...

    def arrived(self, tensors: Sequence[torch.Tensor]) -> None:
        """What is computed next on the device finds these copies whole."""
        ...


class InOrder:
    """Copies, then computes."""

    is_beside = False

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy on the device."""
        return _copy(tensor, self._device)

    def arrived(self, tensors: Sequence[torch.Tensor]) -> None:
        """They are."""


class SideStream:
    """Copies on a stream of its own, beside what a CUDA device computes."""

    is_beside = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy that is whole once `arrived` has been asked for it."""
        with torch.cuda.stream(self._stream):
            return tensor.to(self._device, non_blocking=True)

    def arrived(self, tensors: Sequence[torch.Tensor]) -> None:
        """The stream that computes waits for the copies, and their memory is kept until it has used them."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        for tensor in tensors:
            tensor.record_stream(computing)


def _copier(device: torch.device) -> Copier:
    return SideStream(device) if device.type == "cuda" else InOrder(device)


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

    def send(self, copier: Copier) -> None:
        """Put copies on the device in the tensors' places."""
        with _plainly():
            for tensor, home in self._tensors:
                tensor.data = copier.copy(home)

    def wait(self, copier: Copier) -> None:
        """Until the copies may be computed with."""
        copier.arrived([tensor.data for tensor, _ in self._tensors])

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
    home, copier = _Home(network), _copier(device)
    try:
        home.send(copier)
        home.wait(copier)
        yield
    finally:
        home.recall()


@contextlib.contextmanager
def layer_by_layer(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside the block every layer that owns tensors is on the device only while it computes; behind it none is.

    Where copies go on beside the computation, the next layer's are begun while the present one computes.
    """
    march = _March(_copier(device))
    handles, homes = [], []
    for module in owners(network):
        home = _Home(module)
        homes.append(home)
        handles.append(module.register_forward_pre_hook(march.before(home)))
        handles.append(module.register_forward_hook(march.after(home)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for home in homes:  # an error inside a layer leaves it on the device
            home.recall()


class _March:
    """Layers on the device one at a time, and the one that followed last time already on its way."""

    def __init__(self, copier: Copier) -> None:
        self._copier = copier
        self._follower: dict[int, _Home] = {}
        self._present: _Home | None = None
        self._coming: _Home | None = None

    def before(self, home: _Home) -> Callable[[nn.Module, Any], None]:
        """A hook that has a layer's tensors on the device when it is called."""
        return lambda layer, inputs: self._arrive(home)

    def after(self, home: _Home) -> Callable[[nn.Module, Any, Any], None]:
        """A hook that puts them back behind the call."""
        return lambda layer, inputs, output: home.recall()

    def _arrive(self, home: _Home) -> None:
        if self._present is not None:
            self._follower[id(self._present)] = home
        if self._coming is not home:
            if self._coming is not None:  # the order has changed
                self._coming.recall()
            home.send(self._copier)
        home.wait(self._copier)
        self._present = home
        self._coming = self._follower.get(id(home)) if self._copier.is_beside else None
        if self._coming is home:  # called twice in a row: it goes home in between
            self._coming = None
        if self._coming is not None:
            self._coming.send(self._copier)


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
