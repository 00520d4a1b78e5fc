"""The original's YAML and JSON: the released values, and an allow-list that nothing passes by."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stillmotion.checkpoints.sgm_config import read_config
from stillmotion.errors import ConfigError
from stillmotion.presets import SVD, SVD_XT

MODULES = "sgm.modules.encoders.modules."
AUTOENCODER = {
    "attn_type": "vanilla",
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def number(key: str) -> dict[str, Any]:
    return {"input_key": key, "target": f"{MODULES}ConcatTimestepEmbedderND", "params": {"outdim": 256}}


def released(min_scale: float, max_scale: float) -> dict[str, Any]:
    clip = {"target": f"{MODULES}FrozenOpenCLIPImageEmbedder", "params": {"freeze": True}}
    kl = {
        "target": "sgm.models.autoencoder.AutoencoderKLModeOnly",
        "params": {"embed_dim": 4, "monitor": "val/rec_loss", "ddconfig": AUTOENCODER, "lossconfig": {}},
    }
    unet = {
        "adm_in_channels": 768,
        "num_classes": "sequential",
        "use_checkpoint": True,
        "in_channels": 8,
        "out_channels": 4,
        "model_channels": 320,
        "attention_resolutions": [4, 2, 1],
        "num_res_blocks": 2,
        "channel_mult": [1, 2, 4, 4],
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
        "transformer_depth": 1,
        "context_dim": 1024,
        "spatial_transformer_attn_type": "softmax-xformers",
        "extra_ff_mix_layer": True,
        "use_spatial_context": True,
        "merge_strategy": "learned_with_images",
        "video_kernel_size": [3, 1, 1],
    }
    embedders = [
        {
            "input_key": "cond_frames_without_noise",
            "target": f"{MODULES}FrozenOpenCLIPImagePredictionEmbedder",
            "params": {"n_cond_frames": 1, "n_copies": 1, "open_clip_embedding_config": clip},
        },
        number("fps_id"),
        number("motion_bucket_id"),
        {
            "input_key": "cond_frames",
            "target": f"{MODULES}VideoPredictionEmbedderWithEncoder",
            "params": {"n_cond_frames": 1, "n_copies": 1, "is_ae": True, "encoder_config": kl},
        },
        number("cond_aug"),
    ]
    guider = {
        "target": "sgm.modules.diffusionmodules.guiders.LinearPredictionGuider",
        "params": {"max_scale": max_scale, "min_scale": min_scale},
    }
    sampler = {
        "target": "sgm.modules.diffusionmodules.sampling.EulerEDMSampler",
        "params": {"guider_config": guider},
    }
    params = {
        "scale_factor": 0.18215,
        "disable_first_stage_autocast": True,
        "network_config": {"target": "sgm.modules.diffusionmodules.video_model.VideoUNet", "params": unet},
        "conditioner_config": {"target": "sgm.modules.GeneralConditioner", "params": {"emb_models": embedders}},
        "sampler_config": sampler,
    }
    return {"model": {"target": "sgm.models.diffusion.DiffusionEngine", "params": params}}


def written(tmp_path: Path, tree: dict[str, Any]) -> Path:
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize("preset", [SVD, SVD_XT], ids=lambda preset: preset.name)
def test_the_released_configuration_is_the_preset(tmp_path: Path, preset: Any) -> None:
    found = read_config(written(tmp_path, released(*preset.defaults.guidance)))
    assert (found.unet, found.autoencoder, found.image_encoder) == (
        preset.unet,
        preset.autoencoder,
        preset.image_encoder,
    )
    assert found.defaults == preset.defaults
    assert found.name == "model"


def test_the_number_of_frames_may_be_given_and_must_be_told(tmp_path: Path) -> None:
    tree = released(1.0, 4.0)
    path = written(tmp_path, tree)
    with pytest.raises(ConfigError, match="number of frames"):
        read_config(path)
    tree["model"]["params"]["sampler_config"]["params"]["guider_config"]["params"]["num_frames"] = 21
    found = read_config(written(tmp_path, tree))
    assert (found.unet.frames, found.defaults.frames, found.defaults.guidance) == (21, 21, (1.0, 4.0))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("network_config", "target"), "os.system"),
        (("network_config", "params", "resblock_updown"), True),
        (("network_config", "params", "merge_strategy"), "fixed"),
        (("conditioner_config", "params", "emb_models"), []),
        (("conditioner_config", "params", "emb_models", 3, "target"), "sgm.modules.encoders.modules.Other"),
        (("sampler_config", "params", "guider_config", "target"), "builtins.eval"),
        (("surprise",), 1),
    ],
)
def test_what_is_not_on_the_list_is_refused(tmp_path: Path, path: tuple[Any, ...], value: Any) -> None:
    tree = copy.deepcopy(released(1.0, 2.5))
    section = tree["model"]["params"]
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    with pytest.raises(ConfigError, match=str(path[-1])):
        read_config(written(tmp_path, tree))


def test_widths_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    tree = released(1.0, 2.5)
    tree["model"]["params"]["network_config"]["params"]["num_head_channels"] = 60
    with pytest.raises(ConfigError, match="heads of 60"):
        read_config(written(tmp_path, tree))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("unet", "num_head_channels", 0),
        ("unet", "model_channels", -32),
        ("unet", "channel_mult", []),
        ("unet", "channel_mult", 2),
        ("unet", "channel_mult", [1, 0]),
        ("unet", "num_res_blocks", 0),
        ("unet", "num_res_blocks", [1]),
        ("unet", "transformer_depth", -1),
        ("unet", "in_channels", 0),
        ("unet", "adm_in_channels", 0),
        ("autoencoder", "ch", 0),
        ("autoencoder", "ch", 20),
        ("autoencoder", "num_res_blocks", -1),
        ("autoencoder", "z_channels", 0),
        ("vision", "heads", 0),
        ("vision", "heads", 7),
        ("vision", "mlp_ratio", 0.0),
        ("vision", "mlp_ratio", float("nan")),
        ("vision", "mlp_ratio", 1e-6),
        ("vision", "patch_size", 0),
        (None, "embed_width", 0),
        (None, "frames", 0),
        (None, "unet", 3),
    ],
)
def test_a_bad_value_gives_one_sentence(data: Path, tmp_path: Path, section: str | None, key: str, value: Any) -> None:
    tree = json.loads((data / "golden" / "svd_small.json").read_text())
    (tree[section] if section else tree)[key] = value
    with pytest.raises(ConfigError) as caught:
        read_config(written(tmp_path, tree))
    assert "model" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("place", "key"), [("network_config", "num_head_channels"), ("emb_models", "outdim")])
def test_a_zero_in_the_released_configuration_is_refused(tmp_path: Path, place: str, key: str) -> None:
    tree = released(1.0, 2.5)
    section = tree["model"]["params"]
    network = section["network_config"] if place == "network_config" else None
    network = network or section["conditioner_config"]["params"]["emb_models"][4]
    network["params"][key] = 0
    with pytest.raises(ConfigError, match=f"{key} is 0; expected at least 1"):
        read_config(written(tmp_path, tree))


def test_the_settings_of_the_golden_model(data: Path, tmp_path: Path) -> None:
    source = data / "golden" / "svd_small.json"
    found = read_config(source)
    assert found.unet.heads == (2, 2, 4, 4)
    assert found.unet.has_attention == (True, True, True, False)
    assert (found.unet.numbers, found.unet.number_width, found.unet.frames) == (3, 32, 5)
    assert (found.defaults.fps, found.defaults.guidance, found.defaults.steps) == (7.0, (1.0, 2.5), 5)
    assert found.defaults.trained_sizes == ((128, 64),)
    assert found.autoencoder.scaling_factor == 0.18215
    tree = json.loads(source.read_text())
    (tmp_path / "scaled.json").write_text(json.dumps(tree | {"scale_factor": 0.3}))
    assert read_config(tmp_path / "scaled.json").autoencoder.scaling_factor == 0.3
    tree["unet"]["surprise"] = 1
    (tmp_path / "x.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match="surprise"):
        read_config(tmp_path / "x.json")
