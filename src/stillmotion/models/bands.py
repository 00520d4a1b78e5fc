"""Convolutions over parked frames, a band of rows or of pixels at a time, whose results do not depend on the band."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .moments import Moments, activated, joined, moments_of, pooled

Affine = tuple[Float[Tensor, "k c"], Float[Tensor, "k c"]]


@dataclasses.dataclass(frozen=True, slots=True)
class Kernel:
    """The weights of one convolution on the device, laid out for contiguous channels."""

    weight: Float[Tensor, "o i kh kw"]
    bias: Float[Tensor, " o"]
    # Whether it doubles height and width: a transposed convolution of 4x4 taps and stride 2.
    doubles: bool = False

    @property
    def outputs(self) -> int:
        return len(self.bias)


def kernel_of(conv: nn.Conv2d, device: torch.device) -> Kernel:
    """A 3x3 or 1x1 convolution within frames."""
    return Kernel(_laid_out(conv.weight.detach().to(device)), _bias(conv, device))


def temporal_kernel(conv: nn.Conv3d, device: torch.device) -> Kernel:
    """A convolution over three frames, as one of 3x1 taps over an image whose rows are frames."""
    return Kernel(_laid_out(conv.weight.detach().to(device)[..., 0]), _bias(conv, device))


def doubling_kernel(conv: nn.Conv2d, device: torch.device) -> Kernel:
    """Nearest-neighbour doubling and then `conv`, of 3x3 taps, in one: four 2x2 convolutions on the small image.

    Taps that read the same small pixel are summed, in at least float32. The four interleave as the transposed
    convolution of stride 2 whose taps are the 3x3 ones blurred by a 2x2 box. Zeros beyond the border stay zeros.
    """
    weight = conv.weight.detach().to(device)
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32)).flip(2, 3)
    blurred = wide.new_zeros(*wide.shape[:2], 4, 4)
    for y, x in itertools.product((0, 1), (0, 1)):
        blurred[:, :, y : y + 3, x : x + 3] += wide
    return Kernel(_laid_out(blurred.to(weight.dtype).transpose(0, 1)), _bias(conv, device), doubles=True)


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
    device = kernel.weight.device
    found, heights = [], []
    for top, bottom in spans(source.shape[1], rows):
        above, below = int(top == 0), int(bottom == source.shape[1])
        window = source[:, top - 1 + above : bottom + 1 - below].to(device)
        band = _convolved(window if norm is None else activated(window, *norm), kernel, above, below)
        scale = 2 if kernel.doubles else 1
        written = target[:, scale * top : scale * bottom]
        if shortcut is None:
            written.copy_(band)
        else:
            band = add_into(written, band, _shortened(shortcut[0][:, top:bottom].to(device), shortcut[1]))
        heights.append(bottom - top)
        found.append(joined([moments_of(frame.flatten(0, 1)) for frame in band]))
    return pooled(found, heights)


def add_into(written: Tensor, x: Tensor, other: Tensor, share: float = 1.0) -> Tensor:
    """other + share x, also written where it is to be parked, which may be `other`."""
    if written.device == x.device:
        return torch.add(other, x, alpha=share, out=written)
    return written.copy_(other.add(x, alpha=share)).to(x.device)


def across_frames(x: Float[Tensor, "t p c"], kernel: Kernel) -> Float[Tensor, "t p c2"]:
    """Convolve every pixel over its three neighbours in time."""
    image = x.permute(2, 0, 1)[None]
    return F.conv2d(image, kernel.weight, kernel.bias, padding=(1, 0))[0].permute(1, 2, 0)


def spans(total: int, at_once: int) -> Iterator[tuple[int, int]]:
    """Cut `total` into parts as equal as can be, none above `at_once`."""
    count = -(-total // at_once)
    return itertools.pairwise([index * total // count for index in range(count + 1)])


def _bias(conv: nn.Conv2d | nn.Conv3d, device: torch.device) -> Float[Tensor, " o"]:
    assert conv.bias is not None
    return conv.bias.detach().to(device)


def _laid_out(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def _convolved(x: Float[Tensor, "n h w c"], kernel: Kernel, above: int, below: int) -> Float[Tensor, "n h2 w2 c2"]:
    """The rows of the band alone: `x` has a further row on each side, but where zeros lie above or below."""
    rows, whole = x.permute(0, 3, 1, 2), above and below
    if kernel.weight.shape[-1] == 1:
        band = F.conv2d(rows, kernel.weight, kernel.bias)
    else:
        rows = rows if whole or not (above or below) else F.pad(rows, (0, 0, above, below))
        if kernel.doubles:
            padding = (1, 1) if whole else (3, 1)
            band = F.conv_transpose2d(rows, kernel.weight, kernel.bias, stride=2, padding=padding)
        else:
            band = F.conv2d(rows, kernel.weight, kernel.bias, padding=(1, 1) if whole else (0, 1))
    return band.permute(0, 2, 3, 1)


def _shortened(x: Float[Tensor, "n h w c"], kernel: Kernel | None) -> Float[Tensor, "n h w c2"]:
    if kernel is None:
        return x
    return F.conv2d(x.permute(0, 3, 1, 2), kernel.weight, kernel.bias).permute(0, 2, 3, 1)
