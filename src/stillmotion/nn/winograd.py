"""Convolutions with fewer multiplications, equal in real arithmetic: Winograd's F(2, 3), F(4, 3), and for doublings.

Two neighbouring outputs of a convolution by (g0, g1, g2) need not six products but four, of sums of their four inputs
with sums of the taps: m0 = (d0 - d2) g0, m1 = (d1 + d2)(g0 + g1 + g2) / 2, m2 = (d2 - d1)(g0 - g1 + g2) / 2,
m3 = (d3 - d1) g2; the outputs are m0 + (m1 + m2) and m3 + (m1 - m2). Applied along both axes of an image, 36 become 16.
Behind a doubling by repetition d1 and d2 are the same pixel, so that m2 vanishes: three products, and 36 become 9.
Four neighbours need six products in place of twelve (F(4, 3)), along both axes 36 in place of 144: the values of the
polynomials of inputs and taps at 0, +-a, +-b and infinity.

Each product sums over fewer terms than the plain convolution, so that in float32 the result of F(2, 3) is no further
from the truth, and that of F(4, 3) about three times as far, with a and b as here (twice as far again with 1 and 2).
In bfloat16 the sums are rounded before they are multiplied: by torch's operations the mean square error of a
convolution along one axis is some four times that of rounding its result, along both ten times. Our own compiled code
rounds sums of inputs once and those of products not at all: along both it is five times.
Source: Lavin and Gray 2016 (arXiv 1509.09308), section 4; the form for doublings follows from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..kernels import operations
from .products import Convolution, Product, add_portion, are_own, is_fused

# What the taps are multiplied with to make those of the products.
SUMS_OF_TAPS = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
SUMS_OF_TAPS_DOUBLED = ((1.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0))
# The points of F(4, 3). Products at +-A and +-B are made A times as large, which spares two multiplications.
A, B = 0.75, 1.5
SUMS_OF_TAPS_OF_FOUR = (
    (1 / (A * B) ** 2, 0.0, 0.0),
    *((1 / (2 * A * (A**2 - B**2)), p / (2 * A * (A**2 - B**2)), A / (2 * (A**2 - B**2))) for p in (A, -A)),
    *(tuple(A * p**k / (2 * B**2 * (B**2 - A**2)) for k in range(3)) for p in (B, -B)),
    (0.0, 0.0, 1.0),
)
# Sums of taps that are made together.
SUMMED_AT_ONCE = 4
# Pixels of a frame from which on tiles of four pay: their taps take four times the memory of the weights.
LEAST_FRAME_IN_FOURS = 64
# In bfloat16 the sums of 1,280 x 1,280 taps take 71 ms, and 1,792 pixels gain 50: it pays from twice as many on.
LEAST_PIXELS_IN_HALF = 4096


class WinogradConvolution:
    """As `products.Convolution`, for kernels of 3x3 or 3x1 taps over images of even height (and width, for 3x3).

    along_rows_only: pair up neighbours in height alone, which for 3x3 taps saves a third of the multiplications rather
    than more than half, takes any width, and rounds less.
    tile: for 3x3 taps, how many neighbours along each axis are made together; the images' sides are multiples of it.
    Our own compiled code takes images of any size, and pairs up neighbours along both axes whatever is asked here.
    """

    def __init__(
        self,
        weight: Float[Tensor, "d c 3 j"],
        bias: Float[Tensor, " d"],
        like: Float[Tensor, "r h w c"],
        along_rows_only: bool = False,
        tile: Literal[2, 4] = 2,
    ) -> None:
        width = weight.shape[3]
        self._is_own = are_own(weight)
        if self._is_own:
            self._axes: tuple[operations.Axis, operations.Axis] = ("paired", "paired" if width == 3 else "alone")
            self._weights = operations.packed(weight, sums_over_both(SUMS_OF_TAPS) if width == 3 else SUMS_OF_TAPS)
            self._bias = operations.packed_bias(bias, weight)
            return
        self._margins = (0, 0, width // 2, width // 2, 1, 1)
        self._columns: list[_Pair] = []
        self._fours: list[_Four] = []
        self._bias = bias
        if tile == 4:
            products = _products(weight, None, SUMS_OF_TAPS_OF_FOUR, like.shape[:3].numel() // 16)
            self._fours = [_Four(products[column::6]) for column in range(6)]
        elif width == 3 and not along_rows_only:
            products = _products(weight, bias, SUMS_OF_TAPS, like.shape[:3].numel() // 4)
            self._columns = [_Pair(products[column::4]) for column in range(4)]
        elif width == 3:
            biases, half = (None, bias, None, None), like[:, ::2]
            each = zip(_taps_over_rows(weight), biases, strict=True)
            self._pair = _Pair([Convolution(taps[:, :, None], its, half, is_padded=True) for taps, its in each])
        else:
            each, rows = enumerate(_taps_over_rows(weight)), like.shape[:3].numel() // 2
            self._pair = _Pair([Product(taps.flatten(1), bias if i == 1 else None, rows) for i, taps in each])

    def __call__(
        self,
        x: Float[Tensor, "r h w c"],
        residual: Float[Tensor, "r h w d"] | None = None,
        shift: Float[Tensor, " d"] | None = None,
        target: Float[Tensor, "r h w d"] | None = None,
    ) -> Float[Tensor, "r h w d"]:
        """The convolution, plus `residual`, into `target` where it is given. `shift` is added to the bias."""
        if self._is_own:
            return self._own(x, residual, shift, target, is_padded=False)
        return self.of_padded(F.pad(x, self._margins), residual, shift, target)

    def add_to(self, target: Float[Tensor, "r h w d"], x: Float[Tensor, "r h w c"], portion: float | Tensor) -> None:
        """Add `portion` times the convolution of `x` to `target`, in place."""
        if self._is_own:
            kept = {"other": target, "portion": float(portion), "target": target}
            operations.convolve_in_sums(x, self._weights, self._bias, self._axes, **kept)
        else:
            add_portion(target, self(x), portion)

    def of_padded(
        self,
        padded: Float[Tensor, "r h2 w2 c"],
        residual: Float[Tensor, "r h w d"] | None = None,
        shift: Float[Tensor, " d"] | None = None,
        target: Float[Tensor, "r h w d"] | None = None,
    ) -> Float[Tensor, "r h w d"]:
        """The same of images with their margins, into `target` where it is given; it may be `residual`."""
        if self._is_own:
            return self._own(padded, residual, shift, target, is_padded=True)
        if target is None:
            images, height, width, _ = padded.shape
            pairs = self._fours or self._columns or [self._pair]
            target = padded.new_empty(images, height - 2, width - 2 * self._margins[2], pairs[0].outputs)
        if self._fours:
            return self._of_fours(padded, residual, self._bias if shift is None else self._bias + shift, target)
        rows = _inputs(padded, dim=1)
        if not self._columns:
            made = self._pair(rows, shift)
            for i in range(2):
                _put(target[:, i::2], made[i], None if residual is None else residual[:, i::2])
            return target
        tiles = [_inputs(row, dim=2) for row in rows]
        del rows
        made = [pair(tuple(row[i] for row in tiles), shift) for i, pair in enumerate(self._columns)]
        del tiles
        for i in range(2):
            m0, m1, m2, m3 = (column[i] for column in made)
            into, other = target[:, i::2], None if residual is None else residual[:, i::2]
            _put(into[:, :, ::2], m1 + m2, None if other is None else other[:, :, ::2], m0)
            _put(into[:, :, 1::2], m1.sub_(m2), None if other is None else other[:, :, 1::2], m3)
        return target

    def _own(
        self, x: Tensor, residual: Tensor | None, shift: Tensor | None, target: Tensor | None, is_padded: bool
    ) -> Tensor:
        bias = self._bias if shift is None else self._bias + shift
        kept = {"other": residual, "is_padded": is_padded, "target": target}
        return operations.convolve_in_sums(x, self._weights, bias, self._axes, **kept)

    def _of_fours(self, padded: Tensor, residual: Tensor | None, bias: Tensor, target: Tensor) -> Tensor:
        tiles = [_inputs_of_four(row, dim=2) for row in _inputs_of_four(padded, dim=1)]
        made = [four([row[i] for row in tiles]) for i, four in enumerate(self._fours)]
        del tiles
        for i in range(4):
            into, other = target[:, i::4], None if residual is None else residual[:, i::4]
            for j, x in enumerate(_four_of_six([column[i] for column in made])):
                if other is None:
                    torch.add(x, bias, out=into[:, :, j::4])
                else:
                    torch.add(x.add_(bias), other[:, :, j::4], out=into[:, :, j::4])
        return target


class DoublingConvolution:
    """A convolution of 3x3 taps over images of twice the height and width of those given, each pixel repeated."""

    def __init__(
        self, weight: Float[Tensor, "d c 3 3"], bias: Float[Tensor, " d"], like: Float[Tensor, "r h w c"]
    ) -> None:
        self._outputs = len(weight)
        self._is_own = are_own(weight)
        if self._is_own:
            self._weights = operations.packed(weight, sums_over_both(SUMS_OF_TAPS_DOUBLED))
            self._bias = operations.packed_bias(bias, weight)
        else:
            self._products = _products(weight, bias, SUMS_OF_TAPS_DOUBLED, like.shape[:3].numel())

    def __call__(
        self, x: Float[Tensor, "r h w c"], target: Float[Tensor, "r h2 w2 d"] | None = None
    ) -> Float[Tensor, "r h2 w2 d"]:
        """Height and width double; into `target` where it is given."""
        if self._is_own:
            return self._own(x, target, is_padded=False)
        return self.of_padded(F.pad(x, (0, 0, 1, 1, 1, 1)), target)

    def of_padded(
        self, padded: Float[Tensor, "r h2 w2 c"], target: Float[Tensor, "r h3 w3 d"] | None = None
    ) -> Float[Tensor, "r h3 w3 d"]:
        """The same of images with their margins, into `target` where it is given."""
        if self._is_own:
            return self._own(padded, target, is_padded=True)
        if target is None:
            images, height, width, _ = padded.shape
            target = padded.new_empty(images, 2 * height - 4, 2 * width - 4, self._outputs)
        tiles = [_doubled_inputs(row, dim=2) for row in _doubled_inputs(padded, dim=1)]
        upper, lower = [], []
        for i in range(3):
            first, middle, last = (self._products[3 * row + i] for row in range(3))
            shared = middle(tiles[1][i].contiguous())
            upper.append(first(tiles[0][i].contiguous(), shared))
            lower.append(last(tiles[2][i].contiguous(), shared))
        for i, (m0, m1, m3) in enumerate((upper, lower)):
            torch.add(m0, m1, out=target[:, i::2, ::2])
            torch.add(m1, m3, out=target[:, i::2, 1::2])
        return target

    def _own(self, x: Tensor, target: Tensor | None, is_padded: bool) -> Tensor:
        kept = {"is_padded": is_padded, "target": target}
        return operations.convolve_in_sums(x, self._weights, self._bias, ("doubled", "doubled"), **kept)


def suits(weight: Float[Tensor, "d c i j"], like: Float[Tensor, "r h w c"], pixels: int, is_kept: bool = False) -> bool:
    """Whether WinogradConvolution saves more than its sums cost: measured on processors with AVX-512.

    pixels: of all calls with these weights, whose own sums have to pay too, unless what is made of them is kept.
    In bfloat16 along rows alone, as the sums of inputs are rounded before they are multiplied. Our own compiled code,
    whose sums cost little, always saves.
    """
    in_full = like.dtype == torch.float32
    if are_own(weight):
        return weight.shape[2] == 3 and (is_kept or pixels >= LEAST_PIXELS_IN_HALF)
    is_even = like.shape[1] % 2 == 0 and (weight.shape[3] == 1 or like.shape[2] % 2 == 0)
    is_wide = min(weight.shape[:2]) >= 256 and (like.shape[:3].numel() >= 1024 or (in_full and is_kept))
    is_three = weight.shape[2] == 3 and weight.shape[3] in ((1, 3) if in_full else (3,))
    pays = in_full or is_kept or pixels >= LEAST_PIXELS_IN_HALF
    return is_three and is_even and is_wide and pays and is_fused(like)


def tile_for(weight: Float[Tensor, "d c i j"], like: Float[Tensor, "r h w c"], is_kept: bool) -> Literal[2, 4]:
    """The tile along both axes that is faster in float32."""
    is_whole = like.shape[1] % 4 == 0 and like.shape[2] % 4 == 0
    pays = is_kept and like.shape[1] * like.shape[2] >= LEAST_FRAME_IN_FOURS
    return 4 if weight.shape[3] == 3 and is_whole and pays else 2


class _Pair:
    """Two neighbouring outputs from the four sums of their inputs; what follows a product is fused into it."""

    def __init__(self, maps: list[Product] | list[Convolution]) -> None:
        self._maps = maps

    @property
    def outputs(self) -> int:
        """Channels of a result."""
        return self._maps[0].outputs

    def __call__(self, sums: tuple[Tensor, ...], shift: Tensor | None) -> tuple[Tensor, Tensor]:
        s0, s1, s2, s3 = sums
        m0, m1, m2, m3 = self._maps
        a, b = _mapped(m1, s1, None, shift), _mapped(m2, s2, None, None)
        first = _mapped(m0, s0, a + b, None)
        return first, _mapped(m3, s3, a.sub_(b), None)


class _Four:
    """Four neighbouring outputs from the six sums of their inputs."""

    def __init__(self, maps: list[Product]) -> None:
        self._maps = maps

    @property
    def outputs(self) -> int:
        """Channels of a result."""
        return self._maps[0].outputs

    def __call__(self, sums: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return _four_of_six([by(x.contiguous()) for by, x in zip(self._maps, sums, strict=True)])


def _mapped(by: Product | Convolution, x: Tensor, other: Tensor | None, shift: Tensor | None) -> Tensor:
    return by(x if isinstance(by, Convolution) else x.contiguous(), other, shift)


def _put(target: Tensor, x: Tensor, *others: Tensor | None) -> None:
    """The sum, into `target`; `x` is given up."""
    terms = [other for other in others if other is not None]
    for term in terms[1:]:
        x.add_(term)
    if terms:
        torch.add(x, terms[0], out=target)
    else:
        target.copy_(x)


def _products(
    weight: Float[Tensor, "d c 3 3"], bias: Tensor | None, sums_of_taps: tuple[tuple[float, ...], ...], rows: int
) -> list[Product]:
    """One for each sum of taps along both axes; the bias, where given, goes to that of all middle taps."""
    common = len(sums_of_taps) + 1
    return [
        Product(taps, bias if i == common else None, rows)
        for i, taps in enumerate(_taps_over_both(weight, sums_of_taps))
    ]


def sums_over_both(sums_of_taps: tuple[tuple[float, ...], ...]) -> list[list[float]]:
    """What each sum of taps along both axes is of the nine taps."""
    return [[a * b for a in down for b in across] for down in sums_of_taps for across in sums_of_taps]


def _taps_over_rows(weight: Float[Tensor, "d c 3 j"]) -> list[Float[Tensor, "d c j"]]:
    """The taps of each product along the first axis, as SUMS_OF_TAPS says, summed in at least float32."""
    first, middle, last = weight.permute(2, 0, 1, 3).contiguous()
    wide = torch.promote_types(weight.dtype, torch.float32)
    outer, inner = first.to(wide).add(last).mul_(0.5), middle.to(wide) * 0.5
    return [first, (outer + inner).to(weight.dtype), outer.sub_(inner).to(weight.dtype), last]


def _taps_over_both(
    weight: Float[Tensor, "d c 3 3"], sums_of_taps: tuple[tuple[float, ...], ...]
) -> Iterator[Float[Tensor, "d c"]]:
    """The taps of each product along both axes, summed in at least float32.

    Where a product takes a copy of its weights, some lie where those before them lay: fresh memory costs more than what
    is written to it.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    sums = torch.tensor(sums_over_both(sums_of_taps), dtype=wide, device=weight.device)
    taps = weight.to(wide).flatten(2).flatten(0, 1).T
    place = taps.new_empty(SUMMED_AT_ONCE, taps.shape[1]) if is_fused(weight) else None
    for some in sums.split(SUMMED_AT_ONCE):
        summed = torch.mm(some, taps, out=None if place is None else place[: len(some)])
        yield from summed.to(weight.dtype).unflatten(1, weight.shape[:2])


def _inputs(padded: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sums of the inputs of each pair of outputs along one axis, which has one more entry on each side."""
    pairs = padded.shape[dim] // 2 - 1
    even, odd = (padded.unflatten(dim, (-1, 2)).select(dim + 1, i) for i in range(2))
    d0, d1 = even.narrow(dim, 0, pairs), odd.narrow(dim, 0, pairs)
    d2, d3 = even.narrow(dim, 1, pairs), odd.narrow(dim, 1, pairs)
    return d0 - d2, d1 + d2, d2 - d1, d3 - d1


def _inputs_of_four(padded: Tensor, dim: int) -> tuple[Tensor, ...]:
    """As _inputs, for four outputs together: the polynomials with roots at all points but one, of their six inputs."""
    d0, d1, d2, d3, d4, d5 = padded.unfold(dim, 6, 4).unbind(-1)
    even, odd = torch.sub(d4, d2, alpha=B**2), torch.sub(d3, d1, alpha=B**2)
    t1, t2 = torch.add(even, odd, alpha=A), torch.sub(even, odd, alpha=A)
    torch.sub(d4, d2, alpha=A**2, out=even)
    torch.sub(d3, d1, alpha=A**2, out=odd)
    t3, t4 = torch.add(even, odd, alpha=B), torch.sub(even, odd, alpha=B)
    t0 = even.sub_(torch.sub(d2, d0, alpha=A**2), alpha=B**2)
    t5 = torch.sub(d5, d3, alpha=A**2).sub_(odd, alpha=B**2)
    return t0, t1, t2, t3, t4, t5


def _four_of_six(products: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The outputs; the products are given up."""
    m0, m1, m2, m3, m4, m5 = products
    ratio = B / A
    near, near_odd = m1 + m2, m1.sub_(m2)
    far, far_odd = m3 + m4, m3.sub_(m4)
    first = m0.add_(near + far, alpha=1 / A)
    second = torch.add(near_odd, far_odd, alpha=ratio)
    third = near.add_(far, alpha=ratio**2).mul_(A)
    last = m5.add_(near_odd.add_(far_odd, alpha=ratio**3), alpha=A**2)
    return first, second, third, last


def _doubled_inputs(padded: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    length = padded.shape[dim] - 2
    before, itself, behind = (padded.narrow(dim, i, length) for i in range(3))
    return before - itself, itself, behind - itself
