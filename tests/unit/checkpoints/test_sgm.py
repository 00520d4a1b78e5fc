"""The single file's names against those of the released checkpoints, and what is written into one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stillmotion.checkpoints import sgm
from stillmotion.checkpoints.load import Loaded, load, save
from stillmotion.checkpoints.rules import Rules, their_shape
from stillmotion.checkpoints.store import TensorFile
from stillmotion.models.autoencoder import Autoencoder, AutoencoderConfig
from stillmotion.models.components import Components
from stillmotion.models.image_encoder import ImageEncoderConfig, build_image_encoder
from stillmotion.models.unet import UNet, UNetConfig
from stillmotion.presets import Preset


def shapes_of(build: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in build().state_dict().items()}


def expected(data: Path, name: str, moved: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """The released names under the prefixes that they have in the file."""
    found = json.loads((data / "keys" / f"{name}.json").read_text())
    prefix = {name: next(new for old, new in moved.items() if name.startswith(old)) for name in found}
    return {prefix[name] + name: tuple(shape) for name, shape in found.items()}


RELEASED = {
    "unet": (lambda: UNet(UNetConfig()), sgm.unet_rules(UNetConfig()), {"": "model.diffusion_model."}, 1428, 1428),
    "autoencoder": (
        lambda: Autoencoder(AutoencoderConfig()),
        sgm.autoencoder_rules(AutoencoderConfig()),
        {"encoder": "conditioner.embedders.3.encoder.", "decoder": "first_stage_model."},
        374,
        372,
    ),
    "image_encoder": (
        lambda: build_image_encoder(ImageEncoderConfig()),
        sgm.image_encoder_rules(ImageEncoderConfig()),
        {"": "conditioner.embedders.0.open_clip.model.visual."},
        520,
        392,
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_names_and_shapes_map_one_to_one(data: Path, name: str) -> None:
    build, rules, moved, ours_count, theirs_count = RELEASED[name]
    ours = shapes_of(build)
    theirs = expected(data, f"{name}.sgm", moved)
    assert (len(ours), len(theirs)) == (ours_count, theirs_count)
    if name == "autoencoder":  # not in the list of names, which is that of the two halves
        theirs |= {f"conditioner.embedders.3.encoder.quant_conv.{key}": shape for key, shape in QUANT.items()}
    places = {key: rules.place(key) for key in ours}
    assert {place.theirs: their_shape(ours[key], place) for key, place in places.items()} == theirs
    assert_bijection(rules, list(ours), list(theirs))


QUANT = {"weight": (8, 8, 1, 1), "bias": (8,)}


@pytest.mark.parametrize("name", RELEASED)
def test_our_names_and_shapes_are_those_of_the_released_folder(data: Path, name: str) -> None:
    found = json.loads((data / "keys" / f"{name}.diffusers.json").read_text())
    assert shapes_of(RELEASED[name][0]) == {key: tuple(shape) for key, shape in found.items()}


def assert_bijection(rules: Rules, ours: list[str], theirs: list[str]) -> None:
    places = [rules.place(key) for key in ours]
    assert {place.theirs for place in places} == set(theirs)
    # Every part of every foreign tensor is one of ours, and no two of ours are the same part.
    whole = {(place.theirs, part) for place in places for part in range(place.parts)}
    assert sorted((place.theirs, place.part) for place in places) == sorted(whole)


def random_unet(draw: random.Random) -> UNetConfig:
    levels = draw.randint(1, 3)
    return UNetConfig(
        channels=tuple(draw.choice((32, 64)) for _ in range(levels)),
        has_attention=tuple(draw.random() < 0.5 for _ in range(levels)),
        heads=(2,) * levels,
        layers=tuple(draw.randint(1, 3) for _ in range(levels)),
        transformer_depth=tuple(draw.randint(1, 2) for _ in range(levels)),
        context_width=(16,) * levels,
        number_width=32,
        numbers=draw.randint(1, 3),
        is_temporal=draw.random() < 0.8,
    )


def random_autoencoder(draw: random.Random) -> AutoencoderConfig:
    channels = tuple(draw.choice((32, 64)) for _ in range(draw.randint(1, 3)))
    return AutoencoderConfig(channels=channels, layers=draw.randint(1, 3), decoder=draw.choice(("temporal", "image")))


@pytest.mark.parametrize("seed", range(12))
def test_any_configuration_maps_one_to_one(seed: int) -> None:
    draw = random.Random(seed)
    unet, autoencoder = random_unet(draw), random_autoencoder(draw)
    for network, rules in (
        (lambda: UNet(unet), sgm.unet_rules(unet)),
        (lambda: Autoencoder(autoencoder), sgm.autoencoder_rules(autoencoder)),
    ):
        ours = list(shapes_of(network))
        theirs = list(dict.fromkeys(rules.place(name).theirs for name in ours))
        assert len(theirs) == len(ours)
        assert_bijection(rules, ours, theirs)


@pytest.mark.parametrize("seed", range(4))
def test_any_configuration_round_trips_through_a_file(tmp_path: Path, small_preset: Preset, seed: int) -> None:
    draw = random.Random(100 + seed)
    unet = replace(random_unet(draw), is_temporal=True)
    preset = replace(small_preset, unet=unet, autoencoder=random_autoencoder(draw))
    networks = Components(UNet(unet), Autoencoder(preset.autoencoder), build_image_encoder(preset.image_encoder))
    save(networks, preset, tmp_path / "x.safetensors", "sgm")
    loaded = load(tmp_path / "x.safetensors", config=preset)
    assert loaded.preset == preset
    for name, network in networks.networks().items():
        assert_equal(loaded.components.networks()[name].state_dict(), network.state_dict())


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def test_every_released_file_part_is_written_under_its_prefix(golden: Loaded, data: Path) -> None:
    written = set(sgm.export(golden.components, golden.preset.image_encoder))
    original = set(TensorFile(data / "golden" / "svd_small.safetensors").entries)
    assert written <= original
    left = original - written
    assert len(left) == 6
    assert {sgm.unet_rules(golden.preset.unet).reason(name) for name in left} == {sgm.TEXT_TOWER}


def test_the_training_encoder_gives_the_moments_of_encoder_and_quant_conv(small: Components) -> None:
    autoencoder = small.autoencoder.double()
    written = {name: parts[0] for name, parts in sgm.export(small, ImageEncoderConfig(layers=2)).items()}
    image = torch.randn(1, 1, 3, 16, 16, dtype=torch.float64)
    wanted = autoencoder.encode(image)
    autoencoder.encoder.conv_out.weight.data = written["first_stage_model.encoder.conv_out.weight"]
    autoencoder.encoder.conv_out.bias.data = written["first_stage_model.encoder.conv_out.bias"]
    mean, _ = autoencoder.encoder(image).chunk(2, dim=2)
    assert torch.allclose(mean, wanted.mean, atol=1e-12)


def test_an_image_decoder_file_keeps_its_first_stage_whole(tmp_path: Path, small_preset: Preset) -> None:
    frame_wise = replace(small_preset.autoencoder, decoder="image")
    networks = Components(
        UNet(small_preset.unet), Autoencoder(frame_wise), build_image_encoder(small_preset.image_encoder)
    )
    path = tmp_path / "x.safetensors"
    save(networks, small_preset, path, "sgm")
    names = set(TensorFile(path).entries)
    assert {f"first_stage_model.{name}.weight" for name in ("quant_conv", "post_quant_conv")} <= names
    loaded = load(path, config=small_preset)  # whose decoder is temporal: the file decides
    assert loaded.preset.autoencoder.decoder == "image"
    assert_equal(loaded.components.autoencoder.state_dict(), networks.autoencoder.state_dict())
