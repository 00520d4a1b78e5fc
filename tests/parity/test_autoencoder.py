"""Our autoencoder behind diffusers' face gives what diffusers' gives, on random shapes and weights."""

from __future__ import annotations

import random
from typing import Any

import diffusers
import pytest
import torch

from stillmotion.diffusers_api import AutoencoderKLTemporalDecoder

SHARE = 1e-5  # of the output's standard deviation
CONFIGURATIONS = 30
QUICK = 2


def drawn_config(draw: random.Random) -> dict[str, Any]:
    levels = draw.randint(1, 3)
    return {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "block_out_channels": tuple(draw.choice([32, 64, 96]) for _ in range(levels)),
        "layers_per_block": draw.choice([1, 2, 3]),
        "latent_channels": draw.choice([4, 4, 8, 3]),
        "sample_size": draw.choice([32, 64]),
        "scaling_factor": draw.choice([0.18215, 0.13025]),
        "force_upcast": draw.random() < 0.5,
    }


def pair(config: dict[str, Any], seed: int, share_weights):
    ours = AutoencoderKLTemporalDecoder(**config)
    theirs = diffusers.AutoencoderKLTemporalDecoder(**config)
    share_weights(ours, theirs, seed)
    return ours, theirs


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] if seed >= QUICK else []) for seed in range(CONFIGURATIONS)]
)
def test_autoencoder_equals_diffusers(seed, share_weights, in_double, check_close):
    draw, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    config = drawn_config(draw)
    ours, theirs = pair(config, seed, share_weights)
    exact = in_double(theirs)
    unit = 2 ** (len(config["block_out_channels"]) - 1)
    height, width = (unit * draw.choice([3, 4, 5]) for _ in range(2))
    images = torch.rand(draw.choice([1, 2, 3]), 3, height, width, generator=noise) * 2 - 1
    videos, frames = draw.choice([(1, 1), (1, 2), (2, 3), (1, 5)])
    size = height // unit, width // unit
    latents = torch.randn(videos * frames, config["latent_channels"], *size, generator=noise)
    with torch.no_grad():
        found, expected = ours.encode(images).latent_dist, theirs.encode(images).latent_dist
        double = exact.encode(images.double()).latent_dist
        check_close(f"encoder {seed}", found.mode(), expected.mode(), double.mode(), SHARE)
        check_close(f"log-variance {seed}", found.logvar, expected.logvar, double.logvar, SHARE)
        decoded = ours.decode(latents, num_frames=frames).sample
        reference = theirs.decode(latents, num_frames=frames).sample
        check_close(
            f"decoder {seed}", decoded, reference, exact.decode(latents.double(), num_frames=frames).sample, SHARE
        )


def test_forward_and_distribution_equal_diffusers(share_weights):
    config = {"block_out_channels": (32, 32), "down_block_types": ("DownEncoderBlock2D",) * 2}
    ours, theirs = pair(config, 1, share_weights)
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        found, expected = ours.encode(images).latent_dist, theirs.encode(images).latent_dist
        draws = [each.sample(torch.Generator().manual_seed(5)) for each in (found, expected)]
        torch.testing.assert_close(*draws, rtol=0, atol=2e-5)
        torch.testing.assert_close(found.kl(), expected.kl(), rtol=1e-5, atol=0)
        for samples in (False, True):
            results = [
                network(images, samples, generator=torch.Generator().manual_seed(2), num_frames=2).sample
                for network in (ours, theirs)
            ]
            torch.testing.assert_close(*results, rtol=0, atol=5e-5)
        tuples = [network(images, return_dict=False) for network in (ours, theirs)]
        assert [len(each) for each in tuples] == [1, 1]
