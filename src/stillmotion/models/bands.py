"""Convolutions over parked frames, a band of rows or of pixels at a time, whose results do not depend on the band."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import operations
from ..nn.products import Convolution, are_own, is_fused
from ..nn.winograd import DoublingConvolution, WinogradConvolution
from .moments import Moments, activated, joined, moments_of, pooled
from .parked import Bands

Affine = tuple[Float[Tensor, "k c"], Float[Tensor, "k c"]]

# Images, what is added to the result, and the place for it; the last two may be missing, or be the same.
_Run = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]

# Below either, Winograd's sums cost more than the products that they save: measured on a processor with AVX-512.
LEAST_CHANNELS = 128
LEAST_CHANNELS_OVER_TIME = 256
LEAST_PIXELS = 512
# How often a band is held at once: before, convolved, and on its way; with torch's operations for Winograd's sums of
# inputs and of products, along rows or along both axes.
PLAIN_BANDS, ROW_BANDS, BANDS = 3, 6, 9


class Kernel:
    """The weights of one convolution on the device, laid out once more when they meet their first images.

    doubles: nearest-neighbour doubling and then the convolution, of 3x3 taps, in one.
    """

    def __init__(
        self, weight: Float[Tensor, "o i kh kw"], bias: Float[Tensor, " o"], device: torch.device, doubles: bool = False
    ) -> None:
        self._weight, self._bias = weight.detach().to(device), bias.detach().to(device)
        self._runs: dict[tuple[bool, bool], _Run] = {}
        self.device, self.doubles, self.outputs = device, doubles, len(bias)
        # Rows above and below an image, and columns beside it, that its convolution sees.
        self.margins = weight.shape[2] // 2, weight.shape[3] // 2

    def __call__(
        self,
        images: Float[Tensor, "n h w c"],
        residual: Float[Tensor, "n h2 w2 o"] | None = None,
        target: Float[Tensor, "n h2 w2 o"] | None = None,
        is_whole: bool = False,
    ) -> Float[Tensor, "n h2 w2 o"]:
        """Convolve images that come with their margins, plus `residual`, which `target` may be.

        is_whole: they come without, and zeros are beyond their borders; only where `takes_whole` says so.
        """
        rows, columns = (0, 0) if is_whole else self.margins
        like = images[:, rows : images.shape[1] - rows, columns : images.shape[2] - columns]
        key = (self._is_even(like), is_whole)
        if key not in self._runs:
            self._runs[key] = self._laid_out(like, *key)
        return self._runs[key](images, residual, target)

    @property
    def writes_itself(self) -> bool:
        """Whether results are made where they go, and not copied there."""
        return are_own(self._weight)

    def takes_whole(self, images: Float[Tensor, "n h w c"]) -> bool:
        """Whether whole images need no margins: what convolves them makes its own."""
        if are_own(self._weight):
            return True
        return not self.doubles and not (self._is_even(images) and _saves(self._weight, images))

    def _is_even(self, images: Float[Tensor, "n h w c"]) -> bool:
        """Whether neighbours pair up; our own code takes a last one that is alone."""
        if are_own(self._weight):
            return True
        return images.shape[1] % 2 == 0 and (self.margins[1] == 0 or images.shape[2] % 2 == 0)

    def _laid_out(self, like: Float[Tensor, "n h w c"], is_even: bool, is_whole: bool) -> _Run:
        """The way of convolving that is the fastest for such images."""
        if not is_fused(like):
            return _plain(self._weight, self._bias, self.doubles, self.margins if is_whole else (0, 0))
        if self.doubles:
            doubling = DoublingConvolution(self._weight, self._bias, like)
            double = doubling if is_whole else doubling.of_padded
            return lambda images, residual, target: double(images, target)
        if is_even and _saves(self._weight, like):
            # By torch in bfloat16 along one axis alone: it rounds its sums, and along both that would be seen.
            only_rows = like.dtype != torch.float32
            winograd = WinogradConvolution(self._weight, self._bias, like, along_rows_only=only_rows)
            convolve = winograd if is_whole else winograd.of_padded
            return lambda images, residual, target: convolve(images, residual, None, target)
        convolution = Convolution(self._weight, self._bias, like, is_padded=not is_whole)
        return lambda images, residual, target: convolution(images, residual, target=target)


def is_summed_apart(channels: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the sums of a convolution's inputs and taps take memory: our own code makes few of them at a time."""
    return device.type == "cpu" and channels >= LEAST_CHANNELS and not operations.serve(dtype, device)


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
    target: Float[Tensor, "n h2 w2 c2"] | None,
    rows: int,
    space: Bands,
    shortcut: tuple[Float[Tensor, "n h w c3"], Kernel | None] | None = None,
) -> tuple[Float[Tensor, "n h2 w2 c2"], Moments]:
    """Convolve frames, normalised and activated where a norm is given, into `target`; a row of statistics a frame.

    target: None where one band is a whole frame, whose result is then returned as it is made.
    rows: of a band. shortcut: what is added to the result, through a 1x1 convolution where one is given; it may be
    `target` itself.
    """
    found, heights, made, height = [], [], [], source.shape[1]
    for top, bottom in _bands(height, rows):
        is_whole = bottom - top == height and kernel.takes_whole(source)
        if is_whole:
            images = _activated(source.to(kernel.device), norm, space)
        else:
            images = _framed(source, top, bottom, norm, kernel, space)
        written = None
        if target is not None:
            written = target[:, (1 + kernel.doubles) * top : (1 + kernel.doubles) * bottom]
        there = written if written is None or written.device == kernel.device else None
        residual = None
        if shortcut is not None:
            other, its_kernel = shortcut
            is_there = there is not None and other is target and its_kernel is None
            residual = there if is_there else _shortened(other[:, top:bottom].to(kernel.device), its_kernel, space)
        band = kernel(images, residual, there, is_whole)
        if written is not None and there is None:
            written.copy_(band)
        heights.append(bottom - top)
        found.append(joined([moments_of(frame.flatten(0, 1)) for frame in band]))
        made.append(band if target is None else target)
    return made[-1], pooled(found, heights)


def across_frames(
    x: Float[Tensor, "t p c"],
    norm: Affine | None,
    kernel: Kernel,
    space: Bands,
    target: Float[Tensor, "t p c2"] | None = None,
) -> Float[Tensor, "t p c2"]:
    """Convolve every pixel over its three neighbours in time, normalised and activated where a norm is given.

    target: where the result goes, on the kernel's device; without one it may lie in `space`, until the next call.
    """
    image, into = x[None], None if target is None else target[None]
    if into is None and kernel.writes_itself:
        into = space.take("made", (1, len(x), x.shape[1], kernel.outputs))
    if kernel.takes_whole(image):
        return kernel(_activated(image, norm, space), target=into, is_whole=True)[0]
    padded = space.take("before", (1, len(x) + 2, x.shape[1], x.shape[2]))[0]
    padded[0], padded[-1] = 0, 0
    _fill(padded[None, 1:-1], image, norm)
    return kernel(padded[None], target=into)[0]


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
    """Of even height but for the last, so that rows pair up alike in each."""
    if rows < 2:
        return spans(height, rows)
    return ((2 * top, min(2 * bottom, height)) for top, bottom in spans(-(-height // 2), rows // 2))


def _framed(
    source: Float[Tensor, "n h w c"], top: int, bottom: int, norm: Affine | None, kernel: Kernel, space: Bands
) -> Float[Tensor, "n h2 w2 c"]:
    """Rows of the frames with a margin of one pixel: their neighbours, or zeros beyond the border."""
    frames, height, width, channels = source.shape
    above, below = int(top == 0), int(bottom == height)
    window = source[:, top - 1 + above : bottom + 1 - below].to(kernel.device)
    padded = space.take("before", (frames, bottom - top + 2, width + 2, channels))
    padded[:, :, 0], padded[:, :, -1] = 0, 0
    if above:
        padded[:, 0] = 0
    if below:
        padded[:, -1] = 0
    _fill(padded[:, above : padded.shape[1] - below, 1:-1], window, norm)
    return padded


def _activated(x: Float[Tensor, "n h w c"], norm: Affine | None, space: Bands) -> Float[Tensor, "n h w c"]:
    if norm is None:
        return x.contiguous()
    target = space.take("before", x.shape)
    activated(x, *norm, target)
    return target


def _fill(target: Float[Tensor, "n h w c"], x: Float[Tensor, "n h w c"], norm: Affine | None) -> None:
    if norm is None:
        target.copy_(x)
    else:
        activated(x, *norm, target)


def _bias(conv: nn.Conv2d | nn.Conv3d) -> Float[Tensor, " o"]:
    assert conv.bias is not None
    return conv.bias


def _saves(weight: Float[Tensor, "o i kh kw"], like: Float[Tensor, "n h w c"]) -> bool:
    """Whether Winograd's form takes less time. Over frames, with fewer taps, it takes more channels."""
    if are_own(weight):
        return weight.shape[2] == 3
    over_time = weight.shape[3] == 1
    channels = LEAST_CHANNELS_OVER_TIME if over_time else LEAST_CHANNELS
    is_large = min(weight.shape[:2]) >= channels and like.shape[:3].numel() >= LEAST_PIXELS
    return is_large and weight.shape[2] == 3 and not (over_time and like.dtype != torch.float32)


def _plain(weight: Tensor, bias: Tensor, doubles: bool, padding: tuple[int, int]) -> _Run:
    """The functions of torch. A doubling is four 2x2 convolutions on the small image, which has its margins.

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

    def run(images: Tensor, residual: Tensor | None, target: Tensor | None) -> Tensor:
        images = images.permute(0, 3, 1, 2)
        made = F.conv_transpose2d(images, taps, bias, 2, 3) if doubles else F.conv2d(images, taps, bias, 1, padding)
        made = made.permute(0, 2, 3, 1)
        return _kept(made, target) if residual is None else torch.add(residual, made, out=target)

    return run


def _kept(made: Tensor, target: Tensor | None) -> Tensor:
    return made if target is None else target.copy_(made)


def _shortened(x: Float[Tensor, "n h w c"], kernel: Kernel | None, space: Bands) -> Float[Tensor, "n h w c2"]:
    if kernel is None:
        return x
    return kernel(x, target=space.take("made", (*x.shape[:3], kernel.outputs)) if kernel.writes_itself else None)
