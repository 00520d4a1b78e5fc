"""Device and precision resolved for the machine at hand; offloading never changes a result."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch

from stillmotion import placement
from stillmotion.config import parse
from stillmotion.errors import ConfigError, UsageError
from stillmotion.models import prepared
from stillmotion.models.components import Components
from stillmotion.pipelines.image_to_video import VideoSettings, animate
from stillmotion.placement import Placement, Savings, Stage, layer_by_layer, owners, resolve


def test_auto_is_resolved_to_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_default_device", lambda: "cpu")
    monkeypatch.setattr(placement, "cpu_has_bf16", lambda: True)
    assert resolve(Placement()) == Placement(device="cpu", dtype="bfloat16", offload="none")
    monkeypatch.setattr(placement, "cpu_has_bf16", lambda: False)
    assert resolve(Placement(offload="model")) == Placement(device="cpu", dtype="float32", offload="model")
    assert resolve(Placement(device="cpu", dtype="bfloat16")).dtype == "bfloat16"


def test_resolving_twice_changes_nothing() -> None:
    once = resolve(Placement(device="cpu"))
    assert "auto" not in (once.device, once.dtype) and resolve(once) == once


@pytest.mark.parametrize("device", ["cuda:77", "toaster", ""])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(UsageError, match="expected one it has") as caught:
        resolve(Placement(device=device))
    assert repr(device) in str(caught.value) and "\n" not in str(caught.value)


def test_float16_on_the_cpu_is_refused() -> None:
    with pytest.raises(UsageError, match="float16 on the CPU"):
        resolve(Placement(device="cpu", dtype="float16"))


def test_unknown_settings_are_refused_by_the_config() -> None:
    with pytest.raises(ConfigError, match="offload"):
        parse(Placement, {"offload": "some"})


@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
def test_offloading_does_not_change_a_frame(tiny_components: Components, offload: str) -> None:
    settings = VideoSettings(frames=3, steps=2)
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    plain = animate(Stage(tiny_components, Placement(device="cpu", dtype="float32")), image, settings, [5])
    tried = Stage(tiny_components, parse(Placement, {"device": "cpu", "dtype": "float32", "offload": offload}))
    made = animate(tried, image, settings, [5])
    # Layers that come and go are called one by one, and sum in another order than where a step is prepared.
    torch.testing.assert_close(made, plain, rtol=0, atol=3e-4 if offload == "sequential" else 0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny_components.unet.modules())


def test_what_is_laid_out_stays_for_the_next_video_until_the_placement_changes(tiny_components: Components) -> None:
    settings = VideoSettings(frames=3, steps=2)
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    placed = Placement(device="cpu", dtype="float32")
    stage = Stage(tiny_components, placed)
    made = animate(stage, images, settings, [5, 6])
    kept = stage.kept_for(settings.steps)
    assert kept is not None and len(kept) > 0
    alone = [
        animate(Stage(tiny_components, placed), each[None], settings, [seed])
        for each, seed in zip(images, (5, 6), strict=True)
    ]
    assert torch.equal(made, torch.cat(alone))
    stage.adopt(Placement(device="cpu", dtype="float32", offload="model"))
    assert len(kept) == 0
    assert torch.equal(animate(stage, images, settings, [5, 6]), made)
    assert len(kept) == 0  # nothing of a network stays where the network does not


def test_a_large_network_is_kept_for_steps_that_repay_it(
    tiny_components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "KEPT_BYTES", 0)
    stage = Stage(tiny_components, Placement(device="cpu", dtype="float32"))
    assert stage.kept_for(4) is None and stage.kept_for(5) is not None
    stage.adopt(Placement(device="cpu", dtype="float32", savings=Savings(keeps_order=False)))
    assert stage.kept_for(25) is None


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_on_a_cpu_an_offloaded_network_is_read_when_it_is_needed(tiny_components: Components, offload: str) -> None:
    settings = VideoSettings(frames=3, steps=2)
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    plain = animate(Stage(tiny_components, Placement(device="cpu", dtype="float32")), image, settings, [5])
    kept, read = copy.deepcopy(tiny_components), []

    def fetch(name: str) -> torch.nn.Module:
        read.append(name)
        return copy.deepcopy(kept.networks()[name])

    stage = Stage(tiny_components, parse(Placement, {"device": "cpu", "dtype": "float32", "offload": offload}), fetch)
    assert all(p.is_meta for network in tiny_components.networks().values() for p in network.parameters())
    assert torch.equal(animate(stage, image, settings, [5]), plain)
    assert read == ["image_encoder", "autoencoder", "unet", "autoencoder"]
    assert all(p.is_meta for network in tiny_components.networks().values() for p in network.parameters())
    with pytest.raises(ZeroDivisionError), stage.use(tiny_components.unet):
        assert not tiny_components.unet.conv_in.weight.is_meta
        raise ZeroDivisionError
    assert tiny_components.unet.conv_in.weight.is_meta
    stage.adopt(Placement(device="cpu", dtype="float32"))
    assert torch.equal(animate(stage, image, settings, [5]), plain)


class Beside:
    """Copies that arrive when they are waited for, as those of a stream beside the computation."""

    is_beside = True

    def __init__(self, device: torch.device) -> None:
        self.log: list[str] = []
        self.under_way: list[torch.Tensor] = []

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        self.log.append(f"copy {tuple(tensor.shape)}")
        self.under_way.append(tensor.clone())
        return self.under_way[-1]

    def arrived(self, tensors: Sequence[torch.Tensor]) -> None:
        waited = {tensor.data_ptr() for tensor in tensors}
        assert waited <= {tensor.data_ptr() for tensor in self.under_way}
        self.under_way = [tensor for tensor in self.under_way if tensor.data_ptr() not in waited]
        self.log.append("wait")


def test_the_next_layer_is_on_its_way_while_the_present_one_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    copier = Beside(torch.device("cpu"))
    monkeypatch.setattr(placement, "_copier", lambda device: copier)
    linear = [torch.nn.Linear(2, 2 + i, bias=False) for i in range(2)]
    network = torch.nn.Sequential(linear[0], torch.nn.Linear(2, 2, bias=False), linear[1])
    x = torch.ones(1, 2)
    with torch.no_grad():
        expected = network(x)
        with layer_by_layer(network, torch.device("cpu")):
            assert torch.equal(network(x), expected)
            learned = len(copier.log)
            assert torch.equal(network(x), expected)
            assert torch.equal(network[2](network[0](x)), network[2](network[0](x)))  # another order
    first, second = copier.log[:learned], copier.log[learned:]
    assert first == ["copy (2, 2)", "wait"] * 2 + ["copy (3, 2)", "wait"]
    # The second time each layer is waited for after its copy was begun during the layer before.
    assert second[:6] == ["copy (2, 2)", "wait", "copy (2, 2)", "wait", "copy (3, 2)", "wait"]
    assert [parameter.data_ptr() for parameter in network.parameters()] == [
        layer.weight.data_ptr() for layer in network
    ]


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """For want of a second device, what is away from home is float64."""
    monkeypatch.setattr(placement, "_copy", lambda tensor, device: tensor.double())
    return torch.float64


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_an_offloaded_network_comes_home_even_after_an_error(
    tiny_components: Components, offload: str, away: torch.dtype
) -> None:
    stage = Stage(tiny_components, parse(Placement, {"device": "cpu", "dtype": "float32", "offload": offload}))
    unet = tiny_components.unet
    homes = {name: tensor.data_ptr() for name, tensor in unet.named_parameters()}
    with pytest.raises(ZeroDivisionError), stage.use(unet):
        assert unet.conv_in.weight.dtype == (away if offload == "model" else torch.float32)
        # In another precision than the weights at home, so that it fails unless they are away.
        unet.conv_in(torch.zeros(1, unet.cfg.in_channels, 4, 4, dtype=away))
        assert unet.conv_in.weight.dtype == (away if offload == "model" else torch.float32)
        raise ZeroDivisionError
    # The very tensors of before, not copies of copies.
    assert {name: tensor.data_ptr() for name, tensor in unet.named_parameters()} == homes
    assert not unet.conv_in._forward_hooks and not unet.conv_in._forward_pre_hooks


def test_a_layer_that_fails_comes_home(away: torch.dtype) -> None:
    class Failing(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            assert self.weight.dtype == away
            raise KeyboardInterrupt

    network = torch.nn.Sequential(Failing(2, 2))
    with pytest.raises(KeyboardInterrupt), layer_by_layer(network, torch.device("cpu")):
        network(torch.zeros(1, 2))
    assert network[0].weight.dtype == torch.float32


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_weights_that_were_away_can_be_trained(tiny_components: Components, offload: str, away: torch.dtype) -> None:
    """Moves inside inference mode once left tensors behind that no gradient may touch."""
    stage = Stage(tiny_components, parse(Placement, {"device": "cpu", "dtype": "float32", "offload": offload}))
    unet = tiny_components.unet
    with torch.inference_mode(), stage.use(unet):
        unet.conv_in(torch.zeros(1, unet.cfg.in_channels, 4, 4, dtype=away))
    assert not any(tensor.is_inference() for tensor in unet.parameters())
    unet.requires_grad_(True)


def test_every_tensor_belongs_to_one_owner(tiny_components: Components) -> None:
    network = torch.nn.ModuleDict({"unet": tiny_components.unet, "norm": torch.nn.BatchNorm1d(2, affine=False)})
    held = [tensor for owner in owners(network) for tensor in [*owner.parameters(), *owner.buffers()]]
    assert len(held) == len(list(network.parameters())) + len(list(network.buffers()))
    assert network["norm"] in owners(network)


def test_float16_keeps_an_autoencoder_that_overflows_in_float32(tiny_components: Components) -> None:
    stage = Stage(tiny_components, Placement(device="cpu", dtype="float16"))
    assert tiny_components.unet.conv_in.weight.dtype == torch.float16
    assert tiny_components.image_encoder.visual_projection.weight.dtype == torch.float16
    for autoencoder in (tiny_components.autoencoder, tiny_components.image_decoder):
        assert autoencoder is not None
        assert autoencoder.quant_conv.weight.dtype == stage.dtype_of(autoencoder) == torch.float32
    in_bf16 = Stage(tiny_components, Placement(device="cpu", dtype="bfloat16"))
    assert in_bf16.dtype_of(tiny_components.autoencoder) == torch.bfloat16
    assert tiny_components.autoencoder.quant_conv.weight.dtype == torch.bfloat16


def test_bfloat16_runs_and_is_near_float32(tiny_components: Components) -> None:
    settings = VideoSettings(frames=2, steps=2)
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    exact = animate(Stage(tiny_components, Placement(device="cpu", dtype="float32")), image, settings, [5])
    rounded = animate(Stage(tiny_components, Placement(device="cpu", dtype="bfloat16")), image, settings, [5])
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().mean() < 0.2
