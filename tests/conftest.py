"""A whole model so small that a test may run it, with no weight at zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from stillmotion.kernels import operations
from stillmotion.kernels.library import absence
from stillmotion.models.autoencoder import Autoencoder, AutoencoderConfig
from stillmotion.models.components import Components
from stillmotion.models.image_encoder import ImageEncoderConfig, build_image_encoder
from stillmotion.models.unet import UNet, UNetConfig

TINY_UNET = UNetConfig(
    channels=(32, 64),
    has_attention=(True, False),
    heads=(2, 4),
    layers=(1, 1),
    transformer_depth=(1, 1),
    context_width=(24, 24),
    number_width=16,
    frames=4,
    sample_size=8,
)
TINY_AUTOENCODER = AutoencoderConfig(channels=(32, 32), layers=1, sample_size=16)
TINY_IMAGE_ENCODER = ImageEncoderConfig(width=32, mlp_width=64, layers=1, heads=2, patch_size=56, projection_width=24)


def _redraw(network: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim >= 2:
            value = draw / parameter[0].numel() ** 0.5
        elif name.endswith("weight"):
            value = 1 + 0.2 * draw  # a norm's gain
        else:
            value = 0.3 * draw
        parameter.data.copy_(value)


@pytest.fixture(params=["compiled", "torch"])
def either_code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test by our own compiled code, and by torch's operations alone: bfloat16 on a CPU goes by either."""
    if request.param == "torch":
        monkeypatch.setattr(operations, "are_here", lambda: False)
    elif absence() is not None:
        pytest.skip(f"the compiled code is not here: {absence()}")
    return request.param


@pytest.fixture
def own_code_asked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The functions of our own compiled code that a test calls, by name, as it goes on."""
    if absence() is not None:
        pytest.skip(f"the compiled code is not here: {absence()}")
    asked, before = set(), operations._call

    def noted(name: str, *given: Any) -> None:
        asked.add(name)
        before(name, *given)

    monkeypatch.setattr(operations, "_call", noted)
    return asked


@pytest.fixture
def redraw() -> Callable[..., None]:
    """Draws every weight of a network anew, none of them zero: fresh networks have blocks that add nothing."""
    return _redraw


@pytest.fixture
def tiny_unet_config() -> UNetConfig:
    """Two levels, one with attention; every kind of block occurs."""
    return TINY_UNET


@pytest.fixture
def tiny_components() -> Components:
    """U-Net, temporal autoencoder, image encoder and image decoder, in float32 and eval mode, with random weights."""
    torch.manual_seed(0)
    components = Components(
        unet=UNet(TINY_UNET),
        autoencoder=Autoencoder(TINY_AUTOENCODER),
        image_encoder=build_image_encoder(TINY_IMAGE_ENCODER),
        image_decoder=Autoencoder(dataclasses.replace(TINY_AUTOENCODER, decoder="image")),
    )
    for seed, network in enumerate(components.networks().values()):
        _redraw(network, seed)
        network.eval().requires_grad_(False)
    return components
