"""Convolutions with fewer multiplications, against torch's own."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch.nn import functional as F

from stillmotion.kernels import operations
from stillmotion.nn.winograd import DoublingConvolution, WinogradConvolution, suits

pytestmark = pytest.mark.usefixtures("either_code")
TOLERANCES = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 3e-2}


def drawn(dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=draw).to(dtype) for shape in shapes]


def expected(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    made = F.conv2d(x.double().permute(0, 3, 1, 2), weight.double(), bias.double(), padding=padding)
    return made.permute(0, 2, 3, 1)


def close(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype and found.shape == wanted.shape
    assert (found.double() - wanted).abs().max() <= TOLERANCES[dtype] * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [(2, 6, 8), (1, 2, 2), (3, 4, 2)])
@pytest.mark.parametrize("width", [1, 3])
def test_a_convolution(dtype: torch.dtype, size: tuple[int, int, int], width: int) -> None:
    x, weight, bias, residual = drawn(dtype, (*size, 20), (24, 20, 3, width), (24,), (*size, 24))
    kept = residual.clone()
    convolution = WinogradConvolution(weight, bias, x)
    close(convolution(x), expected(x, weight, bias), dtype)
    close(convolution(x, residual), expected(x, weight, bias) + residual.double(), dtype)
    assert torch.equal(residual, kept)
    convolution.add_to(residual, x, 0.25)
    close(residual, 0.25 * expected(x, weight, bias) + kept.double(), dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("size", [(2, 6, 7), (1, 2, 1), (1, 12, 30)])
def test_a_convolution_with_pairs_of_rows_alone(dtype: torch.dtype, size: tuple[int, int, int]) -> None:
    x, weight, bias, residual = drawn(dtype, (*size, 20), (24, 20, 3, 3), (24,), (*size, 24))
    convolution = WinogradConvolution(weight, bias, x, along_rows_only=True)
    close(convolution(x), expected(x, weight, bias), dtype)
    close(convolution(x, residual), expected(x, weight, bias) + residual.double(), dtype)
    kept = residual.clone()
    convolution.add_to(residual, x, 0.25)
    close(residual, 0.25 * expected(x, weight, bias) + kept.double(), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [(2, 8, 12), (1, 4, 4), (3, 4, 8)])
def test_a_convolution_in_tiles_of_four(dtype: torch.dtype, size: tuple[int, int, int]) -> None:
    x, weight, bias, shift, residual = drawn(dtype, (*size, 20), (24, 20, 3, 3), (24,), (24,), (*size, 24))
    kept = residual.clone()
    convolution = WinogradConvolution(weight, bias, x, tile=4)
    close(convolution(x), expected(x, weight, bias), dtype)
    close(convolution(x, shift=shift), expected(x, weight, bias) + shift.double(), dtype)
    close(convolution(x, residual), expected(x, weight, bias) + residual.double(), dtype)
    assert torch.equal(residual, kept)


@pytest.mark.parametrize("tile", [2, 4])
def test_it_writes_where_the_residual_lies(tile: Literal[2, 4]) -> None:
    x, weight, bias, residual = drawn(torch.float64, (2, 4, 8, 20), (24, 20, 3, 3), (24,), (2, 4, 8, 24))
    wanted = expected(x, weight, bias) + residual
    convolution = WinogradConvolution(weight, bias, x, tile=tile)
    made = convolution.of_padded(F.pad(x, (0, 0, 1, 1, 1, 1)), residual, None, residual)
    assert made is residual
    close(residual, wanted, torch.float64)


def test_frames_over_an_odd_number_of_pixels() -> None:
    x, weight, bias = drawn(torch.float64, (2, 6, 7, 20), (24, 20, 3, 1), (24,))
    close(WinogradConvolution(weight, bias, x)(x), expected(x, weight, bias), torch.float64)


@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("size", [(2, 5, 7), (1, 1, 1), (1, 2, 3)])
def test_a_convolution_behind_a_doubling(dtype: torch.dtype, size: tuple[int, int, int]) -> None:
    x, weight, bias = drawn(dtype, (*size, 20), (24, 20, 3, 3), (24,))
    doubled = x.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    close(DoublingConvolution(weight, bias, x)(x), expected(doubled, weight, bias), dtype)


@pytest.mark.parametrize(("tile", "most"), [(2, 2), (4, 20)])
def test_how_far_it_is_from_the_truth_beside_the_plain_convolution(tile: Literal[2, 4], most: float) -> None:
    x, weight, bias = drawn(torch.float32, (1, 16, 16, 320), (320, 320, 3, 3), (320,))
    truth = expected(x, weight, bias)
    plain = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1).permute(0, 2, 3, 1)
    error = (WinogradConvolution(weight, bias, x, tile=tile)(x) - truth).square().mean()
    assert error < most * (plain - truth).square().mean()


@pytest.mark.parametrize(
    ("size", "channels", "kernel", "dtype", "pixels", "verdict"),
    [
        ((2, 32, 32), 320, (3, 3), torch.float32, 2048, True),
        ((2, 14, 64), 320, (3, 1), torch.float32, 2048, True),
        ((2, 31, 32), 320, (3, 3), torch.float32, 2048, False),
        ((2, 32, 31), 320, (3, 3), torch.float32, 2048, False),
        ((2, 4, 4), 1280, (3, 3), torch.float32, 32, False),
        ((2, 32, 32), 64, (3, 3), torch.float32, 2048, False),
        ((2, 32, 32), 320, (1, 1), torch.float32, 2048, False),
        ((2, 32, 32), 320, (3, 3), torch.bfloat16, 28 * 1024, True),
        ((28, 8, 8), 1280, (3, 3), torch.bfloat16, 28 * 64, False),
        ((2, 14, 64), 320, (3, 1), torch.bfloat16, 28 * 1024, False),
    ],
)
def test_what_it_suits_by_torch_alone(
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int, int],
    channels: int,
    kernel: tuple[int, int],
    dtype: torch.dtype,
    pixels: int,
    verdict: bool,
) -> None:
    monkeypatch.setattr(operations, "are_here", lambda: False)
    x, weight = torch.zeros(*size, channels, dtype=dtype), torch.zeros(channels, channels, *kernel, dtype=dtype)
    assert suits(weight, x, pixels) == (verdict and torch.backends.mkldnn.is_available())


@pytest.mark.parametrize(
    ("kernel", "pixels", "is_kept", "verdict"),
    [((3, 3), 28, True, True), ((3, 1), 28, True, True), ((1, 1), 28, True, False), ((3, 3), 28, False, False)],
)
def test_what_it_suits_by_our_own_code(
    either_code: str, kernel: tuple[int, int], pixels: int, is_kept: bool, verdict: bool
) -> None:
    if either_code == "compiled":
        x, weight = torch.zeros(1, 3, 5, 32).bfloat16(), torch.zeros(32, 32, *kernel).bfloat16()
        assert suits(weight, x, pixels, is_kept) == verdict
