"""The best rate at which this machine multiplies matrices: linear, 1x1 and 3x3 convolutions, by any library."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from .timing import seconds_of


@dataclasses.dataclass(frozen=True, slots=True)
class Product:
    """One product to be timed, and its operations: a multiply-add counts two."""

    name: str
    operations: float
    run: Callable[[], torch.Tensor]


# Rows, inputs, outputs: the feed-forwards of the U-Net's levels at 14 x 256 x 256, one branch.
LINEARS = ((14336, 320, 2560), (14336, 1280, 320), (3584, 2560, 640), (896, 1280, 10240), (896, 5120, 1280))
# Images, channels, height and width: its 3x3 convolutions.
CONVOLUTIONS = ((14, 320, 32), (14, 640, 16), (14, 1280, 8))
# The same at 25 x 576 x 1024, and one square product: an accelerator is not full with less.
GPU_LINEARS = ((230400, 320, 2560), (57600, 640, 5120), (14400, 1280, 10240), (8192, 8192, 8192))
GPU_CONVOLUTIONS = ((25, 320, 96), (25, 640, 48), (25, 1280, 24))
SMALL_LINEARS, SMALL_CONVOLUTIONS = ((64, 32, 48),), ((2, 32, 8),)


def products(dtype: torch.dtype, device: str, small: bool) -> list[Product]:
    """The candidates for the machine's best rate."""
    linears, convolutions = _shapes(device, small)
    found = []
    for shape in linears:
        found += [_linear(shape, dtype, device), _pointwise(shape, dtype, device)]
    for shape in convolutions:
        found += [_convolution(shape, dtype, device, layout) for layout in ("channels-last", "channels-first")]
    return found


class Rates:
    """The times of every candidate, one more each time that `measure` is called."""

    def __init__(self, candidates: Sequence[Product], device: str) -> None:
        self._candidates = list(candidates)
        self._device = device
        self._seconds: dict[str, list[float]] = {each.name: [] for each in candidates}

    def measure(self) -> None:
        """Time every candidate once, after a first run that does not count."""
        with torch.inference_mode():
            for each in self._candidates:
                each.run()
                self._seconds[each.name].append(seconds_of(each.run, self._device))

    def best(self) -> tuple[float, str]:
        """Operations a second of the fastest candidate, by its median, and its name."""
        rates = {each.name: each.operations / statistics.median(self._seconds[each.name]) for each in self._candidates}
        name = max(rates, key=lambda key: rates[key])
        return rates[name], name


def _shapes(device: str, small: bool) -> tuple[tuple[tuple[int, int, int], ...], tuple[tuple[int, int, int], ...]]:
    if small:
        return SMALL_LINEARS, SMALL_CONVOLUTIONS
    return (GPU_LINEARS, GPU_CONVOLUTIONS) if torch.device(device).type == "cuda" else (LINEARS, CONVOLUTIONS)


def _linear(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> Product:
    rows, inputs, outputs = shape
    x = torch.randn(rows, inputs).to(device, dtype)
    weight = torch.randn(outputs, inputs).to(device, dtype)
    name = f"linear {rows} x {inputs} -> {outputs}"
    return Product(name, 2.0 * rows * inputs * outputs, lambda: F.linear(x, weight))


def _pointwise(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> Product:
    rows, inputs, outputs = shape
    x = torch.randn(1, inputs, rows, 1).to(device, dtype, memory_format=torch.channels_last)
    weight = torch.randn(outputs, inputs, 1, 1).to(device, dtype, memory_format=torch.channels_last)
    name = f"1x1 convolution {rows} x {inputs} -> {outputs}"
    return Product(name, 2.0 * rows * inputs * outputs, lambda: F.conv2d(x, weight))


def _convolution(shape: tuple[int, int, int], dtype: torch.dtype, device: str, layout: str) -> Product:
    images, channels, side = shape
    form = torch.channels_last if layout == "channels-last" else torch.contiguous_format
    x = torch.randn(images, channels, side, side).to(device, dtype, memory_format=form)
    weight = torch.randn(channels, channels, 3, 3).to(device, dtype, memory_format=form)
    name = f"3x3 convolution {images} x {channels} x {side} x {side}, {layout}"
    return Product(name, 2.0 * images * side * side * channels * channels * 9, lambda: F.conv2d(x, weight, padding=1))
