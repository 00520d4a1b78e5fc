"""Arguments have diffusers' names, order and defaults; ours may add some behind them."""

from __future__ import annotations

import inspect
import re

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


NETWORKS = ("UNetSpatioTemporalConditionModel", "AutoencoderKLTemporalDecoder")
KINDS = ("StableVideoDiffusionPipeline", *NETWORKS, "EulerDiscreteScheduler")
# What diffusers takes out of its **kwargs, with the defaults that it gives them there.
OF_THE_HUB = {
    "cache_dir": None,
    "force_download": False,
    "local_files_only": None,
    "token": None,
    "revision": None,
}
OF_WEIGHTS = {
    "torch_dtype": None,
    "dtype": None,
    "low_cpu_mem_usage": True,
    "variant": None,
    "use_safetensors": None,
}


@pytest.mark.parametrize("kind", KINDS)
def test_saving_takes_diffusers_arguments_in_their_order(kind):
    ours = arguments(getattr(diffusers_api, kind).save_pretrained)
    theirs = arguments(getattr(diffusers, kind).save_pretrained)
    assert ours == theirs[: len(ours)]
    assert [name for name, _ in theirs[len(ours) :]] in (["use_flashpack", "kwargs"], ["kwargs"])


@pytest.mark.parametrize("kind", KINDS)
def test_loading_takes_diffusers_arguments(kind):
    expected = dict(OF_THE_HUB)
    if kind != "EulerDiscreteScheduler":
        expected |= OF_WEIGHTS
        source = inspect.getsource(getattr(diffusers, kind).from_pretrained)
        for name, default in expected.items():
            found = re.search(rf'kwargs\.pop\("{name}", (\w+)\)', source)
            assert found, name
            assert found[1] in (repr(default), "_LOW_CPU_MEM_USAGE_DEFAULT")
    if kind != "StableVideoDiffusionPipeline":
        expected["subfolder"] = None
    else:
        expected["device_map"] = None
    found = dict(arguments(getattr(diffusers_api, kind).from_pretrained))
    assert {name: found.get(name, "absent") for name in expected} == expected
    first = next(iter(inspect.signature(getattr(diffusers, kind).from_pretrained).parameters))
    assert next(iter(found)) == first


def test_every_class_is_made_of_a_configuration():
    for kind in KINDS[1:]:
        assert callable(getattr(diffusers_api, kind).from_config)
