"""Products with what follows them fused in, against torch's own functions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stillmotion.nn.products import (
    SMALL_FRAME,
    Convolution,
    GatedProduct,
    HalvingConvolution,
    Product,
    TinyConvolution,
    is_fused,
    is_tiny,
)

pytestmark = pytest.mark.usefixtures("either_code")
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def close(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    tolerance = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 1e-2}[dtype]
    assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [(7,), (3, 5), (1, 1)])
def test_products(dtype: torch.dtype, rows: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=draw).to(dtype) for s in ((*rows, 24), (40, 24), (40,)))
    other = torch.randn((*rows, 40), generator=draw).to(dtype)
    kept = other.clone()
    expected = F.linear(x.double(), weight.double(), bias.double())
    with torch.inference_mode():
        product = Product(weight, bias, rows=4)
        close(product(x), expected, dtype)
        close(product(x, shift=bias), expected + bias.double(), dtype)
        close(product(x, other), expected + other.double(), dtype)
        target = torch.empty_like(other)
        close(product(x, other, target=target), expected + other.double(), dtype)
        assert torch.equal(target, product(x, other))
        assert product(x, target=target) is target and torch.equal(target, product(x))
        close(Product(weight, None, 4)(x), expected - bias.double(), dtype)
    assert torch.equal(other, kept)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [64, 40])
def test_gated_products(dtype: torch.dtype, hidden: int) -> None:
    draw = torch.Generator().manual_seed(0)
    sizes = (3, 5, 24), (2 * hidden, 24), (2 * hidden,)
    x, weight, bias = (torch.randn(size, generator=draw).to(dtype) for size in sizes)
    value, gate = F.linear(x.double(), weight.double(), bias.double()).chunk(2, dim=-1)
    with torch.inference_mode():
        close(GatedProduct(weight, bias, rows=15)(x), value * F.gelu(gate), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(2, 9, 11), (3, 4, 4), (1, 1, 1)])
@pytest.mark.parametrize("kernel", [(3, 3), (3, 1), (1, 1)])
def test_convolutions(dtype: torch.dtype, size: tuple[int, int, int], kernel: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    x, residual = (torch.randn((*size, c), generator=draw).to(dtype) for c in (32, 48))
    weight, bias = (torch.randn(s, generator=draw).to(dtype) for s in ((48, 32, *kernel), (48,)))
    padding = (kernel[0] // 2, kernel[1] // 2)
    image = x.double().permute(0, 3, 1, 2)
    expected = F.conv2d(image, weight.double(), bias.double(), padding=padding).permute(0, 2, 3, 1)
    kept = residual.clone()
    with torch.inference_mode():
        convolution = Convolution(weight, bias, x)
        close(convolution(x), expected, dtype)
        close(convolution(x, residual), expected + residual.double(), dtype)
        assert torch.equal(residual, kept)
        target = torch.empty_like(residual)
        assert convolution(x, target=target) is target
        close(target, expected, dtype)
        close(convolution(x, residual, target=residual), expected + kept.double(), dtype)
        close(residual, expected + kept.double(), dtype)
        for portion in (0.25, torch.tensor(0.25)):
            sum_up = kept.clone()
            convolution.add_to(sum_up, x, portion)
            close(sum_up, 0.25 * expected + kept.double(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(2, 9, 11), (3, 4, 4), (1, 1, 1)])
@pytest.mark.parametrize("outputs", [48, 40])
def test_halvings(dtype: torch.dtype, size: tuple[int, int, int], outputs: int) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn((*size, 32), generator=draw).to(dtype)
    conv = nn.Conv2d(32, outputs, 3, stride=2, padding=1, dtype=dtype)
    expected = copy.deepcopy(conv).double()(x.double().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    with torch.inference_mode():
        close(HalvingConvolution(conv)(x), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(3, 2, 2), (2, 1, 2), (2, 2, 1), (1, 1, 1)])
def test_convolutions_of_tiny_images(dtype: torch.dtype, size: tuple[int, int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    x, residual = (torch.randn((*size, c), generator=draw).to(dtype) for c in (32, 48))
    weight, bias, shift = (torch.randn(s, generator=draw).to(dtype) for s in ((48, 32, 3, 3), (48,), (48,)))
    expected = F.conv2d(x.double().permute(0, 3, 1, 2), weight.double(), bias.double(), padding=1).permute(0, 2, 3, 1)
    with torch.inference_mode():
        convolution = TinyConvolution(weight, bias, x)
        close(convolution(x), expected, dtype)
        close(convolution(x, residual), expected + residual.double(), dtype)
        close(convolution(x, shift=shift), expected + shift.double(), dtype)
        kept = residual.clone()
        convolution.add_to(residual, x, 0.25)
        close(residual, 0.25 * expected + kept.double(), dtype)


def test_what_counts_as_tiny() -> None:
    weight, tiny = torch.zeros(8, 8, 3, 3), torch.zeros(4, 2, 2, 8)
    assert is_tiny(weight, tiny) == torch.backends.mkldnn.is_available()
    assert not is_tiny(weight, torch.zeros(4, 2, 3, 8)) and not is_tiny(weight[..., :1], tiny)
    assert not is_tiny(weight, tiny.double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 9, 11), (1, 1, 70), (1, 1, 1)])
def test_convolutions_of_images_with_their_margins(dtype: torch.dtype, size: tuple[int, int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(s, generator=draw).to(dtype) for s in ((*size, 32), (48, 32, 3, 1)))
    image = x.double().permute(0, 3, 1, 2)
    expected = F.conv2d(image, weight.double(), padding=(1, 0)).permute(0, 2, 3, 1)
    with torch.inference_mode():
        close(Convolution(weight, None, x, is_padded=True)(F.pad(x, (0, 0, 0, 0, 1, 1))), expected, dtype)


def test_both_sides_of_a_small_frame_are_tested_above() -> None:
    assert 4 * 4 <= SMALL_FRAME < 9 * 11


def test_only_what_the_processor_multiplies_is_fused() -> None:
    assert not is_fused(torch.zeros(1, dtype=torch.float64)) and not is_fused(torch.zeros(1, device="meta"))
    assert is_fused(torch.zeros(1)) == torch.backends.mkldnn.is_available()
