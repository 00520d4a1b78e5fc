"""Halving and doubling, at odd sizes too."""

from __future__ import annotations

import pytest
import torch

from stillmotion.nn.resample import Downsample, Upsample


def convolution_by_hand(layer: Downsample, frame: torch.Tensor, first: int) -> torch.Tensor:
    """Stride 2 over windows that begin at `first`, zeros outside."""
    channels, height, width = frame.shape
    if first == -1:
        out_height, out_width = (height + 1) // 2, (width + 1) // 2
    else:
        out_height, out_width = height // 2, width // 2
    padded = torch.zeros(channels, height + 4, width + 4)
    padded[:, 1 : height + 1, 1 : width + 1] = frame
    rows = []
    for i in range(out_height):
        for j in range(out_width):
            top, left = 2 * i + first + 1, 2 * j + first + 1
            window = padded[:, top : top + 3, left : left + 3]
            rows.append((layer.conv.weight * window).sum(dim=(1, 2, 3)) + layer.conv.bias)
    return torch.stack(rows, dim=1).reshape(channels, out_height, out_width)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (2, 2)])
@pytest.mark.parametrize("pads_all_sides", [True, False])
def test_windows_start_before_the_frame_or_at_its_corner(height: int, width: int, pads_all_sides: bool) -> None:
    layer = Downsample(2, pads_all_sides)
    x = torch.randn(2, 3, 2, height, width)
    halved = layer(x)
    expected = convolution_by_hand(layer, x[1, 2], -1 if pads_all_sides else 0)
    assert halved.shape[:3] == (2, 3, 2)
    torch.testing.assert_close(halved[1, 2], expected, rtol=1e-5, atol=1e-6)


def test_an_odd_size_is_rounded_up_by_the_u_net_and_survives_one_pixel() -> None:
    assert Downsample(2, True)(torch.randn(1, 1, 2, 7, 9)).shape[-2:] == (4, 5)
    assert Downsample(2, True)(torch.randn(1, 1, 2, 1, 1)).shape[-2:] == (1, 1)


def test_doubling_repeats_pixels_before_the_convolution() -> None:
    layer = Upsample(3)
    x = torch.randn(2, 2, 3, 4, 5)
    repeated = x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    torch.testing.assert_close(layer(x), layer.conv(repeated.flatten(0, 1)).unflatten(0, (2, 2)))


def test_a_given_size_is_reached() -> None:
    layer = Upsample(3)
    x = torch.randn(1, 2, 3, 4, 5)
    odd = layer(x, (7, 9))
    assert odd.shape == (1, 2, 3, 7, 9)
    rows, columns = torch.arange(7) * 4 // 7, torch.arange(9) * 5 // 9
    torch.testing.assert_close(odd[0], layer.conv(x[0][:, :, rows][..., columns]))
