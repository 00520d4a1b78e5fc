"""inspect: what a model, a video and an image are, damaged ones too, and hashes that do not depend on the layout."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file

from stillmotion.checkpoints.load import load, save
from stillmotion.cli import main
from stillmotion.errors import HubError, MediaError, UsageError
from stillmotion.media.formats import Encoding
from stillmotion.media.video import write_video
from stillmotion.models.components import Components
from stillmotion.presets import TINY
from stillmotion.tasks.inspect import Inspection, InspectSettings, ModelFacts, inspect

pytestmark = pytest.mark.slow  # the whole file takes many seconds

FRAMES = np.zeros((6, 48, 64, 3), np.uint8)


def seen(source: str | Path, **given: object) -> Inspection:
    return inspect(InspectSettings(source=str(source), **given))  # type: ignore[arg-type]


def model_of(source: str | Path, **given: object) -> ModelFacts:
    found = seen(source, **given)
    assert found.kind == "model" and found.model is not None
    return found.model


@pytest.fixture(scope="module")
def tiny() -> Components:
    return load("tiny", with_image_decoder=True).components


@pytest.fixture(scope="module")
def sgm_file(tiny: Components, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sgm") / "tiny.safetensors"
    save(tiny, TINY, path, "sgm")
    return path


def changed(source: Path, target: Path, name: str, value: torch.Tensor | None) -> Path:
    tensors = load_file(source)
    tensors.pop(name, None)
    save_file(tensors if value is None else tensors | {name: value}, target)
    return target


def test_the_embedded_model_is_counted_network_by_network(tiny: Components) -> None:
    found = model_of("tiny").examined
    assert (found.layout, found.families, found.problems) == ("diffusers folder", ("tiny",), ())
    counts = {part.name: part.parameters for part in found.networks}
    assert counts["unet"] == sum(value.numel() for value in tiny.unet.parameters())
    assert counts["image_encoder"] == sum(value.numel() for value in tiny.image_encoder.parameters())
    whole = sum(value.numel() for value in tiny.autoencoder.parameters())
    assert counts["vae, encoder"] + counts["vae, temporal decoder"] == whole
    assert tiny.image_decoder is not None and counts["image_decoder"] < whole


def test_both_layouts_have_one_tensor_hash_and_files_their_own(sgm_file: Path) -> None:
    folder, file = model_of("tiny", hash=True), model_of(sgm_file, hash=True)
    assert folder.tensors_sha256 == file.tensors_sha256 is not None
    assert folder.with_image_decoder_sha256 == file.with_image_decoder_sha256 != folder.tensors_sha256
    assert [each.sha256 for each in file.files] == [hashlib.sha256(sgm_file.read_bytes()).hexdigest()]
    assert model_of(sgm_file).tensors_sha256 is None


def test_a_nameless_file_is_known_by_its_shapes(sgm_file: Path) -> None:
    nameless = model_of(sgm_file).examined
    assert (nameless.layout, nameless.families, nameless.preset) == ("sgm file", ("tiny",), None)
    assert nameless.notes and not nameless.problems
    assert sum(nameless.left_out.values()) > 0  # the encoder of training targets
    configured = model_of(sgm_file, config="tiny").examined
    assert configured.preset is not None and not configured.notes


def test_missing_unknown_and_misshapen_tensors_are_named(sgm_file: Path, tmp_path: Path) -> None:
    name = "model.diffusion_model.out.2.bias"
    path = tmp_path / "x.safetensors"
    found = model_of(changed(sgm_file, path, name, None)).examined
    assert found.differences.missing == (name,) and "lacks 1 tensors" in found.problems[0]
    found = model_of(changed(sgm_file, path, "what.is.this", torch.ones(2))).examined
    assert found.differences.unknown == ("what.is.this",) and found.families == ()
    found = model_of(changed(sgm_file, path, name, torch.ones(9)), config="tiny").examined
    assert "[9]" in found.differences.wrong[0] and found.problems


def test_a_folder_says_all_that_is_wrong_at_once(tiny: Components, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(tiny, TINY, folder, "diffusers")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02never opened")
    changed(weights := folder / "unet" / "diffusion_pytorch_model.safetensors", weights, "conv_in.bias", None)
    found = model_of(folder).examined
    assert len(found.problems) == 2 and "a pickle is never opened" in found.problems[0] + found.problems[1]
    assert found.differences.missing == ("unet.conv_in.bias",)
    assert [path.name for path in found.unsafe] == ["diffusion_pytorch_model.bin"]
    (folder / "unet" / "config.json").write_text("{")
    found = model_of(folder).examined
    assert found.preset is None and {part.name for part in found.networks} >= {"unet", "image_encoder"}


@pytest.mark.parametrize("data", [b"", b"\x80\x02evil", b"PK\x03\x04evil", b"\xff" * 50, b"\x20" + b"\0" * 7 + b"{"])
def test_what_is_no_safetensors_is_a_problem_and_no_crash(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    found = model_of(path).examined
    assert found.layout == "unreadable" and len(found.problems) == 1
    assert bool(found.unsafe) == data.startswith((b"\x80", b"PK"))
    assert main(["inspect", str(path)]) == 1


def test_loose_tensors_are_described_and_hashed(tmp_path: Path) -> None:
    save_file({"a.lora_down.weight": torch.ones(2, 3), "a.alpha": torch.ones(1)}, tmp_path / "lora.safetensors")
    save_file({"a.b": torch.ones(2, 3).half()}, tmp_path / "x.safetensors")
    assert model_of(tmp_path / "lora.safetensors").examined.layout == "lora"
    loose = model_of(tmp_path / "x.safetensors", hash=True)
    assert loose.examined.layout == "tensors" and loose.examined.problems
    assert loose.examined.networks[0].dtypes == {"F16": 1} and loose.examined.networks[0].parameters == 6
    digest = hashlib.sha256(b'["a.b","F16",[2,3]]\n' + np.ones(6, "<f2").tobytes()).digest()
    assert loose.tensors_sha256 == hashlib.sha256(digest).hexdigest()


def test_a_repository_is_read_from_the_cache_alone(
    tiny: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubError, match="not complete in the cache"):
        seen("owner/name")
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    save(tiny, TINY, repository / "snapshots" / commit, "diffusers")
    assert model_of("owner/name", hash=True).tensors_sha256 == model_of("tiny", hash=True).tensors_sha256


def test_a_video_has_its_streams_and_its_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "v.mp4"
    write_video(path, FRAMES, 12.5, Encoding(), json.dumps({"seed": 7, "image": "x" * 5000, "evil": "\x9b2J"}))
    found = seen(path)
    assert found.video is not None and found.recipe is not None
    stream = found.video.streams[0]
    assert (stream.codec, stream.width, stream.height, stream.frames, stream.fps) == ("h264", 64, 48, 6, 12.5)
    assert stream.duration_s == pytest.approx(6 / 12.5)
    assert stream.colour == {name: "bt709" for name in ("matrix", "primaries", "transfer")} | {"range": "limited"}
    assert found.recipe.values == {"seed": 7, "image": "(5000 characters)", "evil": "\x9b2J"}
    assert found.recipe.problem is not None
    assert main(["inspect", str(path)]) == 0
    said = capsys.readouterr().out
    assert "12.5 fps" in said and "\x9b" not in said
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["video"]["streams"][0]["frames"] == 6


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng", ".webm", ".mkv", ".mov"])
def test_every_format_has_its_frames_counted(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"v{suffix}"
    frames = np.stack([np.full((48, 64, 3), 40 * i, np.uint8) for i in range(6)])
    write_video(path, frames, 10.0, Encoding(), None)
    found = seen(path)
    assert found.video is not None and found.recipe is None
    stream = found.video.streams[0]
    assert (stream.width, stream.height, stream.frames) == (64, 48, 6) and stream.fps == pytest.approx(10.0)


def test_an_image_has_its_facts(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "a.png", "a.webp"):
        Image.new("RGB", (30, 20)).save(tmp_path / name, exif=exif)
        image = seen(tmp_path / name).image
        assert image is not None
        assert (image.width, image.height, image.mode, image.orientation, image.profile) == (30, 20, "RGB", 6, None)
    Image.new("P", (5, 4)).save(tmp_path / "a.gif")
    assert seen(tmp_path / "a.gif").kind == "image"


def test_damage_and_nothing_are_one_sentence(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("cut.png", "text.mp4", "empty.mp4"):
        with pytest.raises(MediaError) as caught:
            seen(tmp_path / name)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    (tmp_path / "folder").mkdir()
    for source in (tmp_path / "folder", tmp_path / "gone.mp4", "no/such/thing"):
        with pytest.raises(UsageError, match="is no model"):
            seen(source)
    with pytest.raises(UsageError, match="name too long"):
        seen("x" * 5000)
