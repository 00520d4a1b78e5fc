"""The vision tower against transformers' own, to the bit."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
import transformers

from stillmotion.diffusers_api.pretrained import as_image_encoder
from stillmotion.models.image_encoder import ImageEncoder, ImageEncoderConfig

Activation = Literal["gelu", "quick_gelu"]


def pair(activation: Activation) -> tuple[ImageEncoder, transformers.CLIPVisionModelWithProjection]:
    """Ours with no weight at its neutral value, and theirs, built from their own configuration."""
    torch.manual_seed(0)
    ours = ImageEncoder(
        ImageEncoderConfig(
            width=48, mlp_width=80, layers=3, heads=3, patch_size=32, projection_width=24, activation=activation
        )
    )
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    shape = transformers.CLIPVisionConfig(
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=3,
        patch_size=32,
        projection_dim=24,
        hidden_act=activation,
    )
    theirs = transformers.CLIPVisionModelWithProjection(shape)
    theirs.load_state_dict(ours.state_dict())
    return ours.eval().requires_grad_(False), theirs.eval().requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_an_embedding_is_theirs(activation: Activation, dtype: torch.dtype) -> None:
    ours, theirs = (tower.to(dtype) for tower in pair(activation))
    pixels = torch.randn(2, 3, 224, 224, dtype=dtype)
    assert torch.equal(ours(pixels).image_embeds, theirs(pixels).image_embeds)


def test_the_towers_have_the_same_tensors_in_the_same_order() -> None:
    ours, theirs = pair("gelu")
    shapes = [[(name, value.shape) for name, value in tower.state_dict().items()] for tower in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_the_drop_in_face_has_their_class_over_our_tensors(activation: Activation) -> None:
    ours, theirs = pair(activation)
    face = as_image_encoder(ours)
    assert isinstance(face, transformers.CLIPVisionModelWithProjection) and not face.training
    assert face.visual_projection.weight.data_ptr() == ours.visual_projection.weight.data_ptr()
    buffers = dict(face.named_buffers()), dict(theirs.named_buffers())
    assert buffers[0].keys() == buffers[1].keys()
    assert all(torch.equal(value, buffers[1][name]) for name, value in buffers[0].items())
    pixels = torch.randn(1, 3, 224, 224)
    assert torch.equal(face(pixels).image_embeds, theirs(pixels).image_embeds)
