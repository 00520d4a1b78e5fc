"""The recipe: what goes in comes out, and nothing that a stranger writes gets further than one sentence."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stillmotion.diffusion.guidance import Triangle
from stillmotion.diffusion.samplers import Heun
from stillmotion.diffusion.sigmas import Levels
from stillmotion.errors import ConfigError, StillmotionError, UsageError
from stillmotion.media.document import MAX_DOCUMENT_BYTES
from stillmotion.media.formats import Encoding
from stillmotion.pipelines.image_to_video import VideoSettings
from stillmotion.recipe import (
    FramesRecord,
    PlanRecord,
    Recipe,
    image_record,
    model_record,
    parse_recipe,
    picture_of,
    pixels_sha256,
    read_recipe,
    versions,
)


def picture(width: int = 24, height: int = 16) -> Image.Image:
    noise = np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise)


def recipe(**given: Any) -> Recipe:
    frames = np.zeros((3, 16, 24, 3), np.uint8)
    usual: dict[str, Any] = {
        "model": model_record("tiny", "a" * 64),
        "image": image_record("größe 猫.jpg", picture()),
        "fit": "crop",
        "video": VideoSettings(sampler=Heun(), guider=Triangle(low=1, high=3), sigmas=Levels(values=(9.5, 1.0))),
        "seed": 2**63 - 1,
        "play_fps": 23.976,
        "encoding": Encoding(format="webm", ping_pong=True),
        "plan": PlanRecord(device="cuda:1", dtype="float16", offload="model", threads=7),
        "versions": versions(),
        "frames": FramesRecord(count=3, width=24, height=16, sha256=pixels_sha256(frames)),
    }
    return Recipe(**usual | given)


def test_a_recipe_survives_the_way_through_its_document() -> None:
    made = recipe()
    again = parse_recipe(made.to_json())
    assert again == made
    assert again.to_json() == made.to_json()
    assert "größe 猫.jpg" in made.to_json()


def test_a_recipe_of_an_earlier_release_is_read() -> None:
    tree = json.loads(recipe().to_json())
    del tree["fitting"], tree["plan"]["savings"]
    assert parse_recipe(json.dumps(tree)) == recipe()


def test_the_document_is_plain_json_without_a_clock() -> None:
    tree = json.loads(recipe().to_json())
    assert (tree["schema"], tree["version"]) == ("stillmotion/recipe", 1)
    assert not [key for key in _keys(tree) if "time" in key or "date" in key]


def test_the_picture_inside_is_exact() -> None:
    inside = picture_of(recipe())
    assert inside is not None and np.array_equal(np.asarray(inside), np.asarray(picture()))


def test_a_private_picture_is_not_inside() -> None:
    record = image_record("a.png", picture(), keep_pixels=False)
    assert record.webp is None and record.sha256 == pixels_sha256(np.asarray(picture())[None])
    assert picture_of(recipe(image=record)) is None


def test_a_picture_too_large_for_a_document_is_left_out() -> None:
    assert image_record("noise.png", picture(1400, 1000)).webp is None


@pytest.mark.parametrize("damage", ["another picture", "another size", "no webp", "no base64", "a bomb"])
def test_a_picture_that_is_not_what_the_recipe_says_is_refused(damage: str) -> None:
    record = image_record("a.png", picture())
    other = {
        "another picture": image_record("b.png", picture().transpose(Image.Transpose.ROTATE_180)).webp,
        "another size": image_record("b.png", picture(16, 24)).webp,
        "no webp": base64.b64encode(b"RIFF____WEBPVP8 nonsense").decode(),
        "no base64": "*" * 40,
        "a bomb": _webp_of_16000_square(),
    }[damage]
    with pytest.raises(ConfigError, match="damaged"):
        picture_of(recipe(image=dataclasses.replace(record, webp=other)))


def test_names_never_hold_paths(tmp_path: Path) -> None:
    folder = tmp_path / "my model (1)"
    folder.mkdir()
    for source in (str(folder), "stabilityai/stable-video-diffusion-img2vid", "tiny"):
        record = model_record(source, "0" * 64)
        assert str(tmp_path) not in record.name
        assert parse_recipe(recipe(model=record).to_json()).model == record
    assert image_record("../../etc/passwd", picture()).name == ".._.._etc_passwd"
    parse_recipe(recipe(image=image_record("\x00\n/", picture())).to_json())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "comfy/workflow"}, "schema"),
        ({"version": 2}, "version"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"play_fps": 0}, "play_fps"),
        ({"extra": 1}, "extra"),
        ({"model": {"kind": "local", "name": "../../secret", "tensors_sha256": "a" * 64}}, "model"),
        ({"model": {"kind": "local", "name": "/etc", "tensors_sha256": "a" * 64}}, "model"),
        ({"model": {"kind": "preset", "name": "tiny", "tensors_sha256": "short"}}, "model"),
        ({"image": {"name": "a/b", "sha256": "a" * 64}}, "image"),
        ({"video": {"frames": 10**9}}, "frames"),
        ({"video": {"steps": "many"}}, "steps"),
        ({"plan": {"device": "cpu; rm", "dtype": "float32", "offload": "none", "threads": 1}}, "plan"),
        ({"plan": {"device": "cpu", "dtype": "float32", "offload": "none", "threads": 10**6}}, "plan"),
        ({"frames": {"count": 1, "width": 10**6, "height": 1, "sha256": "a" * 64}}, "frames"),
        ({"versions": {str(i): "1" for i in range(51)}}, "versions"),
        ({"draws": "numpy"}, "draws"),
        ({"fitting": {"focus": [0.5, 1.5]}}, "focus"),
        ({"fitting": {"focus": [0.5]}}, "focus"),
        ({"fitting": {"background": ""}}, "background"),
        ({"fitting": {"at": -1}}, "at"),
        ({"fitting": {"at": "Infinity"}}, "at"),
        ({"fitting": {"pad_colour": "x" * 51}}, "pad_colour"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_it(change: dict[str, Any], said: str) -> None:
    tree = json.loads(recipe().to_json()) | change
    with pytest.raises(ConfigError, match=said):
        parse_recipe(json.dumps(tree))


@pytest.mark.parametrize(
    "document",
    ["", "null", "[]", "3", '"recipe"', "{", "{}", '{"schema": NaN}', "[" * 100_000, "\ud800", "9" * 10_000],
)
def test_what_is_no_recipe_is_one_sentence(document: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_recipe(document)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_ten_megabytes_are_refused_before_they_are_parsed(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    path.write_text('{"schema": "' + "x" * 10_000_000 + '"}')
    with pytest.raises(ConfigError, match="larger than 4 MiB"):
        read_recipe(path)
    with pytest.raises(ConfigError, match="larger than 4 MiB"):
        parse_recipe(" " * (MAX_DOCUMENT_BYTES + 1))


def test_a_million_wrong_values_make_a_short_sentence() -> None:
    tree = json.loads(recipe().to_json()) | {f"key{i}": i for i in range(20_000)}
    with pytest.raises(ConfigError) as caught:
        parse_recipe(json.dumps(tree))
    assert len(str(caught.value)) < 1000


def test_a_json_file_is_a_recipe_too(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(recipe().to_json(), encoding="utf-8")
    assert read_recipe(path) == recipe()
    with pytest.raises(UsageError, match="cannot be read"):
        read_recipe(tmp_path / "missing.json")
    (tmp_path / "latin.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_recipe(tmp_path / "latin.json")


@pytest.mark.slow
def test_mutated_recipes_are_recipes_or_one_typed_error() -> None:
    """A tenth of the figure; the rest runs with the figures."""
    mutate_recipes(range(1000))


def mutate_recipes(seeds: range) -> None:
    """Break a good document in many ways; anything but a StillmotionError or a recipe is a failure."""
    good = recipe().to_json()
    for seed in seeds:
        document = _mutated(good, random.Random(seed))
        try:
            made = parse_recipe(document)
            picture_of(made)
        except StillmotionError as error:
            assert "\n" not in str(error)


def _mutated(document: str, rng: random.Random) -> str:
    if rng.random() < 0.5:
        text = list(document)
        for _ in range(rng.randint(1, 8)):
            place = rng.randrange(len(text))
            text[place : place + rng.randint(0, 3)] = rng.choice(['"', "{", "]", "0", "-1e999", "é", "\\u0000", ""])
        return "".join(text)
    tree = json.loads(document)
    for _ in range(rng.randint(1, 3)):
        branch = tree
        while True:
            key = rng.choice(list(branch))
            if not isinstance(branch[key], dict) or not branch[key] or rng.random() < 0.2:
                break
            branch = branch[key]
        odd = [None, -1, 0, 2**70, 1e308, "", "../../x", "x" * 5000, [], {}, [[]], True, "\x00", {"kind": "levels"}]
        branch[key] = rng.choice(odd)
    return json.dumps(tree)


def _keys(tree: Any) -> list[str]:
    if isinstance(tree, dict):
        return [*tree, *(key for value in tree.values() for key in _keys(value))]
    return []


def _webp_of_16000_square() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (16000, 1000)).save(buffer, "WEBP", lossless=True)
    return base64.b64encode(buffer.getvalue()).decode()
