"""repeat(): the same frames from the file alone, other frames by changing one setting, and what a recipe may not do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stillmotion.errors import UsageError
from stillmotion.media.video import read_video
from stillmotion.recipe import model_record, read_recipe
from stillmotion.tasks.generate import generate
from stillmotion.tasks.repeat import RepeatSettings, repeat
from stillmotion.tasks.settings import GenerateSettings

QUICK: dict[str, Any] = {"steps": 1, "frames": 2, "size": (64, 64), "dtype": "float32"}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, (60, 90, 3), np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


def made(image: Path, output: Path, **given: Any) -> Path:
    """Generate one video and return where it lies."""
    (result,) = generate(GenerateSettings(image=str(image), output=output, **QUICK | given))
    assert result.path is not None
    return result.path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One video for the tests that only read it."""
    folder = tmp_path_factory.mktemp("video")
    pixels = np.random.default_rng(1).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    return made(folder / "photo.png", folder / "a.mp4")


SLOW_FORMATS = [pytest.param(name, marks=pytest.mark.slow) for name in ("a.mov", "a.mkv", "a.gif", "a.apng")]


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.webp", *SLOW_FORMATS])
def test_a_file_alone_is_enough_to_make_it_again(name: str, image: Path, tmp_path: Path) -> None:
    first = made(image, tmp_path / name, seed=11, motion=40)
    image.unlink()
    again = repeat(RepeatSettings(file=first, output=tmp_path / f"again-{name}"))
    assert again.is_identical and again.differences == ()
    assert read_recipe(first) == read_recipe(tmp_path / f"again-{name}")


def test_a_folder_of_pictures_is_made_again(image: Path, tmp_path: Path) -> None:
    first = made(image, tmp_path / "out", format="png")
    assert first.is_dir() and (first / "recipe.json").is_file()
    again = repeat(RepeatSettings(file=first, output=tmp_path / "again"))
    assert again.is_identical and again.made.path is not None
    assert np.array_equal(read_video(again.made.path).frames, read_video(first).frames)


def test_a_changed_setting_gives_other_frames(video: Path, tmp_path: Path) -> None:
    other = repeat(RepeatSettings(file=video, output=tmp_path / "b.mp4", set=("seed=5", "motion=200")))
    assert not other.is_identical and other.changed == ("seed=5", "motion=200")
    recipe = read_recipe(tmp_path / "b.mp4")
    assert (recipe.seed, recipe.video.motion_bucket) == (5, 200)
    old = read_recipe(video).video
    same = dataclasses.replace(recipe.video, motion_bucket=old.motion_bucket)
    assert same == old


@pytest.mark.parametrize("change", ["motion", "speed=3", "output=x.mp4", "recipe=x", "count=2", "=", "motion=fast"])
def test_a_change_that_cannot_be_is_refused(change: str, video: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        repeat(RepeatSettings(file=video, output=tmp_path / "b.mp4", set=(change,)))
    assert not (tmp_path / "b.mp4").exists()


@pytest.mark.parametrize(
    "changes",
    [
        ("focus=0,0",),
        ("fit=pad",),
        ("background=red",),
        ("pad_colour=red",),
        ("size=128x64", "private=true"),
        ("size=128x64", "focus=0,0"),
    ],
)
def test_a_fitted_picture_is_not_said_to_be_fitted_otherwise(
    changes: tuple[str, ...], video: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="fitted already"):
        repeat(RepeatSettings(file=video, output=tmp_path / "b.mp4", set=changes))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_with_the_image_it_is_fitted_anew(video: Path, tmp_path: Path) -> None:
    image = str(video.parent / "photo.png")
    corner = repeat(RepeatSettings(file=video, output=tmp_path / "b.mp4", image=image, set=("focus=0,0",)))
    assert corner.made.recipe is not None and corner.made.recipe.fitting.focus == (0, 0)
    assert corner.made.recipe.image.sha256 != corner.source.image.sha256
    wide = repeat(RepeatSettings(file=video, output=tmp_path / "c.mp4", set=("size=128x64", "fit=pad")))
    assert wide.made.recipe is not None and wide.made.recipe.fit == "pad"
    assert repeat(RepeatSettings(file=tmp_path / "c.mp4", output=tmp_path / "d.mp4")).is_identical


@pytest.mark.slow
def test_a_private_recipe_asks_for_the_image(image: Path, tmp_path: Path) -> None:
    first = made(image, tmp_path / "a.mp4", private=True)
    with pytest.raises(UsageError, match="--private"):
        repeat(RepeatSettings(file=first, output=tmp_path / "b.mp4"))
    again = repeat(RepeatSettings(file=first, output=tmp_path / "b.mp4", image=str(image)))
    assert again.is_identical


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {"focus": (0.1, 0.9)},
        pytest.param({"fit": "pad", "pad_colour": "#204060"}, marks=pytest.mark.slow),
        pytest.param({"background": "teal"}, marks=pytest.mark.slow),
    ],
    ids=["focus", "pad", "background"],
)
def test_a_private_recipe_knows_how_the_image_was_fitted(given: dict[str, Any], tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (60, 120, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    first = made(tmp_path / "clear.png", tmp_path / "a.mkv", private=True, **given)
    image = str(tmp_path / "clear.png")
    assert repeat(RepeatSettings(file=first, output=tmp_path / "b.mkv", image=image)).is_identical
    plain = made(tmp_path / "clear.png", tmp_path / "c.mkv")
    assert read_recipe(plain).image.sha256 != read_recipe(first).image.sha256  # else nothing was asked
    usual = "focus=0.5,0.5" if "focus" in given else "pad-colour=white" if "fit" in given else "background=white"
    other = RepeatSettings(file=first, output=tmp_path / "d.mkv", image=image, set=(usual,))
    assert not repeat(other).is_identical


@pytest.mark.slow
def test_a_private_recipe_knows_the_second_of_a_video(image: Path, tmp_path: Path) -> None:
    colours = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue")]
    colours[0].save(tmp_path / "flash.gif", save_all=True, append_images=colours[1:], duration=200)
    first = made(tmp_path / "flash.gif", tmp_path / "a.mkv", private=True, at=0.3)
    assert read_recipe(first).fitting.at == 0.3
    flash = str(tmp_path / "flash.gif")
    again = repeat(RepeatSettings(file=first, output=tmp_path / "b.mkv", image=flash))
    assert again.is_identical and " at 0.3 s " in again.made.fitted
    assert not repeat(RepeatSettings(file=first, output=tmp_path / "c.mkv", image=flash, set=("at=0.5",))).is_identical
    with pytest.raises(UsageError, match=r"frame at 0\.3 s"):
        repeat(RepeatSettings(file=first, output=tmp_path / "d.mkv"))
    # Where the recipe brings its picture, another image that takes its place is an image of its own.
    public = made(tmp_path / "flash.gif", tmp_path / "e.mkv", at=0.3)
    (other,) = generate(GenerateSettings(recipe=public, image=str(image), output=tmp_path / "f.mkv"))
    assert other.recipe is not None and other.recipe.fitting.at is None


def test_a_strangers_recipe_opens_no_path_and_reaches_no_address(video: Path, tmp_path: Path) -> None:
    recipe = read_recipe(video)
    (tmp_path / "weights").mkdir()
    for model in (str(tmp_path / "weights"), "somebody/else"):
        other = dataclasses.replace(recipe, model=model_record(model, "0" * 64))
        (tmp_path / "other.json").write_text(other.to_json())
        with pytest.raises(UsageError, match="--model"):
            repeat(RepeatSettings(file=tmp_path / "other.json", output=tmp_path / "b.mp4"))


def test_other_weights_are_said(video: Path, tmp_path: Path) -> None:
    recipe = read_recipe(video)
    tree = json.loads(recipe.to_json())
    tree["model"]["tensors_sha256"] = "0" * 64
    tree["frames"]["sha256"] = "1" * 64
    tree["versions"]["torch"] = "1.0"
    (tmp_path / "other.json").write_text(json.dumps(tree))
    again = repeat(RepeatSettings(file=tmp_path / "other.json", output=tmp_path / "b.mp4"))
    assert not again.is_identical
    assert "other weights" in again.differences and any("instead of 1.0" in each for each in again.differences)


def test_generate_starts_from_a_recipe_and_what_is_given_wins(image: Path, tmp_path: Path) -> None:
    first = made(image, tmp_path / "a.mp4", guider="triangle", guidance=(1, 3), play_fps=5, ping_pong=True)
    settings = GenerateSettings(recipe=first, output=tmp_path / "b.mp4", dtype="float32", noise_aug=0.5)
    (result,) = generate(settings)
    old, new = read_recipe(first), result.recipe
    assert new is not None
    assert new.video == dataclasses.replace(old.video, noise_aug=0.5)
    assert (new.play_fps, new.encoding, new.image.sha256) == (5, old.encoding, old.image.sha256)


@pytest.mark.parametrize(("change", "suffix"), [("format=gif", ".gif"), ("codec=vp9", ".webm")])
def test_another_format_names_the_file_itself(
    change: str, suffix: str, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    again = repeat(RepeatSettings(file=video, set=(change,)))
    assert again.made.path == Path("outputs") / f"a-repeat{suffix}" and again.is_identical


def test_a_folder_called_like_the_preset_changes_nothing(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert repeat(RepeatSettings(file=video)).is_identical
