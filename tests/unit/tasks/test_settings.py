"""The one schema: what a person may write, and which of the model's defaults fill the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from stillmotion.config import parse, to_tree
from stillmotion.diffusion.guidance import Constant, Linear, Trapezoid, Triangle, Unguided
from stillmotion.diffusion.samplers import DPMPP2M, Heun
from stillmotion.diffusion.sigmas import AlignYourSteps, Karras, Levels
from stillmotion.errors import ConfigError, UsageError
from stillmotion.media.formats import Encoding
from stillmotion.presets import SVD, SVD_XT, TINY
from stillmotion.tasks.settings import GenerateSettings, encoding_of, video_settings


def settings(**given: object) -> GenerateSettings:
    return parse(GenerateSettings, {"image": "a.jpg", **given})


def test_empty_places_take_the_models_own_defaults() -> None:
    svd, xt = (video_settings(settings(), preset) for preset in (SVD, SVD_XT))
    assert (svd.frames, svd.steps, svd.guider) == (14, 25, Linear(low=1.0, high=2.5))
    assert (xt.frames, xt.steps, xt.guider) == (25, 30, Linear(low=1.5, high=3.0))
    assert svd.sigmas == Karras(sigma_min=0.002, sigma_max=700.0, rho=7.0)
    assert (svd.fps, svd.motion_bucket, svd.noise_aug) == (7.0, 127.0, 0.02)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8GB", 8 * 10**9),
        ("900 MB", 900 * 10**6),
        ("7.5GiB", 15 * 2**29),
        ("512kib", 512 * 2**10),
        ("auto", "auto"),
        ("recipe", "recipe"),
        (5 * 10**9, 5 * 10**9),
        (None, None),
    ],
)
def test_memory_is_read_with_its_unit(text: object, expected: object) -> None:
    assert settings(memory=text).memory == expected


@pytest.mark.parametrize(
    "text", ["8", "8G", "GB", "-1GB", "1e9B", "inf GB", "", "8GBB", "0GB", 0, -5, 1.5, True, "٣GB"]
)
def test_memory_that_means_nothing_is_refused(text: object) -> None:
    with pytest.raises(ConfigError, match="memory"):
        settings(memory=text)


def test_what_is_given_wins_also_where_it_is_zero() -> None:
    video = video_settings(settings(motion=0, noise_aug=0, frames=3, guidance="2:4"), TINY)
    assert (video.motion_bucket, video.noise_aug, video.frames) == (0, 0, 3)
    assert video.guider == Linear(low=2, high=4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", Constant(scale=3)),
        ("triangle", Triangle(low=1, high=3)),
        ("trapezoid", Trapezoid(low=1, high=3)),
        ("none", Unguided()),
    ],
)
def test_guiders_by_name(name: str, expected: object) -> None:
    assert video_settings(settings(guider=name, guidance="1:3"), TINY).guider == expected


def test_text_from_a_terminal_becomes_typed_values() -> None:
    made = settings(size="1024x576", sampler="heun", sigmas="ays", seed="7", motion="180")
    assert (made.size, made.sampler, made.sigmas, made.seed, made.motion) == (
        (1024, 576),
        Heun(),
        AlignYourSteps(),
        7,
        180,
    )
    assert settings(sigmas="700,20,1").sigmas == Levels(values=(700, 20, 1))
    assert settings(sampler={"kind": "dpmpp-2m"}).sampler == DPMPP2M()


def test_settings_survive_the_way_through_plain_values() -> None:
    made = settings(size="64x48", sampler="heun", sigmas="5,1", guidance="1:2")
    assert parse(GenerateSettings, to_tree(made)) == made


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", "64"),
        ("size", "axb"),
        ("guidance", "1"),
        ("sampler", "magic"),
        ("seed", -1),
        ("count", 0),
        ("fit", "cut"),
    ],
)
def test_errors_name_the_field(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        settings(**{field: value})


def test_the_file_chooses_the_format_and_a_recipe_the_rest(tmp_path: Path) -> None:
    base = Encoding(format="mov", codec="prores-4444", quality=70, ping_pong=True)
    assert encoding_of(settings(), None) == Encoding(format="mp4")
    assert encoding_of(settings(codec="vp9"), None).format == "webm"
    assert encoding_of(settings(), tmp_path / "a.gif").format == "gif"
    assert encoding_of(settings(), None, base) == base
    assert encoding_of(settings(), tmp_path / "a.mov", base) == base
    assert encoding_of(settings(), tmp_path / "a.webm", base) == Encoding(format="webm", quality=70, ping_pong=True)
    assert encoding_of(settings(format="webp", quality=5), None, base).format == "webp"
    with pytest.raises(UsageError):
        encoding_of(settings(format="gif"), tmp_path / "a.mp4")
