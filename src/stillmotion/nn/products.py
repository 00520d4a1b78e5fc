"""Products and convolutions made ready for many calls, with what follows them fused in; for inference.

On the CPU they go to oneDNN, which takes a weight in an order of its own (made once here, not in every call) and writes
a residual sum or a gate while the result is still in registers. In bfloat16, where the processor has AVX-512 with it,
they go to our own compiled code, which does the same. torch's own float32 `linear` is slower on AMD processors.
Elsewhere, and in other precisions, they are the plain functions of torch. Either way the result differs by rounding
alone. Channels are the last axis of every tensor.
"""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import operations
from .regions import are_in_force

# Below this many pixels a frame, oneDNN's channels-last convolution reorders more than it computes.
SMALL_FRAME = 64
# Images with no side above this are products of all their pixels: of 36 taps that meet 2x2 pixels, 20 lie beside them.
TINY_SIDE = 2
_ONCE = (1, 1)


def add_portion(target: Tensor, x: Tensor, portion: float | Float[Tensor, ""]) -> None:
    """Add `portion` times `x` to `target`, in place."""
    if isinstance(portion, Tensor):
        target.addcmul_(x, portion)
    else:
        target.add_(x, alpha=portion)


def is_own(x: Tensor) -> bool:
    """Whether our own compiled code is for such a tensor: not in compiled regions, which do not know it."""
    return not are_in_force() and operations.takes(x)


def are_own(weight: Float[Tensor, "d c i j"], is_gated: bool = False) -> bool:
    """Whether products with these weights go to our own compiled code."""
    return is_own(weight) and operations.takes_weights(weight, is_gated)


def is_fused(x: Tensor) -> bool:
    """Whether products of such a tensor go to oneDNN: not in compiled regions, which do not know its orders."""
    if x.device.type != "cpu" or are_in_force() or not torch.backends.mkldnn.is_available():
        return False
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Product:
    """x W^T + b for tokens `... d`, about `rows` of them in a call."""

    def __init__(self, weight: Float[Tensor, "e d"], bias: Float[Tensor, " e"] | None, rows: int) -> None:
        self.outputs = len(weight)
        taps = weight[:, :, None, None]
        self._is_own = are_own(taps)
        self._is_fused = not self._is_own and is_fused(weight)
        self._weight, self._bias = weight, bias
        if self._is_own:
            self._weight, self._own_bias = operations.packed(taps), operations.packed_bias(bias, weight)
        elif self._is_fused:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)

    def __call__(
        self,
        x: Float[Tensor, "... d"],
        residual: Float[Tensor, "... e"] | None = None,
        shift: Float[Tensor, " e"] | None = None,
        target: Float[Tensor, "... e"] | None = None,
    ) -> Float[Tensor, "... e"]:
        """The product, plus `residual`, into `target` where it is given, which may be `residual`.

        `shift` is added to the bias, where there is one.
        """
        if self._is_own:
            own = self._own_bias if shift is None else self._own_bias + shift
            other, into = (None if each is None else _as_row(each) for each in (residual, target))
            made = operations.convolve(_as_row(x), self._weight, own, operations.POINT, other, target=into)
            return made.view(*x.shape[:-1], self.outputs) if target is None else target
        made = self._made(x, residual, self._bias if shift is None or self._bias is None else self._bias + shift)
        return made if target is None else target.copy_(made)

    def _made(self, x: Tensor, residual: Tensor | None, bias: Tensor | None) -> Tensor:
        if self._is_fused and residual is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self._weight, bias, "add")
        if self._is_fused:
            return torch.ops.mkldnn._linear_pointwise(x, self._weight, bias, "none", [], "")
        made = F.linear(x, self._weight, bias)
        return made if residual is None else made.add_(residual)


class GatedProduct:
    """Of a linear map, the first half of outputs times GELU of the second; `rows` as for `Product`."""

    def __init__(self, weight: Float[Tensor, "e d"], bias: Float[Tensor, " e"], rows: int) -> None:
        taps = weight[:, :, None, None]
        self._is_own = are_own(taps, is_gated=True)
        self._is_fused = not self._is_own and is_fused(weight)
        if self._is_own:
            self._weight = operations.packed(taps, is_gated=True)
            self._bias = operations.packed_bias(bias, weight, is_gated=True)
            return
        self._halves = list(zip(weight.chunk(2), bias.chunk(2), strict=True))
        if self._is_fused:
            self._halves = [(torch.ops.mkldnn._reorder_linear_weight(some, rows), its) for some, its in self._halves]

    def __call__(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... f"]:
        """Values times GELU of their gates."""
        if self._is_own:
            made = operations.convolve(_as_row(x), self._weight, self._bias, operations.POINT, is_gated=True)
            return made.view(*x.shape[:-1], made.shape[-1])
        values, gates = self._halves
        if not self._is_fused:
            return F.linear(x, *values).mul_(F.gelu(F.linear(x, *gates)))
        # Exact GELU, not its approximation by tanh.
        gated = torch.ops.mkldnn._linear_pointwise(x, *gates, "gelu", [], "none")
        return torch.ops.mkldnn._linear_pointwise.binary(x, gated, *values, "mul")


def _as_row(x: Float[Tensor, "... d"]) -> Float[Tensor, "1 1 n d"]:
    return x.reshape(1, 1, -1, x.shape[-1])


class Convolution:
    """A convolution of stride 1 that keeps the size of images `r h w c`, about as many in a call as in `like`.

    is_padded: images come with their margins, and lose them.
    """

    def __init__(
        self,
        weight: Float[Tensor, "d c i j"],
        bias: Float[Tensor, " d"] | None,
        like: Float[Tensor, "r h w c"],
        is_padded: bool = False,
    ) -> None:
        self.is_own = are_own(weight)
        self.is_fused = self.is_own or (is_fused(like) and like.shape[1] * like.shape[2] > SMALL_FRAME)
        self.outputs = len(weight)
        self._bias = bias
        self._padding = [0, 0] if is_padded else [weight.shape[2] // 2, weight.shape[3] // 2]
        self._weight = weight
        if self.is_own:
            self._window = operations.Window(weight.shape[2], weight.shape[3], is_padded=is_padded)
            self._weight, self._own_bias = operations.packed(weight), operations.packed_bias(bias, weight)
        elif self.is_fused:
            margins = [taps - 1 if is_padded else 0 for taps in weight.shape[2:]]
            size = [len(like), weight.shape[1], like.shape[1] + margins[0], like.shape[2] + margins[1]]
            pack = torch.ops.mkldnn._reorder_convolution_weight
            self._weight = pack(weight, self._padding, _ONCE, _ONCE, 1, size)

    def __call__(
        self,
        x: Float[Tensor, "r h w c"],
        residual: Float[Tensor, "r h2 w2 d"] | None = None,
        shift: Float[Tensor, " d"] | None = None,
        target: Float[Tensor, "r h2 w2 d"] | None = None,
    ) -> Float[Tensor, "r h2 w2 d"]:
        """The convolution, plus `residual`, into `target` where it is given, which may be `residual`.

        `shift` is added to the bias.
        """
        if self.is_own:
            bias = self._own_bias if shift is None else self._own_bias + shift
            return operations.convolve(x, self._weight, bias, self._window, residual, target=target)
        is_in_place = residual is not None and residual is target
        made = self._convolved(x, residual, shift, is_in_place)
        return made if target is None or is_in_place else target.copy_(made)

    def add_to(self, target: Float[Tensor, "r h w d"], x: Float[Tensor, "r h w c"], portion: float | Tensor) -> None:
        """Add `portion` times the convolution of `x` to `target`, in place."""
        if self.is_own:
            operations.convolve(x, self._weight, self._own_bias, self._window, target, float(portion), target=target)
        else:
            add_portion(target, self(x), portion)

    def _convolved(self, x: Tensor, residual: Tensor | None, shift: Tensor | None, is_in_place: bool) -> Tensor:
        image, bias = x.permute(0, 3, 1, 2), self._bias if shift is None or self._bias is None else self._bias + shift
        if self.is_fused:
            return self._fused(image, bias, residual, is_in_place).permute(0, 2, 3, 1)
        if x.device.type == "cpu":
            image = image.contiguous()
        made = F.conv2d(image, self._weight, bias, padding=self._padding).permute(0, 2, 3, 1).contiguous()
        if residual is None:
            return made
        return residual.add_(made) if is_in_place else made.add_(residual)

    def _fused(self, image: Tensor, bias: Tensor | None, residual: Tensor | None, is_in_place: bool) -> Tensor:
        fixed = (self._weight, bias, self._padding, _ONCE, _ONCE, 1)
        if residual is None:
            return torch.ops.mkldnn._convolution_pointwise(image, *fixed, "none", [], "")
        other, sum_up = residual.permute(0, 3, 1, 2), ("add", 1.0, None, [], None)
        if is_in_place and residual.is_contiguous():
            return torch.ops.mkldnn._convolution_pointwise_.binary(other, image, *fixed, *sum_up)
        made = torch.ops.mkldnn._convolution_pointwise.binary(image, other, *fixed, *sum_up)
        return other.copy_(made) if is_in_place else made


class TinyConvolution:
    """As `Convolution` with 3x3 taps, for images of at most 2x2 pixels: for each pixel one product of all of them."""

    def __init__(
        self, weight: Float[Tensor, "d c 3 3"], bias: Float[Tensor, " d"], like: Float[Tensor, "r h w c"]
    ) -> None:
        height, width = like.shape[1:3]
        # One matrix after the other in the same place, as each is copied: fresh memory costs more than writing to it.
        matrix = weight.new_empty(len(weight), height, width, weight.shape[1])
        is_copied = is_fused(weight)
        self._products: list[Product] = []
        for y, x in itertools.product(range(height), range(width)):
            matrix.copy_(weight[:, :, 1 - y : 1 - y + height, 1 - x : 1 - x + width].permute(0, 2, 3, 1))
            self._products.append(Product((matrix if is_copied else matrix.clone()).flatten(1), bias, len(like)))

    def __call__(
        self,
        x: Float[Tensor, "r h w c"],
        residual: Float[Tensor, "r h w d"] | None = None,
        shift: Float[Tensor, " d"] | None = None,
        target: Float[Tensor, "r h w d"] | None = None,
    ) -> Float[Tensor, "r h w d"]:
        """The convolution, plus `residual`, into `target` where it is given. `shift` is added to the bias."""
        pixels = x.flatten(1)
        made = torch.stack([product(pixels, shift=shift) for product in self._products], dim=1).view(*x.shape[:3], -1)
        made = made if residual is None else made.add_(residual)
        return made if target is None else target.copy_(made)

    def add_to(self, target: Float[Tensor, "r h w d"], x: Float[Tensor, "r h w c"], portion: float | Tensor) -> None:
        """Add `portion` times the convolution of `x` to `target`, in place."""
        add_portion(target, self(x), portion)


class HalvingConvolution:
    """A convolution of stride 2 with zeros beyond all sides, of images `r h w c`."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self._conv = conv
        weight = conv.weight
        self.is_own = are_own(weight)
        if self.is_own:
            self._weight, self._bias = operations.packed(weight), operations.packed_bias(conv.bias, weight)
            self._window = operations.Window(weight.shape[2], weight.shape[3], stride=2)

    def __call__(self, x: Float[Tensor, "r h w c"]) -> Float[Tensor, "r h2 w2 d"]:
        """Height and width halve, odd ones rounded up."""
        if self.is_own:
            return operations.convolve(x, self._weight, self._bias, self._window)
        return self._conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()


def is_tiny(weight: Float[Tensor, "d c i j"], like: Float[Tensor, "r h w c"]) -> bool:
    """Whether TinyConvolution is for these, and the faster: where a product is oneDNN's."""
    return weight.shape[2:] == (3, 3) and max(like.shape[1:3]) <= TINY_SIDE and is_fused(like)
