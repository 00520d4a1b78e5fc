"""The prepared U-Net is the plain one in another order of roundings, and stands aside for anything that is not ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from stillmotion.checkpoints.load import fill
from stillmotion.checkpoints.store import TensorFile, TensorSet, write
from stillmotion.models import prepared as module
from stillmotion.models.kept import Kept
from stillmotion.models.mapped import CAN_GIVE_BACK
from stillmotion.models.prepared import Prepared, is_plain, prepared
from stillmotion.models.unet import UNet, UNetConfig, set_forward_chunking
from stillmotion.nn.transformer import SpatioTemporalTransformer


@pytest.fixture
def unet(tiny_unet_config: UNetConfig, redraw: Callable[..., None]) -> UNet:
    network = UNet(tiny_unet_config)
    redraw(network)
    return network.eval()


def inputs(cfg: UNetConfig, batch: int = 2, frames: int = 3, height: int = 6, width: int = 5) -> tuple:
    draw = torch.Generator().manual_seed(7)
    x = torch.randn(batch, frames, cfg.in_channels, height, width, generator=draw)
    context = torch.randn(batch, 1, cfg.context_width[0], generator=draw)
    return x, torch.full((batch,), 0.4), context, torch.tensor([[6.0, 127.0, 0.02]] * batch)


def compare(unet: UNet, dtype: torch.dtype, **shape: int) -> float:
    """The largest difference to the plain network, in units of its deviation."""
    x, c_noise, context, numbers = inputs(unet.cfg, **shape)
    x, context = x.to(dtype), context.to(dtype)
    unet.to(dtype)
    with torch.inference_mode():
        network = prepared(unet, context, numbers)
        assert isinstance(network, Prepared)
        found, expected = network(x, c_noise), unet(x, c_noise, context, numbers)
    assert found.shape == expected.shape and found.dtype == dtype
    return float((found - expected).abs().max() / expected.std())


@pytest.mark.parametrize("shape", [{}, {"height": 7, "width": 9}, {"height": 1, "width": 1}, {"frames": 1}])
@pytest.mark.parametrize("batch", [1, 2])
def test_it_is_the_plain_network_in_double_precision(unet: UNet, shape: dict[str, int], batch: int) -> None:
    assert compare(unet, torch.float64, batch=batch, **shape) < 1e-12


def test_blocks_in_small_parts_are_the_same(unet: UNet, monkeypatch: pytest.MonkeyPatch) -> None:
    # One frame, or a few pixels, at a time, the last part smaller than the others.
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 32)
    assert compare(unet, torch.float64, frames=5, height=6, width=7) < 1e-12


@pytest.mark.parametrize("size", [{"height": 6, "width": 5}, {"height": 17, "width": 12}])
def test_in_single_precision_it_differs_by_rounding(unet: UNet, size: dict[str, int]) -> None:
    assert compare(unet, torch.float32, frames=4, **size) < 5e-5


@pytest.mark.usefixtures("either_code")
def test_in_half_precision_it_is_as_far_from_the_truth_as_the_plain_network(unet: UNet) -> None:
    x, c_noise, context, numbers = inputs(unet.cfg, height=12, width=10)
    with torch.inference_mode():
        truth = unet.double()(x.double(), c_noise, context.double(), numbers)
        half, told = unet.bfloat16(), context.bfloat16()
        plain = half(x.bfloat16(), c_noise, told, numbers)
        ready = Prepared(half, told, numbers[:1])(x.bfloat16(), c_noise)
    assert (ready - truth).square().mean() < 1.5 * (plain - truth).square().mean()


def test_any_shape_of_network(tiny_unet_config: UNetConfig, redraw: Callable[..., None]) -> None:
    deep = dataclasses.replace(tiny_unet_config, transformer_depth=(2,) * len(tiny_unet_config.channels))
    network = UNet(deep).eval()
    redraw(network)
    assert compare(network, torch.float64) < 1e-12


def test_several_calls_with_other_frames_and_sizes(unet: UNet) -> None:
    unet.double()
    x, c_noise, context, numbers = inputs(unet.cfg)
    with torch.inference_mode():
        network = Prepared(unet, context.double(), numbers[:1])
        for shape in ({"frames": 2}, {"frames": 4, "height": 3}):
            x = inputs(unet.cfg, **shape)[0].double()
            expected = unet(x, c_noise, context.double(), numbers)
            torch.testing.assert_close(network(x, c_noise), expected, rtol=0, atol=1e-12 * float(expected.std()))


def products_made(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every product that is laid out from now on, by networks of which none counts as small."""
    made: list[object] = []

    class Counted(module.Product):
        def __init__(self, *given: Any) -> None:
            made.append(self)
            super().__init__(*given)

    monkeypatch.setattr(module, "Product", Counted)
    monkeypatch.setattr(module, "KEPT_BYTES", 0)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("either_code")
def test_weights_of_a_large_network_stay_in_order_as_asked(
    unet: UNet, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    made = products_made(monkeypatch)
    x, c_noise, context, numbers = inputs(unet.cfg)
    unet, x, context = unet.to(dtype), x.to(dtype), context.to(dtype)
    found, counts = [], []
    with torch.inference_mode():
        for kept in (Kept(), None):
            network = Prepared(unet, context, numbers[:1], kept)
            for _ in range(2):
                made.clear()
                found.append(network(x, c_noise))
                counts.append(len(made))
    assert counts[0] > 0 and counts == [counts[0], 0, counts[0], counts[0]]
    assert torch.equal(found[0], found[1]) and torch.equal(found[2], found[3])


def write_in_place(weight: torch.Tensor) -> None:
    weight.mul_(1.5)


def write_past_torch(weight: torch.Tensor) -> None:
    weight.data.mul_(1.5)


def write_elsewhere(weight: torch.Tensor) -> None:
    weight.data = weight.data * 1.5


@pytest.mark.parametrize("write_to", [None, write_in_place, write_past_torch, write_elsewhere])
def test_the_next_video_finds_what_was_kept_unless_a_weight_has_changed(
    unet: UNet, monkeypatch: pytest.MonkeyPatch, write_to: Callable[[torch.Tensor], None] | None
) -> None:
    made = products_made(monkeypatch)
    (x, c_noise, context, numbers), kept = inputs(unet.cfg), Kept()
    with torch.no_grad():
        first = Prepared(unet, context, numbers[:1], kept)(x, c_noise)
        assert made and len(kept)
        if write_to is not None:
            write_to(cast(SpatioTemporalTransformer, unet.mid_block.attentions[0]).proj_in.weight)
        before = len(made)
        other = context + 1  # another image
        second = Prepared(unet, other, numbers[:1], kept)(x, c_noise)
        anew = Prepared(unet, other, numbers[:1], Kept())(x, c_noise)
    assert (len(made) - before) == (before if write_to is None else 2 * before)
    assert torch.equal(second, anew) and not torch.equal(second, first)


def test_what_was_kept_goes_where_the_video_has_another_size(unet: UNet) -> None:
    kept = Kept()
    with torch.inference_mode():
        for width in (5, 7):
            x, c_noise, context, numbers = inputs(unet.cfg, width=width)
            network = Prepared(unet, context, numbers[:1], kept)
            network(x, c_noise)
            found, each = network(x, c_noise), len(kept)
            alone = Prepared(unet, context, numbers[:1], Kept())
            assert torch.equal(found, alone(x, c_noise))
            one = len(alone._kept)
            assert each == one  # nothing of the other size stays


def test_one_branch_after_both_leaves_what_was_kept(unet: UNet, monkeypatch: pytest.MonkeyPatch) -> None:
    made, kept = products_made(monkeypatch), Kept()
    x, c_noise, context, numbers = inputs(unet.cfg)
    with torch.inference_mode():
        both = Prepared(unet, context, numbers[:1], kept)(x, c_noise)
        one = Prepared(unet, context[:1], numbers[:1], kept)(x[:1], c_noise[:1])
        before = len(made)
        again = Prepared(unet, context, numbers[:1], kept)(x, c_noise)
    assert torch.equal(both, again) and len(made) == before > 0
    torch.testing.assert_close(one, both[:1], rtol=0, atol=1e-4 * float(both.std()))


@pytest.mark.skipif(not CAN_GIVE_BACK, reason="only Linux says which pages are a file's")
@pytest.mark.parametrize("keeps", [True, False])
def test_pages_behind_kept_weights_are_given_back(
    unet: UNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 0)
    given: list[range] = []
    monkeypatch.setattr(module, "give_back", given.extend)
    x, c_noise, context, numbers = inputs(unet.cfg)
    write(tmp_path / "a.safetensors", {name: [value] for name, value in unet.state_dict().items()})
    fill(unet, TensorSet([TensorFile(tmp_path / "a.safetensors")], "a"))
    layer = cast(SpatioTemporalTransformer, unet.mid_block.attentions[0]).proj_in.weight
    with torch.inference_mode():
        network = Prepared(unet, context, numbers[:1], Kept() if keeps else None)
        first, second = network(x, c_noise), network(x, c_noise)
        expected = unet(x, c_noise, context, numbers)
    assert any(layer.data_ptr() in pages for pages in given) == keeps
    assert torch.equal(first, second)
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-4 * float(expected.std()))


def test_several_tokens_other_numbers_and_gradients_are_left_to_the_plain_network(unet: UNet) -> None:
    _, _, context, numbers = inputs(unet.cfg)
    with torch.inference_mode():
        assert prepared(unet, context.repeat(1, 2, 1), numbers) is None
        assert prepared(unet, context, numbers + torch.tensor([[0.0], [1.0]])) is None
    assert prepared(unet, context, numbers) is None


class Adapted(nn.Linear):
    """Stands for a layer that another library put in."""


class Quantised(nn.Parameter):
    """Stands for weights that another library keeps in fewer bits within layers that look like torch's."""


def test_weights_of_another_kind_are_left_alone(unet: UNet) -> None:
    layer = unet.time_embedding.linear_1
    layer.weight = Quantised(layer.weight.detach(), requires_grad=False)
    assert not is_plain(unet)


def test_hooked_adapted_patched_and_compiled_networks_are_left_alone(unet: UNet) -> None:
    assert is_plain(unet)
    handle = unet.conv_in.register_forward_hook(lambda layer, x, y: y)
    assert not is_plain(unet)
    handle.remove()
    assert is_plain(unet)
    attention = next(m for m in unet.modules() if "to_q" in m._modules)
    attention.to_q = Adapted(attention.to_q.in_features, attention.to_q.out_features, bias=False)
    assert not is_plain(unet)


def test_a_parametrised_layer_is_left_alone(unet: UNet) -> None:
    nn.utils.parametrizations.weight_norm(unet.conv_in)
    assert not is_plain(unet)


def test_a_replaced_forward_is_left_alone(unet: UNet) -> None:
    plain = unet.forward
    unet.forward = lambda *told: plain(*told)  # type: ignore[method-assign]
    assert not is_plain(unet)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # of torch, by its own compiler
def test_a_compiled_network_is_left_alone(unet: UNet) -> None:
    assert not is_plain(torch.compile(unet))


def test_images_have_no_prepared_network(tiny_unet_config: UNetConfig) -> None:
    assert not is_plain(UNet(dataclasses.replace(tiny_unet_config, is_temporal=False)))


def test_slices_of_the_feed_forwards_change_nothing_on_the_cpu(unet: UNet) -> None:
    set_forward_chunking(unet, 2)
    assert is_plain(unet)
    assert compare(unet, torch.float64) < 1e-12


def test_in_half_precision_our_own_code_does_the_work(unet: UNet, own_code_asked: set[str]) -> None:
    x, c_noise, context, numbers = inputs(unet.cfg)
    with torch.inference_mode():
        Prepared(unet.bfloat16(), context.bfloat16(), numbers[:1])(x.bfloat16(), c_noise)
    assert own_code_asked == {"pack", "convolve", "convolve_in_sums", "group_norm", "layer_norm", "attend"}
