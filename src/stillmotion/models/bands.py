"""Convolutions over parked frames, a band of rows or of pixels at a time, whose results do not depend on the band."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn.products import Convolution, is_fused
from ..nn.winograd import DoublingConvolution, WinogradConvolution
from .moments import Moments, activated, joined, moments_of, pooled

Affine = tuple[Float[Tensor, "k c"], Float[Tensor, "k c"]]

# Images with their margins, what is added to the result, and the place for it; the last two may be missing.
_Run = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]

# Below either, Winograd's sums cost more than the products that they save: measured on a processor with AVX-512.
LEAST_CHANNELS = 128
LEAST_CHANNELS_OVER_TIME = 256
LEAST_PIXELS = 512


class Kernel:
    """The weights of one convolution on the device, laid out once more when they meet their first images.

    doubles: nearest-neighbour doubling and then the convolution, of 3x3 taps, in one.
    """

    def __init__(
        self, weight: Float[Tensor, "o i kh kw"], bias: Float[Tensor, " o"], device: torch.device, doubles: bool = False
    ) -> None:
        self._weight, self._bias = weight.detach().to(device), bias.detach().to(device)
        self._runs: dict[bool, _Run] = {}
        self.device, self.doubles, self.outputs = device, doubles, len(bias)
        # Rows above and below an image, and columns beside it, that its convolution sees.
        self.margins = weight.shape[2] // 2, weight.shape[3] // 2

    def __call__(
        self,
        padded: Float[Tensor, "n h w c"],
        residual: Float[Tensor, "n h2 w2 o"] | None = None,
        target: Float[Tensor, "n h2 w2 o"] | None = None,
    ) -> Float[Tensor, "n h2 w2 o"]:
        """Convolve images that come with their margins, plus `residual`, which `target` may be."""
        rows, columns = self.margins
        height, width = padded.shape[1] - 2 * rows, padded.shape[2] - 2 * columns
        is_even = height % 2 == 0 and (columns == 0 or width % 2 == 0)
        if is_even not in self._runs:
            like = padded[:, rows : rows + height, columns : columns + width]
            self._runs[is_even] = _laid_out(self._weight, self._bias, like, self.doubles, is_even)
        return self._runs[is_even](padded, residual, target)


def kernel_of(conv: nn.Conv2d, device: torch.device, doubles: bool = False) -> Kernel:
    """A 3x3 or 1x1 convolution within frames."""
    return Kernel(conv.weight, _bias(conv), device, doubles)


def temporal_kernel(conv: nn.Conv3d, device: torch.device) -> Kernel:
    """A convolution over three frames, as one of 3x1 taps over an image whose rows are frames."""
    return Kernel(conv.weight[..., 0], _bias(conv), device)


def within_frames(
    source: Float[Tensor, "n h w c"],
    norm: Affine | None,
    kernel: Kernel,
    target: Float[Tensor, "n h2 w2 c2"],
    rows: int,
    shortcut: tuple[Float[Tensor, "n h w c3"], Kernel | None] | None = None,
) -> Moments:
    """Convolve frames, normalised and activated where a norm is given, into `target`; a row of statistics a frame.

    rows: of a band. shortcut: what is added to the result, through a 1x1 convolution where one is given; it may be
    `target` itself.
    """
    found, heights = [], []
    for top, bottom in _bands(source.shape[1], rows):
        padded = _framed(source, top, bottom, norm, kernel.device)
        scale = 1 + kernel.doubles
        written = target[:, scale * top : scale * bottom]
        residual = None
        if shortcut is not None:
            residual = _shortened(shortcut[0][:, top:bottom].to(kernel.device), shortcut[1])
        band = kernel(padded, residual, written if written.device == kernel.device else None)
        if band is not written:
            written.copy_(band)
        heights.append(bottom - top)
        found.append(joined([moments_of(frame.flatten(0, 1)) for frame in band]))
    return pooled(found, heights)


def across_frames(x: Float[Tensor, "t p c"], norm: Affine | None, kernel: Kernel) -> Float[Tensor, "t p c2"]:
    """Convolve every pixel over its three neighbours in time, normalised and activated where a norm is given."""
    padded = x.new_empty(len(x) + 2, *x.shape[1:])
    padded[0], padded[-1] = 0, 0
    _fill(padded[None, 1:-1], x[None], norm)
    return kernel(padded[None])[0]


def add_into(written: Tensor, x: Tensor, other: Tensor, share: float = 1.0) -> Tensor:
    """other + share x, also written where it is to be parked, which may be `other`."""
    if written.device == x.device:
        return torch.add(other, x, alpha=share, out=written)
    return written.copy_(other.add(x, alpha=share)).to(x.device)


def spans(total: int, at_once: int) -> Iterator[tuple[int, int]]:
    """Cut `total` into parts as equal as can be, none above `at_once`."""
    count = -(-total // at_once)
    return itertools.pairwise([index * total // count for index in range(count + 1)])


def _bands(height: int, rows: int) -> Iterator[tuple[int, int]]:
    """Of even height where that is possible."""
    if height % 2 or rows < 2:
        return spans(height, rows)
    return ((2 * top, 2 * bottom) for top, bottom in spans(height // 2, rows // 2))


def _framed(
    source: Float[Tensor, "n h w c"], top: int, bottom: int, norm: Affine | None, device: torch.device
) -> Float[Tensor, "n h2 w2 c"]:
    """Rows of the frames with a margin of one pixel: their neighbours, or zeros beyond the border."""
    frames, height, width, channels = source.shape
    above, below = int(top == 0), int(bottom == height)
    window = source[:, top - 1 + above : bottom + 1 - below].to(device)
    padded = window.new_empty(frames, bottom - top + 2, width + 2, channels)
    padded[:, :, 0], padded[:, :, -1] = 0, 0
    if above:
        padded[:, 0] = 0
    if below:
        padded[:, -1] = 0
    _fill(padded[:, above : padded.shape[1] - below, 1:-1], window, norm)
    return padded


def _fill(target: Float[Tensor, "n h w c"], x: Float[Tensor, "n h w c"], norm: Affine | None) -> None:
    if norm is None:
        target.copy_(x)
    else:
        activated(x, *norm, target)


def _bias(conv: nn.Conv2d | nn.Conv3d) -> Float[Tensor, " o"]:
    assert conv.bias is not None
    return conv.bias


def _laid_out(weight: Tensor, bias: Tensor, like: Float[Tensor, "n h w c"], doubles: bool, is_even: bool) -> _Run:
    """The way of convolving that is the fastest for such images."""
    if not is_fused(like):
        return _plain(weight, bias, doubles)
    if doubles:
        doubling = DoublingConvolution(weight, bias, like)
        return lambda padded, residual, target: doubling.of_padded(padded, target)
    if is_even and _saves(weight, like):
        # In bfloat16 along one axis alone: it rounds its sums, and along both that would be seen in the frames.
        winograd = WinogradConvolution(weight, bias, like, along_rows_only=like.dtype != torch.float32)
        return lambda padded, residual, target: winograd.of_padded(padded, residual, None, target)
    convolution = Convolution(weight, bias, like, is_padded=True)
    return lambda padded, residual, target: _kept(convolution(padded, residual), target)


def _saves(weight: Float[Tensor, "o i kh kw"], like: Float[Tensor, "n h w c"]) -> bool:
    """Whether Winograd's form takes less time. Over frames, with fewer taps, it takes more channels."""
    over_time = weight.shape[3] == 1
    channels = LEAST_CHANNELS_OVER_TIME if over_time else LEAST_CHANNELS
    is_large = min(weight.shape[:2]) >= channels and like.shape[:3].numel() >= LEAST_PIXELS
    return is_large and weight.shape[2] == 3 and not (over_time and like.dtype != torch.float32)


def _plain(weight: Tensor, bias: Tensor, doubles: bool) -> _Run:
    """The functions of torch. A doubling is four 2x2 convolutions on the small image.

    Taps that read the same small pixel are summed, in at least float32. The four interleave as the transposed
    convolution of stride 2 whose taps are the 3x3 ones blurred by a 2x2 box. Zeros beyond the border stay zeros.
    """
    if doubles:
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32)).flip(2, 3)
        blurred = wide.new_zeros(*wide.shape[:2], 4, 4)
        for y, x in itertools.product((0, 1), (0, 1)):
            blurred[:, :, y : y + 3, x : x + 3] += wide
        weight = blurred.to(weight.dtype).transpose(0, 1)
    taps = weight.contiguous(memory_format=torch.channels_last)

    def run(padded: Tensor, residual: Tensor | None, target: Tensor | None) -> Tensor:
        images = padded.permute(0, 3, 1, 2)
        made = F.conv_transpose2d(images, taps, bias, 2, 3) if doubles else F.conv2d(images, taps, bias)
        made = made.permute(0, 2, 3, 1)
        return _kept(made, target) if residual is None else torch.add(residual, made, out=target)

    return run


def _kept(made: Tensor, target: Tensor | None) -> Tensor:
    return made if target is None else target.copy_(made)


def _shortened(x: Float[Tensor, "n h w c"], kernel: Kernel | None) -> Float[Tensor, "n h w c2"]:
    return x if kernel is None else kernel(x)
