"""Arguments have diffusers' names, order and defaults; ours may add some behind them."""

from __future__ import annotations

import inspect

import diffusers
import pytest
from diffusers import utils

from stillmotion import diffusers_api

METHODS = [
    ("StableVideoDiffusionPipeline", "__init__"),
    ("StableVideoDiffusionPipeline", "__call__"),
    ("StableVideoDiffusionPipeline", "decode_latents"),
    ("StableVideoDiffusionPipeline", "enable_model_cpu_offload"),
    ("UNetSpatioTemporalConditionModel", "__init__"),
    ("UNetSpatioTemporalConditionModel", "forward"),
    ("UNetSpatioTemporalConditionModel", "enable_forward_chunking"),
    ("AutoencoderKLTemporalDecoder", "__init__"),
    ("AutoencoderKLTemporalDecoder", "encode"),
    ("AutoencoderKLTemporalDecoder", "decode"),
    ("AutoencoderKLTemporalDecoder", "forward"),
    ("EulerDiscreteScheduler", "__init__"),
    ("EulerDiscreteScheduler", "set_timesteps"),
    ("EulerDiscreteScheduler", "scale_model_input"),
    ("EulerDiscreteScheduler", "step"),
    ("EulerDiscreteScheduler", "add_noise"),
]


def arguments(function) -> list[tuple]:
    """Names and defaults; a list and a tuple of the same are the same default."""
    found = inspect.signature(function).parameters.values()
    return [(each.name, tuple(each.default) if isinstance(each.default, list) else each.default) for each in found]


@pytest.mark.parametrize(("kind", "method"), METHODS)
def test_methods_take_diffusers_arguments(kind, method):
    ours = arguments(getattr(getattr(diffusers_api, kind), method))
    theirs = arguments(getattr(getattr(diffusers, kind), method))
    assert ours[: len(theirs)] == theirs


@pytest.mark.parametrize("name", ["export_to_video", "load_image"])
def test_functions_take_diffusers_arguments(name):
    assert arguments(getattr(diffusers_api, name)) == arguments(getattr(utils, name))


def test_every_class_loads_and_saves():
    for kind in ("UNetSpatioTemporalConditionModel", "AutoencoderKLTemporalDecoder", "EulerDiscreteScheduler"):
        made = getattr(diffusers_api, kind)
        for name in ("from_pretrained", "from_config", "save_pretrained"):
            assert callable(getattr(made, name))
