"""How much memory a computation needs, counted by running it on tensors that hold no numbers."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")
_CONVOLUTION = torch.ops.aten.convolution.default
_GROUP_NORM = torch.ops.aten.native_group_norm.default
# What oneDNN keeps of each product and convolution that it has compiled, up to 1,024 of them: code and descriptions.
# Measured as the heap's growth over 18, 45 and 83 of them, 0.40 to 0.48 MB each (torch 2.13, AVX-512).
KERNEL_BYTES = 450_000
MOST_KERNELS = 1024
_DEVICE_OF = Tensor.device.__get__  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True, slots=True)
class Counted:
    """What a computation takes: the most bytes that live at once, and those that compiled kernels keep for good."""

    peak_bytes: int
    kept_bytes: int


def count(run: Callable[[], object], device: torch.device) -> Counted:
    """What lives at once of what `run` makes on the meta device, with the copies that kernels take.

    What exists before is not counted. Tensors of the meta device seem to be on `device`, so that what is computed
    differently there is counted as it is done there; numbers that are read from them are 0.5, and comparisons hold.
    """
    with torch.no_grad(), _Pretended(device), _Living(device) as living:
        run()
    return Counted(living.peak, len(living.kernels) * KERNEL_BYTES)


def weight_bytes(module: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of a network's parameters and buffers, floating-point ones in `dtype`."""
    held = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * (dtype if t.is_floating_point() else t.dtype).itemsize for t in held.values())


class _Living(TorchDispatchMode):
    """Adds up the storages on the meta device that are alive."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.peak = 0
        # Products and convolutions that oneDNN would compile, by operation and shapes.
        self.kernels: set[tuple[Any, ...]] = set()
        self._device = device
        self._now = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        try:
            out = func(*args, **(kwargs or {}))
        except NotImplementedError:
            if func.namespace != "mkldnn":  # torch says itself which operation has no shapes
                raise
            out = _like_its_input(func, args)
        there = {id(x.untyped_storage()) for x in args if isinstance(x, Tensor)}
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.is_meta and id(tensor.untyped_storage()) not in there:
                self._meet(tensor)
        is_cpu = self._device.type == "cpu"
        if is_cpu and is_compiled(func):
            self.kernels.add((func, *(tuple(x.shape) if isinstance(x, Tensor) else str(x) for x in args)))
        extra = kernel_bytes(func, args) if is_cpu else 0
        self.peak = max(self.peak, self._now + extra)
        return out

    def _meet(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def forget(_: object) -> None:
            self._now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, forget)
        self._now += size


class _Pretended(TorchFunctionMode):
    """Lets tensors of the meta device pass for those of another one."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        is_meta = bool(args) and isinstance(args[0], Tensor) and args[0].is_meta
        if is_meta and func == _DEVICE_OF:
            return self._device
        if is_meta and func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])  # no kernel that is used here holds all scores, but the meta device's does
        if is_meta and func in (Tensor.__float__, Tensor.item):
            return 0.5
        if is_meta and func is Tensor.__bool__:
            return True
        if is_meta and func is Tensor.cpu:
            return args[0]
        return func(*map(self._redirected, args), **{key: self._redirected(value) for key, value in kwargs.items()})

    def _redirected(self, value: Any) -> Any:
        return META if isinstance(value, torch.device) and value == self._device else value


def is_compiled(func: Any) -> bool:
    """Whether oneDNN compiles an operation for every new shape; reorders take little."""
    return func is _CONVOLUTION or (func.namespace == "mkldnn" and "pointwise" in str(func))


def _like_its_input(func: Any, args: Sequence[Any]) -> Tensor:
    """For oneDNN's own operations: one with a second operand gives its shape, one that reorders that of its input."""
    return torch.empty_like(args[1] if func._overloadname == "binary" else args[0])


def kernel_bytes(func: Any, args: Sequence[Any]) -> int:
    """What the CPU's kernel of one operation holds for its own, beside input and result.

    Measured with torch 2.13: a convolution copies an input that is not channels-last into blocks of channels; in
    float32 one over time unfolds its taps first; a norm copies what is not contiguous.
    """
    if func not in (_CONVOLUTION, _GROUP_NORM):
        return 0
    x: Tensor = args[0]
    straight = 0 if x.is_contiguous() else x.nbytes
    if func is _GROUP_NORM:
        return straight
    weight: Tensor = args[1]
    if weight.ndim == 5:
        taps = math.prod(weight.shape[2:]) if x.dtype == torch.float32 else 1
        return straight + taps * x.nbytes
    if x.is_contiguous(memory_format=torch.channels_last):
        return 0
    return straight + x.nbytes
