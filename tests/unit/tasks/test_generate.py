"""generate() from Python: one Made a video, and a Cancelled that ends all of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from stillmotion import recipe
from stillmotion.checkpoints.load import load, save
from stillmotion.cli import generate as cli_generate
from stillmotion.errors import Cancelled, ConfigError, HubError, UsageError
from stillmotion.events import Progress
from stillmotion.media import images
from stillmotion.media.still import read_picture
from stillmotion.tasks.generate import generate, plan
from stillmotion.tasks.settings import GenerateSettings


def asked(folder: Path, **given: object) -> GenerateSettings:
    images = folder / "in"
    images.mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30), (10, 200, 90)).save(images / name)
    values = {"steps": 1, "frames": 2, "size": (64, 64), "dtype": "float32", "output": folder / "out"} | given
    return GenerateSettings(image=str(images), **values)  # type: ignore[arg-type]


def test_each_video_is_reported_with_its_seed_and_times(tmp_path: Path) -> None:
    stages: list[str] = []
    made = list(generate(asked(tmp_path, seed=4), lambda event: stages.append(event.stage)))
    assert [(m.image.name, m.seed, m.path and m.path.name) for m in made] == [
        ("a.png", 4, "a-seed4.mp4"),
        ("b.png", 5, "b-seed5.mp4"),
    ]
    assert {"encode", "denoise", "decode", "write"} <= set(made[0].seconds) and made[0].error is None
    assert [stage for stage in dict.fromkeys(stages)][-4:] == ["encode", "denoise", "decode", "write"]


@pytest.mark.parametrize("stage", ["encode", "denoise", "decode", "write"])
def test_cancelling_at_any_stage_ends_everything_and_leaves_nothing(stage: str, tmp_path: Path) -> None:
    def stop(event: Progress) -> None:
        if event.stage == stage:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        list(generate(asked(tmp_path), stop))
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_one_file_name_for_two_videos_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 videos"):
        next(generate(asked(tmp_path, output=tmp_path / "one.mp4")))


def test_a_plan_counts_the_videos_and_their_seeds(tmp_path: Path) -> None:
    planned = plan(asked(tmp_path, seed=9, count=2))
    assert list(planned.request.seeds) == [9, 10, 11, 12] and len(planned.request.sources) == 2
    assert planned.seconds > 0 and (planned.width, planned.height) == (64, 64)


def test_python_settings_are_read_as_those_of_the_terminal(tmp_path: Path) -> None:
    planned = plan(asked(tmp_path, size="72x64"))
    assert (planned.width, planned.height) == (72, 64)
    with pytest.raises(UsageError, match="frames"):
        plan(asked(tmp_path, frames="many"))


@pytest.mark.parametrize("given", [{"steps": 0}, {"size": (102, 100)}, {"decoder": "none"}])
def test_a_refused_request_makes_no_folder(given: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        list(generate(asked(tmp_path, **given)))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_resume_skips_what_was_made_of_the_same_request(tmp_path: Path) -> None:
    first = list(generate(asked(tmp_path)))
    assert first[1].path is not None
    first[1].path.unlink()
    again = list(generate(asked(tmp_path, resume=True)))
    assert [made.is_old for made in again] == [True, False]
    assert [made.path for made in again] == [made.path for made in first]
    other = list(generate(asked(tmp_path, resume=True, motion=200)))
    assert [made.is_old for made in other] == [False, False]
    assert [made.path and made.path.name for made in other] == ["a-seed0-2.mp4", "b-seed1-2.mp4"]
    assert all(made.is_old for made in generate(asked(tmp_path, resume=True, motion=200)))


def test_resume_makes_what_lies_there_damaged_again_beside_it(tmp_path: Path) -> None:
    (first, _) = generate(asked(tmp_path))
    assert first.path is not None
    first.path.write_bytes(first.path.read_bytes()[:500])
    again = list(generate(asked(tmp_path, resume=True)))
    assert [made.is_old for made in again] == [False, True]
    assert again[0].path is not None and again[0].path.name == "a-seed0-2.mp4"


def test_a_still_video_is_tried_with_other_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def still_at_first(frames: object) -> bool:
        seen.append(len(seen))
        return len(seen) < 3

    monkeypatch.setattr("stillmotion.tasks.generate.is_frozen", still_at_first)
    made = next(generate(asked(tmp_path, avoid_still=5)))
    assert made.seed == 4 and made.recipe is not None and made.recipe.seed == 4
    assert len(made.notes) == 3 and "seed 0 gave a still video; trying 2." in made.notes


def test_videos_that_are_all_still_are_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillmotion.tasks.generate.is_frozen", lambda frames: True)
    made = next(generate(asked(tmp_path, avoid_still=1)))
    assert made.seed == 2
    assert "seed 2 gave a still video, too; it is kept." in made.notes


def test_a_single_frame_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillmotion.tasks.generate.is_frozen", lambda frames: pytest.fail("one frame cannot move"))
    made = next(generate(asked(tmp_path, avoid_still=3, frames=1)))
    assert made.seed == 0 and any("single frame" in note for note in made.notes)


@pytest.mark.slow
def test_a_private_run_takes_no_video_that_holds_the_image(tmp_path: Path) -> None:
    list(generate(asked(tmp_path)))
    again = list(generate(asked(tmp_path, resume=True, private=True)))
    assert not any(made.is_old for made in again)
    assert all(made.recipe is not None and made.recipe.image.webp is None for made in again)
    assert all(made.is_old for made in generate(asked(tmp_path, resume=True, private=True)))


def test_a_plan_says_that_a_size_is_off_the_trainings(tmp_path: Path) -> None:
    assert any("off the sizes" in note for note in plan(asked(tmp_path)).notes)


@pytest.mark.slow
def test_with_a_second_a_folder_of_videos_is_one_of_pictures(tmp_path: Path) -> None:
    assert all(made.path is not None for made in generate(asked(tmp_path, output=tmp_path / "films")))
    folder = {"image": str(tmp_path / "films"), "output": tmp_path / "out"}
    assert len(plan(dataclasses.replace(asked(tmp_path), at=0.1, **folder)).request.sources) == 2
    with pytest.raises(UsageError, match="holds no image"):
        plan(dataclasses.replace(asked(tmp_path), **folder))


def test_a_list_of_levels_decides_the_calls(tmp_path: Path) -> None:
    planned = plan(asked(tmp_path, sigmas="10,1,0", steps=5))
    assert planned.cost.model_calls == 2 and any("--steps changes nothing" in note for note in planned.notes)
    with pytest.raises(ConfigError, match="sigmas"):
        plan(asked(tmp_path, sigmas="10,,0"))


def test_an_existing_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    target = tmp_path / "one.mp4"
    target.write_bytes(b"mine")
    image = str(tmp_path / "in" / "a.png")
    with pytest.raises(UsageError, match="--force"):
        list(generate(dataclasses.replace(asked(tmp_path, output=target), image=image)))
    assert target.read_bytes() == b"mine"
    list(generate(dataclasses.replace(asked(tmp_path, output=target, force=True), image=image)))
    assert target.read_bytes() != b"mine"


@pytest.mark.slow
def test_auto_takes_the_trained_size_of_each_images_shape(tmp_path: Path) -> None:
    planned = plan(asked(tmp_path, size="auto", model="svd"))
    assert (planned.width, planned.height) == (768, 768)
    assert planned.request.size_of(planned.width * 3, planned.height * 2) == (1024, 576)
    assert planned.request.size_of(300, 500) == (576, 1024)
    assert planned.request.size_of(500, 480) == (768, 768)


@pytest.mark.slow
def test_auto_decodes_a_large_photograph_no_larger_than_its_own_size_needs(tmp_path: Path, monkeypatch) -> None:
    wanted = []

    def read(path, at_s, at_least, background):
        wanted.append(at_least)
        return read_picture(path, at_s, at_least, background)

    photo, settings = tmp_path / "photo.jpg", asked(tmp_path, size="auto", model="svd")
    upright = Image.Exif()
    upright[0x0112] = 6
    Image.new("RGB", (5000, 3000)).save(photo, exif=upright)
    monkeypatch.setattr("stillmotion.tasks.request.read_picture", read)
    planned = plan(dataclasses.replace(settings, image=str(photo)))
    assert wanted == [(576, 1024)] and (planned.width, planned.height) == (576, 1024)
    picture = planned.request.picture(planned.request.sources[0])
    assert picture.whole == (3000, 5000) and picture.fitted.startswith("3000x5000 ")


@pytest.mark.slow
def test_a_size_off_the_trainings_is_said(tmp_path: Path) -> None:
    made = next(generate(asked(tmp_path)))
    assert made.notes == ("64x64 is off the sizes that tiny was trained at: 128x80.",)
    assert next(generate(asked(tmp_path, size=None))).notes == ()


def test_a_model_that_cannot_be_had_is_refused_before_anything_is_planned(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("stillmotion.tasks.generate.placement_for", lambda *_: pytest.fail("it was planned"))
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        next(generate(asked(tmp_path, model="svd")))


def test_no_image_and_no_recipe_is_refused() -> None:
    with pytest.raises(UsageError, match="no image"):
        plan(GenerateSettings())


def test_resuming_into_a_file_that_was_made_otherwise_is_refused_before_any_work(tmp_path: Path) -> None:
    target, image = tmp_path / "one.mp4", tmp_path / "in" / "a.png"
    wish = dataclasses.replace(asked(tmp_path, output=target, resume=True), image=str(image))
    list(generate(wish))
    assert next(generate(wish)).is_old
    stages: list[str] = []
    with pytest.raises(UsageError, match="made otherwise"):
        list(generate(dataclasses.replace(wish, motion=7), lambda event: stages.append(event.stage)))
    assert stages == []


def test_seeds_beyond_what_a_recipe_holds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="seed"):
        plan(asked(tmp_path, seed=2**63 - 1))


@pytest.mark.slow
def test_an_option_that_the_fit_makes_no_use_of_is_said(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "one" / "a.png")
    for name, given, said in (
        ("a", {"fit": "crop", "pad_colour": "red"}, "--pad-colour changes nothing with --fit crop"),
        ("b", {"fit": "stretch", "focus": (0, 0)}, "--focus changes nothing with --fit stretch"),
        ("c", {"fit": "pad", "pad_colour": "red"}, None),
    ):
        settings = dataclasses.replace(
            asked(tmp_path, output=tmp_path / f"{name}.mp4", **given), image=str(tmp_path / "one")
        )
        (made,) = generate(settings)
        assert [note for note in made.notes if "changes nothing" in note and note.startswith(said or "-")] == [
            note for note in made.notes if "changes nothing" in note
        ]
        assert any("changes nothing" in note for note in made.notes) == (said is not None)


def test_one_image_that_is_unfit_for_the_request_does_not_stop_the_others(tmp_path: Path) -> None:
    settings = asked(tmp_path, at=0.3)
    images = [Image.new("RGB", (40, 30), (i, i, i)) for i in (0, 90)]
    for name in ("a.png", "c.png"):
        images[0].save(tmp_path / "in" / name, save_all=True, append_images=images[1:], duration=500)
    made = list(generate(settings))
    assert [each.image.name for each in made] == ["a.png", "b.png", "c.png"]
    assert [each.error is None for each in made] == [True, False, True]
    (tmp_path / "in" / "a.png").unlink()
    (tmp_path / "in" / "c.png").unlink()
    with pytest.raises(UsageError, match="one image"):
        next(generate(settings))


def test_a_format_that_no_trained_size_fits_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="60 frames a second"):
        next(generate(asked(tmp_path, model="svd-xt", size="auto", format="gif", play_fps=60)))


@pytest.mark.slow
def test_a_long_name_is_cut(tmp_path: Path) -> None:
    image = tmp_path / f"{'猫' * 83}.png"
    Image.new("RGB", (40, 30)).save(image)
    values = {"steps": 1, "frames": 1, "size": (32, 32), "dtype": "float32", "output": tmp_path / "out"}
    made = [next(generate(GenerateSettings(image=str(image), **values))) for _ in range(2)]  # type: ignore[arg-type]
    names = [each.path.name for each in made if each.path is not None and each.path.exists()]
    assert [name.lstrip("猫") for name in names] == ["-seed0.mp4", "-seed0-2.mp4"]


@pytest.mark.slow
def test_resume_makes_anew_what_other_weights_of_one_name_made(tmp_path: Path) -> None:
    for place, kept in (("a", 1.0), ("b", 0.5)):
        loaded = load("tiny")
        with torch.no_grad():
            loaded.components.unet.conv_out.weight.mul_(kept)
        save(loaded.components, loaded.preset, tmp_path / place / "model", "diffusers")
    makes = [
        [made.is_old for made in generate(asked(tmp_path, model=str(tmp_path / place / "model"), resume=True))]
        for place in ("a", "a", "b", "b", "a")
    ]
    assert makes == [[False, False], [True, True], [False, False], [True, True], [True, True]]


def test_a_picture_too_large_for_the_recipe_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "MAX_DOCUMENT_BYTES", 8)
    assert "too large for the recipe" in " ".join(next(generate(asked(tmp_path))).notes)
    assert "too large" not in " ".join(next(generate(asked(tmp_path, private=True))).notes)


def test_hints_name_the_model_and_the_second_that_were_given() -> None:
    given = GenerateSettings(image="a b.mp4", model="svd-xt", at=2.5)
    assert cli_generate._given(given) == "'a b.mp4' --at 2.5 --model svd-xt"
    assert cli_generate._given(GenerateSettings(recipe=Path("base.mp4"))) == "--recipe base.mp4"


def test_a_file_too_large_for_an_image_is_left_to_the_video_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    assert images.upright_size(tmp_path / "a.png") == (40, 30)
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 10)
    assert images.upright_size(tmp_path / "a.png") is None
