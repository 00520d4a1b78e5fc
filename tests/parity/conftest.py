"""How two implementations are compared: the same random weights in both, and a bound that rounding alone explains."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import diffusers
import pytest
import torch
import transformers
from torch import Tensor, nn

from stillmotion.checkpoints.diffusers import SCHEDULER
from stillmotion.diffusers_api import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def share_weights() -> Callable[[nn.Module, nn.Module, int], None]:
    """Draw every parameter of the first network anew, and give the second the same: no layer is trivial.

    Weights keep the variance of what passes through them; norms, biases and mix factors are drawn too.
    """

    def share(ours: nn.Module, theirs: nn.Module, seed: int) -> None:
        draws = torch.Generator().manual_seed(seed)
        for parameter in ours.parameters():
            noise = torch.randn(parameter.shape, generator=draws)
            fan_in = math.prod(parameter.shape[1:])
            parameter.data = noise / fan_in**0.5 if parameter.ndim > 1 else 0.3 * noise
        for module in ours.modules():
            if isinstance(module, nn.GroupNorm | nn.LayerNorm):
                module.weight.data += 1
        theirs.load_state_dict(ours.state_dict(), strict=True)
        ours.eval()
        theirs.eval()

    return share


@pytest.fixture
def in_double() -> Callable[[nn.Module], nn.Module]:
    """A copy of a network in float64: what its float32 run should have given."""
    return lambda network: copy.deepcopy(network).double()


@pytest.fixture
def check_close() -> Callable[[str, Tensor, Tensor, Tensor, float], None]:
    """Fail unless ours is as near to theirs as rounding allows.

    The bound is `share` of the standard deviation, or three times the distance of their float32 from their float64,
    whichever is larger. The figure is printed.
    """

    def check(name: str, ours: Tensor, theirs: Tensor, exact: Tensor, share: float) -> None:
        assert ours.shape == theirs.shape
        assert torch.isfinite(theirs).all()
        deviation = exact.std().item() if exact.numel() > 1 else 1.0
        assert deviation > 1e-3, "a constant output compares nothing"
        difference = (ours.double() - theirs.double()).abs().max().item()
        rounding = (theirs.double() - exact).abs().max().item()
        print(
            f"PARITY {name}: {difference / deviation:.2e} of std {deviation:.3g}, rounding {rounding / deviation:.2e}"
        )
        assert difference <= max(share * deviation, 3 * rounding)

    return check


def _pipeline_shapes(variant: int) -> tuple[dict, dict]:
    """A small U-Net and autoencoder; the variants differ in depth, latent channels and downsampling (8, 4, 8)."""
    latent_channels, levels = (4, 4, 2)[variant], (4, 3, 4)[variant]
    unet = {
        "sample_size": 8,
        "in_channels": 2 * latent_channels,
        "out_channels": latent_channels,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 96,
        "layers_per_block": (1, 2, 1)[variant],
        "cross_attention_dim": 32,
        "num_attention_heads": (2, 4),
        "num_frames": 3,
    }
    vae = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "block_out_channels": (32,) * levels,
        "latent_channels": latent_channels,
        "layers_per_block": (1, 1, 2)[variant],
    }
    return unet, vae


@pytest.fixture(scope="session")
def pipelines(share_weights):
    """Ours and diffusers' pipeline of one variant, 0 to 2, with the same weights and a released-like scheduler."""
    made: dict[int, tuple] = {}

    def pair(variant: int) -> tuple:
        if variant not in made:
            made[variant] = _pipeline_pair(variant, share_weights)
        return made[variant]

    return pair


def _pipeline_pair(variant: int, share_weights) -> tuple:
    unet, vae = _pipeline_shapes(variant)
    ours = [UNetSpatioTemporalConditionModel(**unet, norm_eps="diffusers"), AutoencoderKLTemporalDecoder(**vae)]
    theirs = [diffusers.UNetSpatioTemporalConditionModel(**unet), diffusers.AutoencoderKLTemporalDecoder(**vae)]
    for mine, other in zip(ours, theirs, strict=True):
        share_weights(mine, other, variant)
    torch.manual_seed(variant)
    tower = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            patch_size=32,
            projection_dim=32,
        )
    ).eval()
    extractor = transformers.CLIPImageProcessor()
    scheduler = EulerDiscreteScheduler.from_config(SCHEDULER)
    mine = StableVideoDiffusionPipeline(ours[1], tower, ours[0], scheduler, extractor)
    other = diffusers.StableVideoDiffusionPipeline(
        theirs[1], tower, theirs[0], diffusers.EulerDiscreteScheduler.from_config(dict(scheduler.config)), extractor
    )
    for pipe in (mine, other):
        pipe.set_progress_bar_config(disable=True)
    return mine, other
