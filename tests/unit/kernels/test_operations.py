"""Our own compiled code against torch in float64: each result is the true one, rounded once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stillmotion.kernels import operations
from stillmotion.kernels.library import absence
from stillmotion.kernels.operations import POINT, Window
from stillmotion.nn.winograd import SUMS_OF_TAPS, SUMS_OF_TAPS_DOUBLED, sums_over_both

pytestmark = pytest.mark.skipif(absence() is not None, reason=f"the compiled code is not here: {absence()}")
META = torch.device("meta")


def drawn(*shapes: tuple[int, ...], scale: float = 1.0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(5)
    return [(scale * torch.randn(shape, generator=draw)).bfloat16() for shape in shapes]


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    padding = weight.shape[2] // 2, weight.shape[3] // 2
    told = None if bias is None else bias.double()
    return F.conv2d(x.double().permute(0, 3, 1, 2), weight.double(), told, padding=padding).permute(0, 2, 3, 1)


def near(found: Tensor, expected: Tensor, roundings: float = 1.0) -> None:
    """Within so many halves of bfloat16's last place, and what float32 sums lose."""
    assert found.shape == expected.shape and not found.isnan().any()
    off = (found.double() - expected).abs()
    assert (off <= roundings * (expected.abs() * 2**-8 + 1e-3 * expected.std())).all(), off.max()


SIZES = [(1, 1, 1), (2, 5, 7), (1, 1, 13), (3, 4, 4), (1, 9, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("taps", [(1, 1), (3, 1), (1, 3), (3, 3)])
@pytest.mark.parametrize(("channels", "outputs"), [(2, 16), (20, 64), (6, 112), (34, 144)])
def test_convolutions(size: tuple[int, int, int], taps: tuple[int, int], channels: int, outputs: int) -> None:
    x, weight, bias, other = drawn((*size, channels), (outputs, channels, *taps), (outputs,), (*size, outputs))
    packed, expected, window = operations.packed(weight), convolved(x, weight, bias), Window(*taps)
    told = operations.packed_bias(bias, weight)
    near(operations.convolve(x, packed, told, window), expected)
    near(operations.convolve(x, packed, told, window, other, portion=0.25), 0.25 * expected + other.double())
    none = operations.packed_bias(None, weight)
    near(operations.convolve(x, packed, none, window), convolved(x, weight, None))
    framed = F.pad(x, (0, 0, taps[1] // 2, taps[1] // 2, taps[0] // 2, taps[0] // 2))
    near(operations.convolve(framed, packed, told, window._replace(is_padded=True)), expected)
    halved = window._replace(stride=2)
    near(operations.convolve(x, packed, told, halved), expected[:, ::2, ::2])
    near(operations.convolve(framed, packed, told, halved._replace(is_padded=True)), expected[:, ::2, ::2])


def test_a_convolution_reads_and_writes_parts_of_tensors() -> None:
    wide, weight, bias, place = drawn((4, 6, 9, 24), (32, 24, 3, 3), (32,), (4, 12, 7, 32))
    x, target = wide[::2, 1:5, 2:], place[1::2, 3:7]
    before, expected = place.clone(), convolved(x, weight, bias) + target.double()
    packed, told = operations.packed(weight), operations.packed_bias(bias, weight)
    made = operations.convolve(x, packed, told, Window(3, 3), target, target=target)
    assert made is target
    near(made, expected)
    before[1::2, 3:7] = target
    assert torch.equal(place, before)  # nothing beside it
    turned = wide.transpose(1, 2)
    near(operations.convolve(turned, packed, told, Window(3, 3)), convolved(turned, weight, bias))
    with pytest.raises(AssertionError):
        operations.convolve(x, packed, told, Window(3, 3), target=torch.empty(2, 32, 4, 7).permute(0, 2, 3, 1))


@pytest.mark.parametrize("tokens", [1, 6, 100])
@pytest.mark.parametrize("hidden", [32, 160])
def test_gates(tokens: int, hidden: int) -> None:
    x, weight, bias = drawn((1, 1, tokens, 40), (2 * hidden, 40, 1, 1), (2 * hidden,))
    value, gate = convolved(x, weight, bias).chunk(2, dim=-1)
    told = operations.packed_bias(bias, weight, is_gated=True)
    packed = operations.packed(weight, is_gated=True)
    near(operations.convolve(x, packed, told, POINT, is_gated=True), value * F.gelu(gate))


def test_gelu_over_its_whole_range() -> None:
    gate = torch.cat([torch.linspace(-12, 12, 3001), torch.tensor([0.0, -0.0, 1e-30, 300.0, -300.0])]).bfloat16()
    weight = torch.zeros(64, 2, 1, 1).bfloat16()
    weight[:32, 1], weight[32:, 0] = 1, 1
    x = torch.stack([gate, torch.ones_like(gate)], dim=1)[None, None]
    packed, none = operations.packed(weight, is_gated=True), operations.packed_bias(None, weight, is_gated=True)
    found = operations.convolve(x, packed, none, POINT, is_gated=True)[0, 0, :, 0].double()
    expected = F.gelu(gate.double())
    assert ((found - expected).abs() <= 2**-8 * expected.abs() + 1e-5).all()


@pytest.mark.parametrize("size", [*SIZES, (2, 14, 30), (5, 12, 10)])
@pytest.mark.parametrize("axes", [("paired", "paired"), ("paired", "alone"), ("doubled", "doubled")])
@pytest.mark.parametrize(("channels", "outputs"), [(16, 64), (22, 112)])
def test_convolutions_in_sums(
    size: tuple[int, int, int], axes: tuple[operations.Axis, operations.Axis], channels: int, outputs: int
) -> None:
    taps = (3, 1) if axes[1] == "alone" else (3, 3)
    x, weight, bias = drawn((*size, channels), (outputs, channels, *taps), (outputs,))
    grown, sums = x, sums_over_both(SUMS_OF_TAPS)
    if axes[0] == "doubled":
        grown, sums = x.repeat_interleave(2, 1).repeat_interleave(2, 2), sums_over_both(SUMS_OF_TAPS_DOUBLED)
    packed = operations.packed(weight, SUMS_OF_TAPS if axes[1] == "alone" else sums)
    expected, told = convolved(grown, weight, bias), operations.packed_bias(bias, weight)
    # Sums are rounded by their own size, not by that of the result.
    scale = convolved(grown.abs(), weight.abs(), None).amax()

    def near_in_sums(found: Tensor, truth: Tensor) -> None:
        assert found.shape == truth.shape
        assert (found.double() - truth).abs().max() <= 2**-8 * (scale + truth.abs().max())

    near_in_sums(operations.convolve_in_sums(x, packed, told, axes), expected)
    (other,) = drawn(tuple(expected.shape))
    place = torch.zeros(len(expected), expected.shape[1] + 3, *expected.shape[2:]).bfloat16()
    target = place[:, 2:-1]
    framed = F.pad(x, (0, 0, *((0, 0) if axes[1] == "alone" else (1, 1)), 1, 1))
    kept = {"other": other, "portion": 0.5, "is_padded": True, "target": target}
    assert operations.convolve_in_sums(framed, packed, told, axes, **kept) is target
    near_in_sums(target, 0.5 * expected + other.double())
    assert not place[:, :2].any() and not place[:, -1:].any()


def test_sums_cost_little_accuracy() -> None:
    x, weight = drawn((2, 16, 16, 320), (64, 320, 3, 3))
    truth, none = convolved(x, weight, None), operations.packed_bias(None, weight)
    packed = operations.packed(weight, sums_over_both(SUMS_OF_TAPS))
    off = operations.convolve_in_sums(x, packed, none, ("paired", "paired")).double() - truth
    rounding = truth.bfloat16().double() - truth
    assert off.square().mean() < 7 * rounding.square().mean()


@pytest.mark.parametrize(
    "size", [(1, 1, 1, 32), (3, 5, 7, 64), (2, 40, 60, 96), (1, 14, 150, 320), (30, 2, 2, 40), (2, 33, 31, 128)]
)
@pytest.mark.parametrize("is_activated", [True, False])
def test_group_norms(size: tuple[int, int, int, int], is_activated: bool) -> None:
    groups = 8
    x, weight, bias = drawn(size, size[3:], size[3:])
    x = (3 * x + 5 * torch.linspace(-1, 1, size[3])).bfloat16()
    expected = F.group_norm(x.double().permute(0, 3, 1, 2), groups, weight.double(), bias.double(), 1e-5)
    expected = (F.silu(expected) if is_activated else expected).permute(0, 2, 3, 1)
    near(operations.group_norm(x, groups, weight, bias, 1e-5, is_activated), expected, 1.5)
    near(
        operations.group_norm(x.transpose(1, 2), groups, weight, bias, 1e-5, is_activated),
        expected.transpose(1, 2),
        1.5,
    )


def test_a_large_mean_costs_a_norm_no_digits() -> None:
    x, weight, bias = drawn((2, 30, 40, 64), (64,), (64,))
    x = (x.float() + 128).bfloat16()
    expected = F.group_norm(x.double().permute(0, 3, 1, 2), 8, weight.double(), bias.double(), 1e-5)
    near(operations.group_norm(x, 8, weight, bias, 1e-5), expected.permute(0, 2, 3, 1), 1.5)


@pytest.mark.parametrize("size", [(1, 2), (3, 7, 40), (2, 5, 3, 320)])
def test_layer_norms(size: tuple[int, ...]) -> None:
    x, weight, bias = drawn(size, size[-1:], size[-1:])
    x = (3 * x.float() + 50).bfloat16()
    expected = F.layer_norm(x.double(), size[-1:], weight.double(), bias.double(), 1e-5)
    near(operations.layer_norm(x, weight, bias, 1e-5), expected, 1.5)
    apart = torch.stack([x, x], dim=-2)[..., 0, :]
    assert torch.equal(operations.layer_norm(apart, weight, bias, 1e-5), operations.layer_norm(x, weight, bias, 1e-5))


@pytest.mark.parametrize("size", [(1, 1, 1, 16), (3, 5, 7, 40), (2, 70, 33, 64)])
def test_moments(size: tuple[int, int, int, int]) -> None:
    (x,) = drawn(size)
    x = (x.float() * 2 + 100).bfloat16()
    mean, variance = operations.moments(x)
    pixels = x.double().flatten(1, 2)
    assert (mean - pixels.mean(1)).abs().max() < 1e-4
    assert (variance - pixels.var(1, correction=0)).abs().max() < 1e-4 * pixels.var() + 1e-6


@pytest.mark.parametrize("rows", [1, 3])
def test_scaled_and_activated(rows: int) -> None:
    x, place = drawn((3, 4, 5, 40), (3, 6, 7, 40))
    scale, shift = torch.randn(rows, 40), torch.randn(rows, 40)
    before, target = place.clone(), place[:, 1:-1, 1:-1]
    operations.scaled(x, scale, shift, target)
    near(target, F.silu(x.double() * scale.double()[:, None, None] + shift.double()[:, None, None]))
    before[:, 1:-1, 1:-1] = target
    assert torch.equal(place, before)


def test_silu_far_out() -> None:
    x = torch.tensor([-300.0, -90.0, -20.0, -0.0, 0.0, 20.0, 90.0, 300.0, 3e38, -3e38] + [0.0] * 6).bfloat16()
    target, one = torch.empty_like(x).view(1, 1, 1, 16), torch.ones(1, 16)
    operations.scaled(x.view(1, 1, 1, 16), one, torch.zeros(1, 16), target)
    expected = F.silu(x.double())
    assert ((target.view(16).double() - expected).abs() <= 2**-8 * expected.abs() + 1e-7).all()


def near_values(found: Tensor, expected: Tensor, values: Tensor) -> None:
    """What mixes values is rounded too, by less than half a last place of the largest."""
    assert ((found.double() - expected).abs() <= 2**-9 * (expected.abs() + values.abs().max())).all()


@pytest.mark.parametrize("tokens", [1, 2, 14, 16, 17, 64, 65, 150])
@pytest.mark.parametrize("width", [16, 32, 48, 64])
def test_attention(tokens: int, width: int) -> None:
    rows, heads = 3, 2
    (qkv,) = drawn((rows, tokens, 3 * heads * width), scale=1.5)
    q, k, v = qkv.double().unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    near_values(operations.attend(qkv, heads), expected, v)
    strided = torch.cat([qkv, qkv], dim=1)[:, :tokens]
    assert torch.equal(operations.attend(strided, heads), operations.attend(qkv, heads))


def test_attention_to_scores_beyond_what_an_exponential_holds() -> None:
    (qkv,) = drawn((1, 40, 96), scale=40.0)
    q, k, v = qkv.double().unflatten(-1, (3, 1, -1)).permute(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    near_values(operations.attend(qkv, 1), expected, v)


def test_threads_change_nothing() -> None:
    x, weight, bias, qkv = drawn((3, 14, 50, 64), (96, 64, 3, 3), (96,), (2, 70, 192))
    taps, sums = operations.packed(weight), operations.packed(weight, sums_over_both(SUMS_OF_TAPS))
    told, gain = operations.packed_bias(bias, weight), torch.ones(64).bfloat16()

    def everything() -> list[Tensor]:
        return [
            operations.convolve(x, taps, told, Window(3, 3)),
            operations.convolve_in_sums(x, sums, told, ("paired", "paired")),
            operations.group_norm(x, 8, gain, gain, 1e-5, is_activated=True),
            operations.layer_norm(x, gain, gain, 1e-5),
            *operations.moments(x),
            operations.attend(qkv, 1),
        ]

    before = torch.get_num_threads()
    try:
        made = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made.append(everything())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for each in made[1:] for a, b in zip(made[0], each, strict=True))


def test_on_the_meta_device_there_are_shapes() -> None:
    x, weight = torch.empty(2, 4, 6, 32, device=META), torch.empty(64, 32, 3, 3, device=META)
    x, weight = x.bfloat16(), weight.bfloat16()
    packed, told = operations.packed(weight), operations.packed_bias(None, weight)
    assert operations.convolve(x, packed, told, Window(3, 3)).shape == (2, 4, 6, 64)
    sums = operations.packed(weight, sums_over_both(SUMS_OF_TAPS_DOUBLED))
    assert operations.convolve_in_sums(x, sums, told, ("doubled", "doubled")).shape == (2, 8, 12, 64)
    assert operations.attend(x.flatten(1, 2).repeat(1, 1, 3), 2).shape == (2, 24, 32)
    assert operations.group_norm(x, 8, told[:32], told[:32], 1e-5).shape == x.shape
    assert operations.layer_norm(x, told[:32], told[:32], 1e-5).shape == x.shape
    assert operations.moments(x)[0].shape == (2, 32)
    operations.scaled(x, told[None, :32], told[None, :32], x)


def test_what_they_are_for() -> None:
    x = torch.zeros(64, 32, 3, 3)
    assert operations.takes(x.bfloat16()) and not operations.takes(x) and not operations.takes(x.bfloat16().to(META))
    assert operations.takes_weights(x.bfloat16()) and operations.takes_weights(x.bfloat16(), is_gated=True)
    for odd in (x[:56], x[:, :31], x.repeat(1, 1, 2, 1), torch.zeros(16, 20_000, 1, 1)):
        assert not operations.takes_weights(odd.bfloat16())
    assert not operations.takes_weights(x[:32].bfloat16(), is_gated=True)
    assert [width for width in (8, 16, 40, 64, 80) if operations.attends(width)] == [16, 64]


def test_no_images_are_no_work() -> None:
    x, weight = drawn((0, 4, 4, 32), (64, 32, 3, 3))
    told = operations.packed_bias(None, weight)
    assert operations.convolve(x, operations.packed(weight), told, Window(3, 3)).shape == (0, 4, 4, 64)
    sums = operations.packed(weight, sums_over_both(SUMS_OF_TAPS))
    assert operations.convolve_in_sums(x, sums, told, ("paired", "paired")).shape == (0, 4, 4, 64)
    assert operations.group_norm(x, 8, x.new_ones(32), x.new_ones(32), 1e-5).shape == x.shape
