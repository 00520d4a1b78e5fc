"""Images reach both encoders as in diffusers, and where diffusers refuses or mistreats them, rightly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as reference
from PIL import Image

from stillmotion.diffusers_api.media import pictures, stretched, to_signed
from stillmotion.models.image_encoder import clip_pixels

SIZES = [(64, 48), (224, 224), (300, 500), (1024, 576), (100, 700), (225, 223)]


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, channels), dtype=np.uint8)
    small = Image.fromarray(values.squeeze(2) if channels == 1 else values)
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_clip_input_equals_diffusers(width, height, pipelines, in_double, check_close):
    _, theirs = pipelines(0)
    image = picture(width, height)

    def theirs_at(dtype: torch.dtype) -> torch.Tensor:
        values = theirs.video_processor.numpy_to_pt(theirs.video_processor.pil_to_numpy(image)).to(dtype)
        small = (reference._resize_with_antialiasing(values * 2 - 1, (224, 224)) + 1) / 2
        mean, std = (torch.tensor(each, dtype=dtype)[:, None, None] for each in _statistics(theirs))
        return (small - mean) / std

    found = clip_pixels(to_signed(image))
    check_close(f"clip input {width}x{height}", found, theirs_at(torch.float32), theirs_at(torch.float64), 1e-5)


def _statistics(pipe) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(pipe.feature_extractor.image_mean), tuple(pipe.feature_extractor.image_std)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_image_embedding_equals_diffusers(width, height, pipelines, in_double, check_close):
    ours, theirs = pipelines(0)
    image = picture(width, height)
    with torch.no_grad():
        found = ours._embed(pictures(image))
        expected = theirs._encode_image(image, "cpu", 1, False)
        float32, theirs.image_encoder = theirs.image_encoder, in_double(theirs.image_encoder)
        try:
            exact = theirs._encode_image(image, "cpu", 1, False)
        finally:
            theirs.image_encoder = float32
    check_close(f"image embedding {width}x{height}", found, expected, exact, 1e-5)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_autoencoder_input_equals_diffusers(width, height, pipelines, check_close):
    _, theirs = pipelines(0)
    image = picture(width, height)
    expected = theirs.video_processor.preprocess(image, height=64, width=96)
    check_close("vae input", stretched(pictures(image)[0], 64, 96), expected, expected.double(), 1e-5)


def test_a_tensor_of_any_size_reaches_clip_as_its_image_does(pipelines):
    """diffusers fails unless a tensor has 224 x 224 pixels (inventory 6.2, 1)."""
    ours, theirs = pipelines(0)
    image = picture(96, 64)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        found = ours._embed(pictures(tensor))
        torch.testing.assert_close(found, ours._embed(pictures(image)), rtol=0, atol=1e-5)
        with pytest.raises(ValueError, match="224"):
            theirs._encode_image(tensor, "cpu", 1, False)


@pytest.mark.parametrize("mode", ["RGBA", "L"])
def test_transparent_and_grey_images_are_accepted(mode, pipelines):
    """diffusers fails on both (inventory 6.2, 14)."""
    _, theirs = pipelines(0)
    image = picture(40, 24, mode=mode)
    with pytest.raises((ValueError, RuntimeError)):
        theirs(image, height=32, width=32, num_inference_steps=1)
    (found,) = pictures(image)
    assert found.mode == "RGB"
    if mode == "L":
        assert np.array_equal(np.asarray(found)[..., 0], np.asarray(image))
    else:
        alpha = np.asarray(image)[..., 3:] / 255
        over_white = np.asarray(image)[..., :3] * alpha + 255 * (1 - alpha)
        assert np.abs(np.asarray(found) - over_white).max() <= 1.01


def test_every_kind_of_image_is_the_same_image():
    image = picture(24, 16)
    bytes_ = np.asarray(image)
    floats = bytes_.astype(np.float32) / 255
    tensor = torch.from_numpy(floats).permute(2, 0, 1)
    expected = to_signed(image)
    byte_tensor = torch.from_numpy(bytes_.copy()).permute(2, 0, 1)
    kinds = [image, bytes_, floats, bytes_[None], tensor, tensor[None], byte_tensor]
    for kind in [*kinds, [image], [tensor], (floats,)]:
        (found,) = pictures(kind)
        torch.testing.assert_close(to_signed(found), expected, rtol=0, atol=1e-6)
    assert len(pictures([image, tensor[None], floats])) == 3
