"""Our U-Net behind diffusers' face gives what diffusers' U-Net gives, on random shapes and weights."""

from __future__ import annotations

import random
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

from stillmotion.diffusers_api import UNetSpatioTemporalConditionModel

SHARE = 1e-5  # of the output's standard deviation
CONFIGURATIONS = 40
QUICK = 3
DOWN = {True: "CrossAttnDownBlockSpatioTemporal", False: "DownBlockSpatioTemporal"}
UP = {True: "CrossAttnUpBlockSpatioTemporal", False: "UpBlockSpatioTemporal"}


def drawn_config(draw: random.Random) -> dict[str, Any]:
    """A small U-Net of any shape that diffusers can build; each setting that may be a tuple is sometimes one."""
    levels = draw.randint(2, 3)
    attention = [draw.random() < 0.6 for _ in range(levels)]
    width = draw.choice([8, 32, 34])

    def per_level(choices: list[int]) -> int | tuple[int, ...]:
        return draw.choice(choices) if draw.random() < 0.5 else tuple(draw.choice(choices) for _ in range(levels))

    return {
        "sample_size": draw.choice([None, 8, 16]),
        "in_channels": draw.choice([8, 4, 6]),
        "out_channels": draw.choice([4, 2, 3]),
        "down_block_types": tuple(DOWN[has] for has in attention),
        "up_block_types": tuple(UP[has] for has in reversed(attention)),
        "block_out_channels": tuple(draw.choice([32, 64, 96]) for _ in range(levels)),
        "addition_time_embed_dim": width,
        "projection_class_embeddings_input_dim": 3 * width,
        "layers_per_block": per_level([1, 2]),
        "cross_attention_dim": draw.choice([16, 32, (32,) * levels]),
        "transformer_layers_per_block": per_level([1, 1, 2]),
        "num_attention_heads": per_level([1, 2, 4, 8]),
        "num_frames": draw.choice([14, 25]),
    }


def inputs_for(config: dict[str, Any], draw: random.Random, noise: torch.Generator) -> dict[str, torch.Tensor]:
    videos, frames = draw.randint(1, 3), draw.choice([1, 2, 3, 5])
    height, width = draw.choice([(8, 8), (4, 12), (9, 7), (5, 6), (7, 6), (10, 16)])
    context = config["cross_attention_dim"]
    tokens = draw.choice([1, 1, 3])
    return {
        "sample": torch.randn(videos, frames, config["in_channels"], height, width, generator=noise),
        "timestep": torch.rand((), generator=noise) * 3.2 - 1.6,
        "encoder_hidden_states": torch.randn(
            videos, tokens, context if isinstance(context, int) else context[0], generator=noise
        ),
        "added_time_ids": torch.rand(videos, 3, generator=noise) * torch.tensor([30.0, 255.0, 1.0]),
    }


def set_original_eps(network: nn.Module) -> None:
    """diffusers mixes 1e-6 into its resnets; the code that trained the released weights has 1e-5 in all of them."""
    for name, module in network.named_modules():
        if isinstance(module, nn.GroupNorm) and "res_block" in name:
            module.eps = 1e-5


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] if seed >= QUICK else []) for seed in range(CONFIGURATIONS)]
)
def test_unet_equals_diffusers(seed, share_weights, in_double, check_close):
    draw, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    config = drawn_config(draw)
    norm_eps = draw.choice(["original", "diffusers"])
    ours = UNetSpatioTemporalConditionModel(**config, norm_eps=norm_eps)
    theirs = diffusers.UNetSpatioTemporalConditionModel(**config)
    if norm_eps == "original":
        set_original_eps(theirs)
    share_weights(ours, theirs, seed)
    inputs = inputs_for(config, draw, noise)
    if seed % 4 == 1:
        inputs["timestep"] = inputs["timestep"].expand(len(inputs["sample"]))
    with torch.no_grad():
        found = ours(**inputs).sample
        expected = theirs(**inputs).sample
        exact = in_double(theirs)(**{name: value.double() for name, value in inputs.items()}).sample
    check_close(f"unet {seed}", found, expected, exact, SHARE)


def tiny_pair(share_weights):
    config = {
        "block_out_channels": (32, 64),
        "down_block_types": (DOWN[True], DOWN[False]),
        "up_block_types": (UP[False], UP[True]),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24,
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "num_attention_heads": 2,
    }
    ours = UNetSpatioTemporalConditionModel(**config, norm_eps="diffusers")
    theirs = diffusers.UNetSpatioTemporalConditionModel(**config)
    share_weights(ours, theirs, 0)
    return ours, theirs, inputs_for(config | {"in_channels": 8}, random.Random(1), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dim", [0, 1])
def test_forward_chunking_changes_nothing(dim, share_weights):
    ours, _, inputs = tiny_pair(share_weights)
    with torch.no_grad():
        whole = ours(**inputs).sample
        ours.enable_forward_chunking(chunk_size=3, dim=dim)  # divides neither rows nor tokens
        chunked = ours(**inputs).sample
        ours.enable_forward_chunking()
        single = ours(**inputs).sample
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(single, whole, rtol=0, atol=1e-5)


def test_integer_and_float_timesteps(share_weights):
    ours, theirs, inputs = tiny_pair(share_weights)
    with torch.no_grad():
        for timestep in (3, 1.25):
            inputs["timestep"] = timestep
            found, expected = ours(**inputs).sample, theirs(**inputs, return_dict=False)[0]
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_gradients_equal_diffusers(share_weights):
    """Also with activations computed anew in the backward pass."""
    ours, theirs, inputs = tiny_pair(share_weights)
    ours.enable_gradient_checkpointing()
    ours(**inputs).sample.square().mean().backward()
    theirs(**inputs).sample.square().mean().backward()
    expected = dict(theirs.named_parameters())
    compared = 0
    for name, parameter in ours.named_parameters():
        reference = expected[name].grad
        if parameter.grad is None:  # queries and keys of the cross-attention to one token do not matter
            assert reference is None or reference.abs().max() < 1e-6, name
            continue
        torch.testing.assert_close(
            parameter.grad, reference, rtol=1e-3, atol=1e-6 + 1e-4 * reference.abs().max().item()
        )
        compared += 1
    assert compared > 100
