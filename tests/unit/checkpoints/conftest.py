"""Small models and their files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stillmotion.checkpoints.load import Loaded, load
from stillmotion.models.autoencoder import Autoencoder, AutoencoderConfig
from stillmotion.models.components import Components
from stillmotion.models.image_encoder import ImageEncoderConfig, build_image_encoder
from stillmotion.models.unet import UNet, UNetConfig
from stillmotion.presets import SVD, Preset


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of test data."""
    return Path(__file__).parents[2] / "data"


@pytest.fixture(scope="session")
def golden(data: Path) -> Loaded:
    """The original's small model with its frame-wise decoder, in float32."""
    folder = data / "golden"
    return load(
        folder / "svd_small.safetensors",
        config=folder / "svd_small.json",
        dtype=torch.float32,
        with_image_decoder=True,
    )


@pytest.fixture(scope="session")
def small_preset() -> Preset:
    """A model of a few hundred thousand weights."""
    return replace(
        SVD,
        name="small",
        hub_id=None,
        file_names=(),
        unet=UNetConfig(
            channels=(32, 64),
            has_attention=(True, False),
            heads=(2, 4),
            layers=(1, 2),
            transformer_depth=(1, 1),
            context_width=(16, 16),
            number_width=32,
        ),
        autoencoder=AutoencoderConfig(channels=(32, 64), layers=2),
        image_encoder=ImageEncoderConfig(width=32, mlp_width=64, layers=2, heads=2, patch_size=56, projection_width=16),
    )


@pytest.fixture
def small(small_preset: Preset) -> Components:
    """Random weights of `small_preset`."""
    torch.manual_seed(0)
    return Components(
        UNet(small_preset.unet),
        Autoencoder(small_preset.autoencoder),
        build_image_encoder(small_preset.image_encoder),
    )
