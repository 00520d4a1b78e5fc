"""The U-Net: released sizes, any shape, and memory savings that change nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from stillmotion.errors import UsageError
from stillmotion.models.unet import UNet, UNetConfig, set_forward_chunking
from stillmotion.nn.attention import FeedForward

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def inputs(
    cfg: UNetConfig, batch: int = 2, frames: int = 3, height: int = 6, width: int = 5, tokens: int = 1
) -> Inputs:
    draw = torch.Generator().manual_seed(7)
    x = torch.randn(batch, frames, cfg.in_channels, height, width, generator=draw)
    c_noise = torch.rand(batch, generator=draw)
    context = torch.randn(batch, tokens, cfg.context_width[0], generator=draw)
    numbers = torch.tensor([[6.0, 127.0, 0.02], [11.0, 40.0, 0.1]])[:batch]
    return x, c_noise, context, numbers


@pytest.fixture
def unet(tiny_unet_config: UNetConfig, redraw: Callable[..., None]) -> UNet:
    network = UNet(tiny_unet_config)
    redraw(network)
    return network.eval()


def test_the_released_size_and_number_of_tensors() -> None:
    with torch.device("meta"):
        network = UNet(UNetConfig())
    assert sum(p.numel() for p in network.parameters()) == 1_524_623_082
    assert len(network.state_dict()) == 1_428
    marks = ("temporal_", "time_mixer", "time_pos")
    temporal = sum(p.numel() for name, p in network.named_parameters() if any(mark in name for mark in marks))
    assert temporal == 656_076_838


@pytest.mark.parametrize(("height", "width"), [(6, 5), (7, 9), (1, 1), (1, 4)])
@pytest.mark.parametrize("frames", [1, 3])
def test_any_size_and_any_number_of_frames(unet: UNet, height: int, width: int, frames: int) -> None:
    told = inputs(unet.cfg, frames=frames, height=height, width=width)
    output = unet(*told)
    assert output.shape == (2, frames, 4, height, width) and output.isfinite().all()


def test_each_video_of_a_batch_stands_alone(unet: UNet) -> None:
    x, c_noise, context, numbers = inputs(unet.cfg)
    both = unet(x, c_noise, context, numbers)
    for i in range(2):
        one = unet(x[i : i + 1], c_noise[i : i + 1], context[i : i + 1], numbers[i : i + 1])
        torch.testing.assert_close(both[i : i + 1], one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("place", range(4))
def test_every_input_matters(unet: UNet, place: int) -> None:
    told = list(inputs(unet.cfg))
    before = unet(*told)
    told[place] = told[place] + torch.randn(told[place].shape, generator=torch.Generator().manual_seed(1))
    assert (unet(*told) - before).abs().max() > 1e-3


def test_each_of_the_three_numbers_matters(unet: UNet) -> None:
    x, c_noise, context, numbers = inputs(unet.cfg)
    before = unet(x, c_noise, context, numbers)
    for column in range(3):
        changed = numbers.clone()
        changed[:, column] += 1
        assert (unet(x, c_noise, context, changed) - before).abs().max() > 1e-4


def test_several_context_tokens_run_and_equal_tokens_count_as_one(unet: UNet) -> None:
    x, c_noise, context, numbers = inputs(unet.cfg)
    torch.testing.assert_close(
        unet(x, c_noise, context.expand(-1, 3, -1), numbers), unet(x, c_noise, context, numbers), rtol=1e-4, atol=1e-4
    )


def test_frames_marked_as_images_are_isolated(unet: UNet) -> None:
    x, c_noise, context, numbers = inputs(unet.cfg)
    alone = torch.ones(2, 3, dtype=torch.bool)
    changed = x.clone()
    changed[:, 0] += 1
    isolated = (unet(changed, c_noise, context, numbers, alone) - unet(x, c_noise, context, numbers, alone)).abs()
    assert isolated[:, 1:].max() == 0 and isolated[:, 0].max() > 1e-2
    seen = (unet(changed, c_noise, context, numbers) - unet(x, c_noise, context, numbers)).abs()
    assert seen[:, 1:].max() > 1e-3


@pytest.mark.parametrize("axis", [0, 1])
def test_forward_chunking_changes_nothing_and_is_undone(unet: UNet, axis: int) -> None:
    told = inputs(unet.cfg)
    whole = unet(*told)
    set_forward_chunking(unet, 2, axis)
    feed_forwards = [module for module in unet.modules() if isinstance(module, FeedForward)]
    assert all(module.chunk_size == 2 and module.chunk_axis == axis for module in feed_forwards)
    torch.testing.assert_close(unet(*told), whole, rtol=1e-4, atol=1e-5)
    set_forward_chunking(unet, None)
    assert all(module.chunk_size is None for module in feed_forwards)


@pytest.mark.parametrize(("size", "axis"), [(0, 0), (-1, 1), (1, 2), (1, -1)])
def test_impossible_chunks_are_refused(unet: UNet, size: int, axis: int) -> None:
    with pytest.raises(UsageError, match="expected"):
        set_forward_chunking(unet, size, axis)


def test_gradient_checkpointing_gives_the_same_gradients(unet: UNet) -> None:
    told = inputs(unet.cfg)
    gradients = []
    runs = []
    unet.mid_block.attentions[0].register_forward_pre_hook(lambda *_: runs.append(1))
    for unet.gradient_checkpointing in (False, True):
        unet.zero_grad()
        unet(*told).square().mean().backward()
        gradients.append({name: p.grad for name, p in unet.named_parameters() if p.grad is not None})
    assert len(runs) == 3  # once, then once more to remember
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        unet(*told)
    assert len(runs) == 4


def test_every_weight_but_queries_and_keys_of_one_token_receives_a_gradient(unet: UNet) -> None:
    unet(*inputs(unet.cfg)).square().mean().backward()
    dead = {name for name, p in unet.named_parameters() if p.grad is None or not p.grad.any()}
    assert all("attn2.to_q" in name or "attn2.to_k" in name or "norm2" in name for name in dead), dead
    unet.zero_grad()
    unet(*inputs(unet.cfg, tokens=2)).square().mean().backward()
    assert {name for name, p in unet.named_parameters() if p.grad is None} == set()


def test_the_spatial_u_net_has_nothing_across_frames(tiny_unet_config: UNetConfig, redraw: Callable[..., None]) -> None:
    cfg = dataclasses.replace(tiny_unet_config, is_temporal=False)
    spatial = UNet(cfg)
    redraw(spatial)
    marks = ("temporal", "time_mixer", "time_pos")
    assert not [name for name in spatial.state_dict() if any(mark in name for mark in marks)]
    x, c_noise, context, numbers = inputs(cfg)
    together = spatial(x, c_noise, context, numbers)
    for frame in range(3):
        alone = spatial(x[:, frame : frame + 1], c_noise, context, numbers)
        torch.testing.assert_close(together[:, frame : frame + 1], alone, rtol=1e-4, atol=1e-4)


def test_the_embedding_is_noise_level_plus_numbers(unet: UNet) -> None:
    _, c_noise, _, numbers = inputs(unet.cfg)
    silent = torch.zeros(2, 3)
    of_noise = unet.embed(c_noise, silent, torch.float32) - unet.embed(torch.zeros(2), silent, torch.float32)
    of_numbers = unet.embed(torch.zeros(2), numbers, torch.float32)
    torch.testing.assert_close(unet.embed(c_noise, numbers, torch.float32), of_noise + of_numbers, rtol=1e-4, atol=1e-4)


def test_a_training_starts_from_blocks_that_add_nothing(unet: UNet) -> None:
    unet.zero_last_layers()
    assert not unet(*inputs(unet.cfg)).any()
    zeroed = {name for name, p in unet.named_parameters() if not p.any()}
    assert zeroed and all(".conv2." in n or ".proj_out." in n or n.startswith("conv_out.") for n in zeroed)
    assert {"conv_out.weight", "conv_out.bias", "mid_block.attentions.0.proj_out.weight"} <= zeroed
    assert "mid_block.resnets.1.temporal_res_block.conv2.bias" in zeroed


def test_the_norms_epsilons_are_the_originals_or_those_of_diffusers(tiny_unet_config: UNetConfig) -> None:
    def found(kind: str) -> dict[str, float]:
        network = UNet(dataclasses.replace(tiny_unet_config, norm_eps=kind))  # type: ignore[arg-type]
        norms = {n: m.eps for n, m in network.named_modules() if isinstance(m, torch.nn.GroupNorm)}
        return {name: eps for name, eps in norms.items() if "attentions" not in name}

    assert set(found("original").values()) == {1e-5}
    mixed = found("diffusers")
    for name, eps in mixed.items():
        low = name.startswith(("down_blocks.0", "up_blocks"))
        assert eps == (1e-6 if low else 1e-5), name


@pytest.mark.parametrize(
    "wrong",
    [{"heads": (2,)}, {"layers": (1, 1, 1)}, {"channels": (32, 48)}, {"heads": (3, 4)}, {"context_width": ()}],
)
def test_a_shape_that_does_not_fit_is_refused(tiny_unet_config: UNetConfig, wrong: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(UsageError, match="expected"):
        dataclasses.replace(tiny_unet_config, **wrong)


@pytest.mark.parametrize("value", [0, -1, 2.5])
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(UNetConfig) if "int" in field.type])
def test_sizes_below_one_are_refused(tiny_unet_config: UNetConfig, name: str, value: float) -> None:
    size = getattr(tiny_unet_config, name)
    wrong = (value,) * len(size) if isinstance(size, tuple) else value
    with pytest.raises(UsageError, match=f"{name} is .*at least 1"):
        dataclasses.replace(tiny_unet_config, **{name: wrong})


def test_a_network_without_a_level_is_refused() -> None:
    with pytest.raises(UsageError, match="channels is"):
        UNetConfig(channels=(), has_attention=(), heads=(), layers=(), transformer_depth=(), context_width=())
