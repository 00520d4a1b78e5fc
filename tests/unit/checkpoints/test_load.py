"""From a source to networks and back: identity, honest errors, little memory."""

from __future__ import annotations

import importlib.resources
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from stillmotion import hub
from stillmotion.checkpoints import sgm, store
from stillmotion.checkpoints.load import Loaded, load, save, shape_of, single_file, stored_dtype
from stillmotion.checkpoints.store import header, stored_bytes
from stillmotion.config import to_tree
from stillmotion.errors import Cancelled, CheckpointError, StillmotionError, UsageError
from stillmotion.events import Progress
from stillmotion.models.autoencoder import Autoencoder
from stillmotion.models.components import Components
from stillmotion.models.image_encoder import build_image_encoder
from stillmotion.models.unet import UNet
from stillmotion.presets import SVD, SVD_XT, TINY, Preset

TRAINING_ENCODER = "first_stage_model.encoder."


@pytest.fixture
def file(tmp_path: Path, small: Components, small_preset: Preset) -> Path:
    save(small, small_preset, tmp_path / "small.safetensors", "sgm")
    return tmp_path / "small.safetensors"


def test_the_embedded_model_is_what_its_preset_says(tmp_path: Path) -> None:
    found = load("tiny", with_image_decoder=True)
    assert found.preset == TINY
    save(found.components, found.preset, tmp_path / "tiny.safetensors", "sgm")
    again = load(tmp_path / "tiny.safetensors", config="tiny", with_image_decoder=True)
    assert again.components.autoencoder.cfg == found.components.autoencoder.cfg
    assert again.components.unet.cfg == found.components.unet.cfg


def test_the_originals_file_survives_both_layouts_byte_for_byte(data: Path, tmp_path: Path) -> None:
    source = data / "golden" / "svd_small.safetensors"
    first = load(source, config=data / "golden" / "svd_small.json", with_image_decoder=True)
    save(first.components, first.preset, tmp_path / "folder", "diffusers")
    second = load(tmp_path / "folder", with_image_decoder=True)
    assert second.preset == first.preset
    save(second.components, second.preset, tmp_path / "back.safetensors", "sgm")
    original, back = load_file(source), load_file(tmp_path / "back.safetensors")
    rules = sgm.unet_rules(first.preset.unet)
    kept = [name for name in original if not rules.reason(name)]
    assert len(kept) == 2076 - 6 - 104  # less the text tower's leftovers and the training encoder
    assert [name for name in kept if original[name].dtype != back[name].dtype] == []
    assert [name for name in kept if not torch.equal(original[name], back[name])] == []
    assert all(name.startswith(TRAINING_ENCODER) for name in set(back) - set(kept))


@pytest.mark.parametrize("layout", ["diffusers", "sgm"])
def test_a_layout_round_trips_byte_for_byte_in_float32(tmp_path: Path, golden: Loaded, layout: str) -> None:
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    save(golden.components, golden.preset, paths[0], layout)
    again = load(paths[0], config=golden.preset if layout == "sgm" else None, with_image_decoder=True)
    save(again.components, again.preset, paths[1], layout)
    names = [path.relative_to(paths[0]) for path in sorted(paths[0].rglob("*")) if path.is_file()] or [Path()]
    assert len(names) == (1 if layout == "sgm" else 12)
    assert [name for name in names if (paths[0] / name).read_bytes() != (paths[1] / name).read_bytes()] == []


def test_what_is_loaded_is_ready_to_run(golden: Loaded) -> None:
    for network in golden.components.networks().values():
        assert not network.training
        tensors = [*network.parameters(), *network.buffers()]
        assert not any(value.is_meta or value.requires_grad for value in tensors)
    decoder = golden.components.image_decoder
    assert decoder is not None
    assert decoder.cfg.decoder == "image"
    assert decoder.encoder is golden.components.autoencoder.encoder
    assert decoder.quant_conv is golden.components.autoencoder.quant_conv
    tower = golden.components.image_encoder
    assert tower(torch.zeros(1, 3, 224, 224)).image_embeds.isfinite().all()


def test_the_original_gives_the_same_embedding(golden: Loaded, data: Path) -> None:
    wanted = load_file(data / "golden" / "svd_small_io.safetensors")
    found = golden.components.image_encoder(wanted["clip_pixels"]).image_embeds
    assert torch.allclose(found, wanted["image_embeds"], atol=2e-6)
    noisy = wanted["image"] + 0.02 * wanted["image_noise"]
    moments = golden.components.autoencoder.encode(noisy[:, None])
    assert torch.allclose(moments.mean[:, 0], wanted["image_moments"].chunk(2, dim=1)[0], atol=1e-5)


def test_dtype_is_as_stored_or_as_asked(file: Path, small_preset: Preset) -> None:
    for dtype, wanted in ((None, torch.float32), (torch.bfloat16, torch.bfloat16)):
        networks = load(file, config=small_preset, dtype=dtype).components.networks().values()
        assert {value.dtype for network in networks for value in network.parameters()} == {wanted}


def test_the_stored_precision_is_told_where_a_file_is_here(
    file: Path, tmp_path: Path, small: Components, small_preset: Preset
) -> None:
    save(small, small_preset, tmp_path / "folder", "diffusers", dtype=torch.bfloat16)
    assert stored_dtype(file) == torch.float32 and stored_dtype(tmp_path / "folder") == torch.bfloat16
    assert stored_dtype(tmp_path / "folder", "fp16") is None and stored_dtype(tmp_path / "nowhere") is None
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    assert stored_dtype(tmp_path / "broken.safetensors") is None


def test_saving_in_half_precision_converts_floats(tmp_path: Path, small: Components, small_preset: Preset) -> None:
    save(small, small_preset, tmp_path / "x.safetensors", "sgm", dtype=torch.float16)
    found = load_file(tmp_path / "x.safetensors")
    assert {value.dtype for value in found.values()} == {torch.float16}
    wanted = small.unet.conv_in.weight.half()
    assert torch.equal(found["model.diffusion_model.input_blocks.0.0.weight"], wanted)


def test_an_unaligned_file_loads(file: Path, small: Components, small_preset: Preset) -> None:
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    file.write_bytes((length + 1).to_bytes(8, "little") + whole[8 : 8 + length] + b" " + whole[8 + length :])
    loaded = load(file, config=small_preset)
    assert torch.equal(loaded.components.unet.conv_in.weight, small.unet.conv_in.weight)
    assert all(value.data_ptr() % 4 == 0 for value in loaded.components.unet.parameters())


def test_a_known_name_decides_and_another_asks_for_a_config(file: Path, small_preset: Preset) -> None:
    with pytest.raises(UsageError, match="expected a config: a preset") as caught:
        load(file)
    assert "\n" not in str(caught.value)
    known = file.rename(file.with_name("svd_xt.safetensors"))
    with pytest.raises(CheckpointError, match="svd_xt"):  # taken for the released model, whose shape it has not
        load(known)
    with pytest.raises(UsageError, match="neither a file nor a preset"):
        load(known, config="no-such-thing")


def test_a_config_may_be_a_folder_or_a_name(
    file: Path, tmp_path: Path, small: Components, small_preset: Preset
) -> None:
    save(small, small_preset, tmp_path / "folder", "diffusers")
    assert single_file(file, tmp_path / "folder").preset == small_preset
    assert single_file(file, str(tmp_path / "folder")).preset == small_preset
    with pytest.raises(CheckpointError):
        single_file(file, "tiny")


def changed(file: Path, change: str) -> str:
    """Change one tensor of the file and save it; the name of the tensor."""
    tensors = load_file(file)
    name = "model.diffusion_model.out.2.weight"
    if change == "missing":
        del tensors[name]
    elif change == "renamed":
        tensors["model.diffusion_model.out.9.weight"] = tensors.pop(name)
    elif change == "shape":
        tensors[name] = tensors[name][..., :2].contiguous()
    elif change == "type":
        tensors[name] = tensors[name].int()
    save_file(tensors, file)
    return name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("missing", r"lacks 1 tensors \(model\.diffusion_model\.out\.2\.weight\)"),
        ("renamed", r"lacks 1 .*and has 1 tensors that are not known \(model\.diffusion_model\.out\.9\.weight\)"),
        ("shape", r"is torch\.float32 \[4, 32, 3, 2\], expected a float \[4, 32, 3, 3\]"),
        ("type", r"is torch\.int32 \[4, 32, 3, 3\], expected a float"),
    ],
)
def test_a_wrong_tensor_is_named_in_one_sentence(file: Path, small_preset: Preset, change: str, said: str) -> None:
    changed(file, change)
    with pytest.raises(CheckpointError, match=said) as caught:
        load(file, config=small_preset)
    assert "\n" not in str(caught.value)


def test_a_folder_with_a_tensor_too_many_is_refused(tmp_path: Path, small: Components, small_preset: Preset) -> None:
    save(small, small_preset, tmp_path / "x", "diffusers")
    path = tmp_path / "x" / "vae" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(path) | {"post_quant_conv.weight": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"not known \(post_quant_conv\.weight\)"):
        load(tmp_path / "x")


def test_a_file_cut_in_the_middle_is_refused(file: Path, small_preset: Preset) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="cut short"):
        load(file, config=small_preset)


def test_without_an_image_decoder_there_is_none(file: Path, small_preset: Preset, data: Path) -> None:
    assert load(file, config=small_preset, with_image_decoder=True).components.image_decoder is None
    golden = data / "golden"
    plain = load(golden / "svd_small.safetensors", config=golden / "svd_small.json")
    assert plain.components.image_decoder is None


@pytest.mark.parametrize("source", ["no/such/thing", "gone.safetensors", "owner/gone.safetensors", Path("a/b")])
def test_a_source_that_is_nothing_is_one_sentence(source: str | Path) -> None:
    with pytest.raises(UsageError, match=r"is no model.*svd-xt"):
        load(source)


def test_a_missing_file_is_missing_with_a_config_too() -> None:
    with pytest.raises(UsageError, match="no such file"):
        load("gone.safetensors", config=SVD)


def test_a_config_beside_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="brings its own configuration"):
        load(tmp_path, config=SVD)


@pytest.mark.parametrize(
    ("source", "repo_id", "name", "steps"),
    [
        ("svd-xt", SVD_XT.hub_id, "svd-xt", 30),
        (SVD.hub_id, SVD.hub_id, "svd", 25),
        ("me/mine", "me/mine", "me/mine", 25),
    ],
)
def test_presets_and_repositories_come_from_the_hub(
    tmp_path: Path,
    small: Components,
    small_preset: Preset,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    repo_id: str,
    name: str,
    steps: int,
) -> None:
    save(small, small_preset, tmp_path / "x", "diffusers", variant="fp16")
    (tmp_path / "x" / "stillmotion.json").unlink()
    asked = {}

    def fetch(repo_id: str, *, revision: str | None, patterns: list[str], access: hub.Access) -> Path:
        asked.update(repo_id=repo_id, revision=revision, patterns=patterns)
        return tmp_path / "x"

    monkeypatch.setattr(hub, "fetch", fetch)
    loaded = load(source, variant="fp16", revision="v1")
    assert (asked["repo_id"], asked["revision"]) == (repo_id, "v1")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in asked["patterns"]
    assert (loaded.preset.name, loaded.preset.defaults.steps) == (name, steps)
    assert loaded.preset.unet == small_preset.unet


def test_the_embedded_model_comes_from_the_package(
    tmp_path: Path, small: Components, small_preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(CheckpointError, match="weights of tiny are missing"):
        load("tiny")
    save(small, small_preset, tmp_path / "weights" / "tiny", "diffusers")
    loaded = load("tiny")
    assert (loaded.preset.name, loaded.preset.defaults) == ("tiny", TINY.defaults)
    assert loaded.preset.unet == small_preset.unet


def test_the_shape_of_a_source_is_found_without_its_weights(
    tmp_path: Path, file: Path, small: Components, small_preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    folder = tmp_path / "folder"
    save(small, small_preset, folder, "diffusers")
    expected = [load(folder).preset, load(file, config=small_preset).preset]
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    monkeypatch.setattr(store.TensorFile, "tensor", never)
    assert [shape_of(folder), shape_of(file, small_preset)] == expected
    asked: list[str] = []

    def fetch(repo_id: str, *, revision: str | None, patterns: list[str], access: hub.Access) -> Path:
        asked.extend(patterns)
        return folder

    monkeypatch.setattr(hub, "fetch", fetch)
    assert (shape_of("svd-xt"), shape_of(str(SVD.hub_id)), asked) == (SVD_XT, SVD, [])
    assert shape_of("me/mine", revision="v1") == expected[0]
    assert asked and all(pattern.endswith(".json") for pattern in asked)
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    folder.rename(tmp_path / "tiny")
    (tmp_path / "weights").mkdir()
    (tmp_path / "tiny").rename(tmp_path / "weights" / "tiny")
    assert (shape_of("tiny").name, shape_of("tiny").unet) == ("tiny", small_preset.unet)


@pytest.mark.parametrize("source", ["no/such/thing", "gone.safetensors"])
def test_the_shape_of_nothing_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match="is no model"):
        shape_of(source)


@pytest.mark.parametrize("layout", ["diffusers", "sgm"])
def test_an_autoencoder_has_a_dtype_of_its_own(
    tmp_path: Path, small: Components, small_preset: Preset, layout: str
) -> None:
    path = tmp_path / "x.safetensors"
    save(small, small_preset, path, layout)
    found = load(
        path,
        config=small_preset if layout == "sgm" else None,
        dtype=torch.float16,
        autoencoder_dtype=torch.float32,
    ).components
    assert found.unet.conv_in.weight.dtype == found.image_encoder.visual_projection.weight.dtype == torch.float16
    assert torch.equal(found.autoencoder.quant_conv.weight, small.autoencoder.quant_conv.weight)


def test_progress_opens_at_nothing_and_ends_whole(file: Path, small_preset: Preset) -> None:
    events: list[Progress] = []
    load(file, config=small_preset, watch=events.append)
    assert (events[0].done, events[-1].done) == (0, events[-1].total)

    def stop(event: Progress) -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        load(file, config=small_preset, watch=stop)


def test_a_single_file_has_no_variants_and_a_name(tmp_path: Path, small: Components, small_preset: Preset) -> None:
    with pytest.raises(UsageError, match="no variants"):
        save(small, small_preset, tmp_path / "x.safetensors", "sgm", variant="fp16")
    with pytest.raises(UsageError, match=r"ends in \.safetensors"):
        save(small, small_preset, tmp_path / "x", "sgm")


@pytest.mark.parametrize("layout", ["diffusers", "sgm"])
def test_a_failed_save_leaves_nothing(tmp_path: Path, small: Components, small_preset: Preset, layout: str) -> None:
    small.autoencoder.decoder.conv_in.weight.data = small.autoencoder.decoder.conv_in.weight.data.to(torch.complex64)
    with pytest.raises(StillmotionError, match="complex64"):
        save(small, small_preset, tmp_path / "x.safetensors", layout)
    assert list(tmp_path.iterdir()) == []


MEASURE = """
import json, sys, torch
from pathlib import Path
from typing import Literal
from stillmotion.checkpoints.load import load
from stillmotion.config import parse
from stillmotion.presets import Preset
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
path, preset, small, warm, dtype = sys.argv[1:]
load(warm, config=parse(Preset, json.loads(small)))
before = peak()
loaded = load(path, config=parse(Preset, json.loads(preset)), dtype=torch.float16 if dtype == "float16" else None)
values = [value for network in loaded.components.networks().values() for value in network.parameters()]
for value in values:
    value.flatten()[::512].sum()
sys.stdout.write(json.dumps([peak() - before, sum(value.nbytes for value in values)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
@pytest.mark.parametrize("dtype", [pytest.param("as-stored", marks=pytest.mark.slow), "float16"])
def test_loading_takes_the_memory_of_the_networks(tmp_path: Path, file: Path, small_preset: Preset, dtype: str) -> None:
    preset = replace(small_preset, unet=replace(small_preset.unet, channels=(320, 640), heads=(5, 10)))
    with torch.device("meta"):
        networks = Components(
            UNet(preset.unet), Autoencoder(preset.autoencoder), build_image_encoder(preset.image_encoder)
        )
    tensors = sgm.export(networks, preset.image_encoder)
    with (tmp_path / "large.safetensors").open("wb") as large:
        large.write(header(tensors))
        large.truncate(large.tell() + sum(map(stored_bytes, tensors.values())))
    trees = [json.dumps(to_tree(value)) for value in (preset, small_preset)]
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "large.safetensors"), *trees, str(file), dtype]
    peak, kept = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert kept > 100e6
    assert peak < 1.1 * kept + 20e6  # the largest tensor is not small beside a model of this size


@pytest.mark.parametrize(("layout", "name"), [("diffusers", "model"), ("sgm", "model.safetensors")])
def test_what_appeared_in_the_meantime_is_kept(layout: Literal["diffusers", "sgm"], name: str, tmp_path: Path) -> None:
    loaded = load("tiny", with_image_decoder=True)
    save(loaded.components, loaded.preset, tmp_path / name, layout)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    with torch.no_grad():
        loaded.components.unet.conv_in.weight.mul_(2)
    with pytest.raises(UsageError, match="already exists"):
        save(loaded.components, loaded.preset, tmp_path / name, layout, overwrite=False)
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before
