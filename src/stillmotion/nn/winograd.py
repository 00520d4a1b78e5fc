"""Convolutions with fewer multiplications, equal in real arithmetic: Winograd's F(2, 3), and its form for doublings.

Two neighbouring outputs of a convolution by (g0, g1, g2) need not six products but four, of sums of their four inputs
with sums of the taps: m0 = (d0 - d2) g0, m1 = (d1 + d2)(g0 + g1 + g2) / 2, m2 = (d2 - d1)(g0 - g1 + g2) / 2,
m3 = (d1 - d3) g2; the outputs are m0 + m1 + m2 and m1 - m2 - m3. Applied along both axes of an image, 36 become 16.
Behind a doubling by repetition d1 and d2 are the same pixel, so that m2 vanishes: three products, and 36 become 9.

Each product sums over fewer terms than the plain convolution, so that in float32 the result is no further from the
truth. Source: Lavin and Gray 2016 (arXiv 1509.09308), section 4; the form for doublings follows from it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .products import Product, is_fused

# What the taps are multiplied with to make those of the products.
SUMS_OF_TAPS = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
SUMS_OF_TAPS_DOUBLED = ((1.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0))


class WinogradConvolution:
    """As `products.Convolution`, for kernels of 3x3 or 3x1 taps over images of even height (and width, for 3x3)."""

    def __init__(
        self, weight: Float[Tensor, "d c 3 j"], bias: Float[Tensor, " d"], like: Float[Tensor, "r h w c"]
    ) -> None:
        self._both_axes = weight.shape[3] == 3
        tiles = like.shape[:3].numel() // (4 if self._both_axes else 2)
        self._products = _products(weight, bias, SUMS_OF_TAPS, tiles)

    def __call__(
        self,
        x: Float[Tensor, "r h w c"],
        residual: Float[Tensor, "r h w d"] | None = None,
        shift: Float[Tensor, " d"] | None = None,
    ) -> Float[Tensor, "r h w d"]:
        """The convolution, plus `residual`. `shift` is added to the bias."""
        images, height, width, _ = x.shape
        padded = F.pad(x, (0, 0, int(self._both_axes), int(self._both_axes), 1, 1))
        tiles = list(_inputs(padded, dim=1))
        if self._both_axes:
            tiles = [tile for row in tiles for tile in _inputs(row, dim=2)]
        shifts = [None if product.bias is None else shift for product in self._products]
        each = zip(self._products, tiles, shifts, strict=True)
        made = [product(tile.contiguous(), shift=moved) for product, tile, moved in each]
        if self._both_axes:
            columns = [_outputs(*made[i::4]) for i in range(4)]
            made = [torch.stack(_outputs(*four), dim=3) for four in zip(*columns, strict=True)]
        else:
            made = list(_outputs(*made))
        out = torch.stack(made, dim=2).view(images, height, width, -1)
        return out if residual is None else out.add_(residual)


class DoublingConvolution:
    """A convolution of 3x3 taps over images of twice the height and width of those given, each pixel repeated."""

    def __init__(
        self, weight: Float[Tensor, "d c 3 3"], bias: Float[Tensor, " d"], like: Float[Tensor, "r h w c"]
    ) -> None:
        self._products = _products(weight, bias, SUMS_OF_TAPS_DOUBLED, like.shape[:3].numel())

    def __call__(self, x: Float[Tensor, "r h w c"]) -> Float[Tensor, "r h2 w2 d"]:
        """Height and width double."""
        images, height, width, _ = x.shape
        rows = _doubled_inputs(F.pad(x, (0, 0, 1, 1, 1, 1)), dim=1)
        tiles = [tile.contiguous() for row in rows for tile in _doubled_inputs(row, dim=2)]
        made = [product(tile) for product, tile in zip(self._products, tiles, strict=True)]
        columns = [_doubled_outputs(*made[i::3]) for i in range(3)]
        pairs = [torch.stack(_doubled_outputs(*three), dim=3) for three in zip(*columns, strict=True)]
        return torch.stack(pairs, dim=2).view(images, 2 * height, 2 * width, -1)


def suits(weight: Float[Tensor, "d c i j"], like: Float[Tensor, "r h w c"]) -> bool:
    """Whether WinogradConvolution saves more than its sums cost: measured on processors with AVX-512.

    Only in float32: in bfloat16 the sums would be rounded before they are multiplied.
    """
    is_even = like.shape[1] % 2 == 0 and (weight.shape[3] == 1 or like.shape[2] % 2 == 0)
    is_wide = min(weight.shape[:2]) >= 256 and like.shape[:3].numel() >= 1024
    is_three = weight.shape[2] == 3 and weight.shape[3] in (1, 3)
    return is_three and is_even and is_wide and like.dtype == torch.float32 and is_fused(like)


def _products(
    weight: Float[Tensor, "d c 3 j"], bias: Tensor, sums_of_taps: tuple[tuple[float, ...], ...], rows: int
) -> list[Product]:
    """One for each sum of taps, along one axis or both; the middle taps reach all outputs, and have the bias."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    sums = torch.tensor(sums_of_taps, dtype=wide, device=weight.device)
    if weight.shape[3] == 3:
        sums = torch.kron(sums, sums)
    taps = (sums @ weight.to(wide).flatten(2).flatten(0, 1).T).to(weight.dtype).unflatten(1, weight.shape[:2])
    common = 1 if weight.shape[3] == 1 else len(sums_of_taps) + 1
    return [Product(each, bias if i == common else None, rows) for i, each in enumerate(taps)]


def _inputs(padded: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sums of the inputs of each pair of outputs along one axis, which has one more entry on each side."""
    pairs = padded.shape[dim] // 2 - 1
    even, odd = (padded.unflatten(dim, (-1, 2)).select(dim + 1, i) for i in range(2))
    d0, d1 = even.narrow(dim, 0, pairs), odd.narrow(dim, 0, pairs)
    d2, d3 = even.narrow(dim, 1, pairs), odd.narrow(dim, 1, pairs)
    return d0 - d2, d1 + d2, d2 - d1, d1 - d3


def _outputs(m0: Tensor, m1: Tensor, m2: Tensor, m3: Tensor) -> tuple[Tensor, Tensor]:
    return (m1 + m2).add_(m0), (m1 - m2).sub_(m3)


def _doubled_inputs(padded: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    length = padded.shape[dim] - 2
    before, itself, behind = (padded.narrow(dim, i, length) for i in range(3))
    return before - itself, itself, itself - behind


def _doubled_outputs(m0: Tensor, m1: Tensor, m3: Tensor) -> tuple[Tensor, Tensor]:
    return m0 + m1, m1 - m3
