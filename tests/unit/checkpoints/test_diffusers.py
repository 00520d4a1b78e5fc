"""The diffusers folder: exact documents, shards and variants, and both packages reading each other's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableVideoDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn

from stillmotion.checkpoints import diffusers
from stillmotion.checkpoints.load import Loaded, load, save
from stillmotion.errors import CheckpointError, ConfigError, UsageError
from stillmotion.models.autoencoder import AutoencoderConfig
from stillmotion.models.components import Components
from stillmotion.models.image_encoder import ImageEncoderConfig
from stillmotion.models.unet import UNet, UNetConfig
from stillmotion.presets import SVD, SVD_XT, TINY, Preset

WHERE = Path("here")


@pytest.fixture
def folder(tmp_path: Path, small: Components, small_preset: Preset) -> Path:
    save(small, small_preset, tmp_path / "small", "diffusers")
    return tmp_path / "small"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def assert_same(found: nn.Module, wanted: nn.Module) -> None:
    left, right = found.state_dict(), wanted.state_dict()
    assert set(left) == set(right)
    assert [name for name in right if not torch.equal(left[name], right[name])] == []


def test_the_released_unet_document() -> None:
    assert diffusers.unet_document(SVD_XT.unet) == {
        "_class_name": "UNetSpatioTemporalConditionModel",
        "_diffusers_version": "0.24.0.dev0",
        "addition_time_embed_dim": 256,
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 1024,
        "down_block_types": ["CrossAttnDownBlockSpatioTemporal"] * 3 + ["DownBlockSpatioTemporal"],
        "in_channels": 8,
        "layers_per_block": 2,
        "num_attention_heads": [5, 10, 20, 20],
        "num_frames": 25,
        "out_channels": 4,
        "projection_class_embeddings_input_dim": 768,
        "sample_size": 96,
        "transformer_layers_per_block": 1,
        "up_block_types": ["UpBlockSpatioTemporal"] + ["CrossAttnUpBlockSpatioTemporal"] * 3,
    }


def test_the_released_autoencoder_document() -> None:
    assert diffusers.autoencoder_document(SVD.autoencoder) == {
        "_class_name": "AutoencoderKLTemporalDecoder",
        "_diffusers_version": "0.24.0.dev0",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "out_channels": 3,
        "sample_size": 768,
        "scaling_factor": 0.18215,
    }


UNEVEN = UNetConfig(
    channels=(32, 64, 64),
    has_attention=(False, True, False),
    heads=(1, 2, 4),
    layers=(1, 3, 2),
    transformer_depth=(1, 2, 1),
    context_width=(16, 16, 32),
    number_width=32,
    numbers=4,
)


@pytest.mark.parametrize("cfg", [SVD.unet, SVD_XT.unet, TINY.unet, UNEVEN])
def test_a_unet_is_read_back_from_its_document(cfg: UNetConfig) -> None:
    assert diffusers.unet_config(diffusers.unet_document(cfg), WHERE) == cfg
    other = replace(cfg, norm_eps="diffusers")
    assert diffusers.unet_config(diffusers.unet_document(other), WHERE) == other
    assert "norm_eps" not in diffusers.unet_document(cfg)  # diffusers' own document has no such entry


@pytest.mark.parametrize("cfg", [SVD.autoencoder, TINY.autoencoder, AutoencoderConfig(decoder="image", layers=1)])
def test_an_autoencoder_is_read_back_from_its_document(cfg: AutoencoderConfig) -> None:
    assert diffusers.autoencoder_config(diffusers.autoencoder_document(cfg), WHERE) == cfg


@pytest.mark.parametrize("cfg", [SVD.image_encoder, ImageEncoderConfig(layers=2, activation="quick_gelu")])
def test_an_image_encoder_is_read_back_from_its_document(cfg: ImageEncoderConfig) -> None:
    assert diffusers.image_encoder_config(diffusers.image_encoder_document(cfg, torch.float16), WHERE) == cfg


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "is a StableDiffusionPipeline"),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "is a UNet2DConditionModel"),
        ("unet/config.json", {"down_block_types": ["Other", "DownBlockSpatioTemporal"]}, "blocks of type Other"),
        ("unet/config.json", {"up_block_types": ["CrossAttnUpBlockSpatioTemporal"] * 2}, "other levels"),
        ("unet/config.json", {"block_out_channels": None}, "says nothing of block_out_channels"),
        ("unet/config.json", {"addition_time_embed_dim": 33}, "expected a divisor"),
        ("vae/config.json", {"_class_name": "VQModel"}, "is a VQModel"),
        ("vae/config.json", {"down_block_types": ["AttnDownBlock2D"]}, "AttnDownBlock2D"),
        ("vae/config.json", {"norm_num_groups": 16}, "in 16 groups"),
        ("image_encoder/config.json", {"architectures": ["CLIPTextModel"]}, "is a CLIPTextModel"),
    ],
)
def test_an_unknown_class_or_block_is_refused(folder: Path, file: str, changes: dict[str, Any], said: str) -> None:
    edit(folder / file, **changes)
    with pytest.raises(CheckpointError, match=said):
        load(folder)


def test_values_of_another_kind_are_refused(folder: Path) -> None:
    edit(folder / "unet" / "config.json", in_channels="many")
    with pytest.raises(ConfigError, match="in_channels"):
        load(folder)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("unet", {"num_attention_heads": [0, 0]}),
        ("unet", {"num_attention_heads": "many"}),
        ("unet", {"num_attention_heads": [2]}),
        ("unet", {"addition_time_embed_dim": 0}),
        ("unet", {"addition_time_embed_dim": "a"}),
        ("unet", {"projection_class_embeddings_input_dim": -32}),
        ("unet", {"block_out_channels": 5}),
        ("unet", {"block_out_channels": []}),
        ("unet", {"block_out_channels": [-32, -64]}),
        ("unet", {"block_out_channels": {"a": 1}}),
        ("unet", {"down_block_types": 3}),
        ("unet", {"up_block_types": [["CrossAttnUpBlockSpatioTemporal"]]}),
        ("unet", {"in_channels": 0}),
        ("unet", {"out_channels": None}),
        ("unet", {"layers_per_block": 0}),
        ("unet", {"layers_per_block": [-1, 1]}),
        ("unet", {"transformer_layers_per_block": -1}),
        ("unet", {"transformer_layers_per_block": [[1], [1]]}),
        ("unet", {"cross_attention_dim": 0}),
        ("unet", {"num_frames": 0}),
        ("unet", {"sample_size": [8, 8]}),
        ("vae", {"block_out_channels": 5}),
        ("vae", {"block_out_channels": [0, 32]}),
        ("vae", {"down_block_types": 3}),
        ("vae", {"layers_per_block": 0}),
        ("vae", {"layers_per_block": [1, 1]}),
        ("vae", {"latent_channels": -4}),
        ("vae", {"in_channels": 0}),
        ("vae", {"sample_size": "large"}),
        ("vae", {"scaling_factor": 0.0}),
        ("vae", {"scaling_factor": float("nan")}),
        ("vae", {"norm_num_groups": []}),
        ("image_encoder", {"architectures": 5}),
        ("image_encoder", {"hidden_size": 0}),
        ("image_encoder", {"num_attention_heads": 0}),
        ("image_encoder", {"num_attention_heads": 3}),
        ("image_encoder", {"num_hidden_layers": -1}),
        ("image_encoder", {"patch_size": 0}),
        ("image_encoder", {"patch_size": 1000}),
        ("image_encoder", {"image_size": [224, 224]}),
        ("image_encoder", {"projection_dim": 0}),
        ("image_encoder", {"hidden_act": "relu"}),
    ],
)
def test_a_bad_value_gives_one_sentence(part: str, changes: dict[str, Any]) -> None:
    documents = {
        "unet": (diffusers.unet_config, diffusers.unet_document(UNEVEN)),
        "vae": (diffusers.autoencoder_config, diffusers.autoencoder_document(TINY.autoencoder)),
        "image_encoder": (
            diffusers.image_encoder_config,
            diffusers.image_encoder_document(TINY.image_encoder, torch.float16),
        ),
    }
    read, document = documents[part]
    with pytest.raises((CheckpointError, UsageError)) as caught:
        read(document | changes, WHERE)
    assert str(caught.value).startswith(("here ", "here: ")) and "\n" not in str(caught.value)


def test_diffusers_loads_what_we_write_and_we_what_it_writes(
    tmp_path: Path, small: Components, small_preset: Preset
) -> None:
    save(small, small_preset, tmp_path / "ours", "diffusers")
    pipeline = StableVideoDiffusionPipeline.from_pretrained(tmp_path / "ours")
    theirs = {"unet": pipeline.unet, "autoencoder": pipeline.vae, "image_encoder": pipeline.image_encoder}
    for name, network in small.networks().items():
        assert_same(theirs[name], network)
    assert pipeline.scheduler.config.sigma_max == 700.0
    pipeline.save_pretrained(tmp_path / "theirs", variant="fp16", max_shard_size="500KB")
    assert len(list((tmp_path / "theirs" / "unet").glob("*.safetensors"))) > 1
    loaded = load(tmp_path / "theirs", variant="fp16")
    for name, network in small.networks().items():
        assert_same(loaded.components.networks()[name], network)
    assert loaded.preset.unet == small_preset.unet
    assert loaded.preset.defaults == SVD.defaults


def test_diffusers_reads_our_image_decoder_folder(tmp_path: Path, golden: Loaded) -> None:
    save(golden.components, golden.preset, tmp_path / "x", "diffusers", dtype=torch.float16)
    assert "image_decoder" not in json.loads((tmp_path / "x" / "model_index.json").read_text())
    StableVideoDiffusionPipeline.from_pretrained(tmp_path / "x")
    decoder = AutoencoderKL.from_config(AutoencoderKL.load_config(tmp_path / "x" / "image_decoder"))
    found = load_file(tmp_path / "x" / "image_decoder" / "diffusion_pytorch_model.safetensors")
    wanted = {name: value.shape for name, value in decoder.state_dict().items() if name.startswith(("dec", "post"))}
    assert {name: value.shape for name, value in found.items()} == wanted


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_and_variants_round_trip(
    tmp_path: Path, small: Components, small_preset: Preset, variant: str | None
) -> None:
    save(small, small_preset, tmp_path / "x", "diffusers", variant=variant, max_shard_bytes=300_000)
    files = list((tmp_path / "x" / "unet").glob("*.safetensors"))
    largest = max(value.nbytes for value in small.unet.state_dict().values())
    assert len(files) > 2
    assert max(path.stat().st_size for path in files) < max(300_000, largest) + 100_000
    loaded = load(tmp_path / "x", variant=variant)
    for name, network in small.networks().items():
        assert_same(loaded.components.networks()[name], network)
    assert loaded.preset == small_preset
    pipeline = StableVideoDiffusionPipeline.from_pretrained(tmp_path / "x", variant=variant)
    assert_same(pipeline.unet, small.unet)


def test_a_missing_variant_names_what_is_there(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has model\.safetensors; expected model\.fp16\.safetensors"):
        load(folder, variant="fp16")
    with pytest.raises(UsageError, match="expected a word"):
        load(folder, variant="../x")


def test_a_folder_of_pickles_is_never_opened(folder: Path) -> None:
    (folder / "image_encoder" / "model.safetensors").rename(folder / "image_encoder" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="a pickle is never opened"):
        load(folder)


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        ({"x": "../unet.safetensors"}, "files beside it"),
        ({"x": "model.bin"}, "files beside it"),
        ({"x": 3}, "no weight_map"),
        ([], "no weight_map"),
        ({"x": "gone.safetensors"}, "cannot be read"),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(folder: Path, shards: Any, said: str) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    weights.with_name(f"{weights.name}.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(CheckpointError, match=said):
        load(folder)


def test_an_index_that_its_shards_do_not_bear_out_is_refused(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("part.safetensors"))
    places = {"absent.weight": "part.safetensors"}
    weights.with_name(f"{weights.name}.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match=r"lack absent\.weight"):
        load(folder)


def test_stored_positions_are_ignored(folder: Path, small: Components) -> None:
    path = folder / "image_encoder" / "model.safetensors"
    tensors = load_file(path) | {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
    save_file(tensors, path, metadata={"format": "pt"})
    assert_same(load(folder).components.image_encoder, small.image_encoder)


def test_defaults_travel_and_are_guessed_without_our_file(folder: Path, small_preset: Preset) -> None:
    assert load(folder).preset == small_preset
    (folder / "stillmotion.json").unlink()
    edit(folder / "unet" / "config.json", num_frames=25)
    edit(folder / "scheduler" / "scheduler_config.json", sigma_max=80.0)
    assert load(folder).preset.defaults == replace(SVD_XT.defaults, sigma_max=80.0)


def test_a_folder_of_other_things_is_not_replaced(tmp_path: Path, small: Components, small_preset: Preset) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="holds something else"):
        save(small, small_preset, tmp_path, "diffusers")
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_an_image_only_unet_has_no_folder(tmp_path: Path, small: Components, small_preset: Preset) -> None:
    small.unet = UNet(replace(small_preset.unet, is_temporal=False))
    with pytest.raises(UsageError, match="image-only"):
        save(small, small_preset, tmp_path / "x", "diffusers")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_saved_over_the_one_that_it_was_loaded_from(folder: Path, small: Components) -> None:
    loaded = load(folder)
    save(loaded.components, loaded.preset, folder, "diffusers")
    assert_same(loaded.components.unet, small.unet)  # still mapped from the old files
    assert_same(load(folder).components.unet, small.unet)


def test_what_is_fetched_is_one_variant_and_no_pickle() -> None:
    plain = diffusers.patterns(None, ["unet", "vae", "image_encoder"])
    half = diffusers.patterns("fp16", diffusers.WEIGHTS)
    assert "unet/diffusion_pytorch_model.safetensors" in plain
    assert not any("image_decoder" in pattern or "fp16" in pattern for pattern in plain)
    assert "image_encoder/model.fp16.safetensors" in half
    assert "image_encoder/model.safetensors" not in half
    assert not any(pattern.endswith((".bin", "*")) for pattern in plain + half)
