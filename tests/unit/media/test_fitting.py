"""Pictures take the size that a model needs, and keep what matters in sight."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from stillmotion.errors import UsageError
from stillmotion.media import fitting


def _assert_sentence(error: BaseException) -> None:
    text = str(error)
    assert "expected" in text
    assert text.endswith(".")
    assert "\n" not in text


def _ramp(width: int, height: int) -> Image.Image:
    across = np.linspace(0, 255, width).astype(np.uint8)
    return Image.fromarray(np.repeat(np.tile(across, (height, 1))[..., None], 3, axis=2))


def test_crop_covers_and_cuts_equally_from_both_ends():
    cropped = np.asarray(fitting.fit(_ramp(1000, 100), 100, 100, "crop"))[50, :, 0].astype(int)
    expected = np.linspace(0, 255, 1000)[450:550]
    assert np.abs(cropped - expected).max() <= 1


def test_pad_shows_the_whole_image_over_a_copy_that_fills_the_frame():
    image = Image.new("RGB", (200, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    padded = np.asarray(fitting.fit(image, 100, 100, "pad"))
    whole = np.asarray(image.resize((100, 50), Image.Resampling.LANCZOS))
    assert np.array_equal(padded[25:75], whole)
    assert padded[5, 5].tolist()[0] > 200  # the copy: red at the left
    assert padded[95, 95].tolist()[2] > 200
    assert 60 < padded[5, 50, 0] < 200  # and blurred where red meets blue


def test_stretch_keeps_both_ends():
    stretched = np.asarray(fitting.fit(_ramp(1000, 100), 100, 100, "stretch"))[50, :, 0]
    assert stretched[0] <= 2
    assert stretched[-1] >= 253


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (7, 5), (64, 33)])
def test_fit_works_for_any_size(mode, size):
    fitted = fitting.fit(Image.new("RGB", size, (10, 200, 90)), 64, 33, mode)
    assert fitted.size == (64, 33)
    assert np.abs(np.asarray(fitted).astype(int) - (10, 200, 90)).max() <= 1


def test_fit_refuses_what_it_cannot_do():
    image = Image.new("RGB", (2, 2))
    calls = [(image, 0, 5, "crop"), (image, 5, 5, "zoom"), (Image.new("L", (2, 2)), 5, 5, "crop")]
    calls.append((Image.new("RGB", (0, 5)), 5, 5, "crop"))
    calls += [(image, 5, 5, "crop", focus) for focus in ((-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.5))]
    calls.append((image, 5, 5, "pad", (0.5, 0.5), "no colour"))
    for arguments in calls:
        with pytest.raises(UsageError) as caught:
            fitting.fit(*arguments)
        _assert_sentence(caught.value)


def test_the_default_crop_is_that_of_pillow():
    random = np.random.default_rng(0)
    for _ in range(30):
        width, height, to_width, to_height = (int(value) for value in random.integers(1, 90, 4))
        image = Image.fromarray(random.integers(0, 256, (height, width, 3)).astype(np.uint8))
        ours = fitting.fit(image, to_width, to_height, "crop")
        theirs = ImageOps.fit(image, (to_width, to_height), Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1


@pytest.mark.parametrize(("focus", "first"), [(0.0, 0), (0.02, 0), (0.3, 250), (0.5, 450), (0.94, 890), (1.0, 900)])
def test_the_focus_is_as_near_to_the_centre_as_the_image_allows(focus, first):
    expected = np.linspace(0, 255, 1000)[first : first + 100]
    across = np.asarray(fitting.fit(_ramp(1000, 100), 100, 100, "crop", (focus, 0.2)))[50, :, 0].astype(int)
    assert np.abs(across - expected).max() <= 1
    upright = _ramp(1000, 100).transpose(Image.Transpose.TRANSPOSE)
    down = np.asarray(fitting.fit(upright, 100, 100, "crop", (0.9, focus)))[:, 50, 0].astype(int)
    assert np.abs(down - expected).max() <= 1


def test_the_focus_works_for_sizes_that_divide_by_nothing():
    random = np.random.default_rng(1)
    for _ in range(200):
        size, target = random.integers(1, 60, 2).tolist(), random.integers(1, 60, 2).tolist()
        image = Image.new("RGB", size, (10, 200, 90))
        fitted = fitting.fit(image, *target, "crop", tuple(random.choice([0.0, 0.1, 1 / 3, 1.0], 2).tolist()))
        assert fitted.size == tuple(target)
        assert np.abs(np.asarray(fitted).astype(int) - (10, 200, 90)).max() <= 1


def test_pad_over_a_colour():
    padded = np.asarray(fitting.fit(_ramp(200, 100), 100, 100, "pad", pad_colour="#102030"))
    whole = np.asarray(_ramp(200, 100).resize((100, 50), Image.Resampling.LANCZOS))
    assert np.array_equal(padded[25:75], whole)
    bars = np.concatenate([padded[:25], padded[75:]])
    assert (bars == (16, 32, 48)).all()


TRAINED = [(1024, 576), (576, 1024), (768, 768)]


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((1920, 1080), (1024, 576)),
        ((1080, 1920), (576, 1024)),
        ((1000, 1000), (768, 768)),
        ((5, 4), (768, 768)),
        ((4, 5), (768, 768)),
        ((4000, 1), (1024, 576)),
        ((1, 4000), (576, 1024)),
    ],
)
def test_the_nearest_trained_size_is_that_of_the_nearest_aspect(size, nearest):
    assert fitting.nearest_trained_size(size, TRAINED) == nearest


def test_of_equally_near_sizes_the_first_is_taken():
    assert fitting.nearest_trained_size((7, 7), [(2, 1), (1, 2)]) == (2, 1)
    assert fitting.nearest_trained_size((7, 7), [(1, 2), (2, 1)]) == (1, 2)


def test_trained_sizes_are_known():
    assert fitting.is_trained((576, 1024), TRAINED)
    assert not fitting.is_trained((1024, 1024), TRAINED)
    assert not fitting.is_trained((1024, 576), [])
    for size, trained in (((0, 5), TRAINED), ((5, 5), []), ((5, 5), [(0, 4)])):
        with pytest.raises(UsageError) as caught:
            fitting.nearest_trained_size(size, trained)
        _assert_sentence(caught.value)
