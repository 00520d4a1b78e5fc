"""The map from latents to colours: found exactly where one exists, good on the embedded model, calm on flat images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stillmotion.checkpoints.load import load
from stillmotion.errors import UsageError
from stillmotion.media.fitting import fit
from stillmotion.media.images import read_image
from stillmotion.media.pixels import to_pixels
from stillmotion.models.autoencoder import Autoencoder
from stillmotion.models.preview import LatentRGB, fit_latent_rgb

ROCKET = Path(__file__).parents[3] / "examples" / "rocket.jpg"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    return load("tiny", dtype=torch.float32).components.autoencoder


def photograph(*, width: int = 128, focus: tuple[float, float] = (0.5, 0.5)) -> torch.Tensor:
    return to_pixels([fit(read_image(ROCKET), width, 80, "crop", focus=focus)])


def test_a_linear_relation_is_found() -> None:
    weight, bias = torch.randn(3, 5, generator=generator()) / 3, torch.tensor([0.1, -0.2, 0.3])
    latents = torch.randn(2, 5, 20, 30, generator=generator(1))
    colours = torch.einsum("kc,nchw->nkhw", weight, latents) + bias[:, None, None]
    found = fit_latent_rgb(latents, F.interpolate(colours, scale_factor=4))
    torch.testing.assert_close(found.weight, weight, atol=4e-3, rtol=1e-2)
    torch.testing.assert_close(found.bias, bias, atol=1e-3, rtol=0)


def test_the_fit_is_that_of_numpy_least_squares_with_the_ridge_as_rows() -> None:
    latents = torch.randn(1, 4, 6, 7, generator=generator())
    images = torch.rand(1, 3, 12, 14, generator=generator(1)) * 2 - 1
    found = fit_latent_rgb(latents, images)
    inputs = latents[0].flatten(1).T.double().numpy()
    targets = images[0].reshape(3, 6, 2, 7, 2).mean((2, 4)).flatten(1).T.double().numpy()
    ridge = np.sqrt(5e-3 * len(inputs)) * np.eye(4)
    rows = np.vstack([np.column_stack([inputs, np.ones(len(inputs))]), np.column_stack([ridge, np.zeros(4)])])
    expected, *_ = np.linalg.lstsq(rows, np.vstack([targets, np.zeros((4, 3))]), rcond=None)
    np.testing.assert_allclose(found.weight.numpy(), expected[:4].T, atol=1e-6)
    np.testing.assert_allclose(found.bias.numpy(), expected[4], atol=1e-6)


def test_bytes_are_rounded_clamped_and_never_an_error() -> None:
    identity = LatentRGB(torch.eye(3), torch.zeros(3))
    values = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0, torch.nan])
    frames = identity.frames(values.reshape(1, 1, 1, 1, -1).expand(1, 1, 3, 1, -1))
    assert frames.shape == (1, 1, 1, 6, 3) and frames.dtype == np.uint8
    assert frames[0, 0, 0, :, 1].tolist() == [0, 0, 128, 255, 255, 128]


def test_channels_and_pixels_keep_their_places() -> None:
    to_rgb = LatentRGB(torch.tensor([[0.0, 0.5], [1.0, 0.0], [0.0, 0.0]]), torch.tensor([0.0, 0.0, -1.0]))
    latents = torch.zeros(2, 3, 2, 4, 5)
    latents[1, 2, 0, 3, 1] = 1.0
    frames = to_rgb.frames(latents)
    assert frames[1, 2, 3, 1].tolist() == [128, 255, 0]
    frames[1, 2, 3, 1] = (128, 128, 0)
    assert (frames == (128, 128, 0)).all()


def explained(to_rgb: LatentRGB, latents: torch.Tensor, image: torch.Tensor) -> float:
    """The share of the variance of the colours (R squared) that a map finds from latents."""
    truth = F.avg_pool2d(image, image.shape[-1] // latents.shape[-1])
    missed = (to_rgb.pixels(latents)[:, 0] - truth).square().sum()
    return float(1 - missed / (truth - truth.mean((2, 3), keepdim=True)).square().sum())


def test_the_embedded_models_latents_are_nearly_linear_in_colour(autoencoder: Autoencoder) -> None:
    own, other = photograph(), photograph(width=64, focus=(0.8, 0.5))
    with torch.inference_mode():
        latents = [autoencoder.encode(each[:, None]).mean * autoencoder.cfg.scaling_factor for each in (own, other)]
    to_rgb = fit_latent_rgb(latents[0][:, 0], own)
    assert explained(to_rgb, latents[0], own) > 0.85
    assert explained(to_rgb, latents[1], other) > 0.7


def test_a_preview_is_near_the_decoded_frame_made_small(autoencoder: Autoencoder) -> None:
    with torch.inference_mode():
        image = photograph()
        latents = autoencoder.encode(image[:, None]).mean
        decoded = F.avg_pool2d(autoencoder.decode(latents)[:, 0], autoencoder.cfg.downsampling)
        scaled = latents * autoencoder.cfg.scaling_factor
        found = fit_latent_rgb(scaled[:, 0], image).pixels(scaled)[:, 0]
    assert -10 * ((found - decoded) / 2).square().mean().log10() > 28


@pytest.mark.parametrize("colour", [-1.0, 0.0, 0.7])
def test_a_flat_image_gives_a_calm_map(autoencoder: Autoencoder, colour: float) -> None:
    image = torch.full((1, 3, 64, 64), colour)
    with torch.inference_mode():
        latents = autoencoder.encode(image[:, None]).mean * autoencoder.cfg.scaling_factor
    found = fit_latent_rgb(latents[:, 0], image)
    assert (found.pixels(latents) - colour).abs().max() < 0.05
    assert found.weight.abs().max() < 1


@pytest.mark.parametrize(
    ("latents", "images"),
    [((1, 4, 4, 4), (2, 3, 32, 32)), ((1, 4, 4, 4), (1, 4, 32, 32)), ((1, 4, 4, 4), (1, 3, 33, 32)),
     ((1, 4, 4, 4), (1, 3, 32, 30)), ((0, 4, 4, 4), (0, 3, 32, 32))],
)  # fmt: skip
def test_latents_that_are_not_the_images_are_refused(latents: tuple[int, ...], images: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"were given with images .*; expected"):
        fit_latent_rgb(torch.zeros(latents), torch.zeros(images))
