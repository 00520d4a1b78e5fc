"""Ours against recorded outputs of the original's own code, on a small model in the original's single-file layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stillmotion.checkpoints.load import Loaded, load
from stillmotion.conditioning import Condition, embed_image, image_latents, micro_conditions
from stillmotion.diffusion import guidance, samplers
from stillmotion.diffusion.sigmas import Karras, schedule
from stillmotion.models.image_encoder import clip_pixels
from stillmotion.pipelines.image_to_video import VideoSettings, decode, guided_denoiser, start_scale
from stillmotion.placement import Placement, Stage

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
FRAMES, STEPS = 5, 5


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load(
        GOLDEN / "svd_small.safetensors",
        config=GOLDEN / "svd_small.json",
        dtype=torch.float32,
        with_image_decoder=True,
    )


@pytest.fixture(scope="module")
def stage(loaded: Loaded) -> Stage:
    return Stage(loaded.components, Placement(device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "svd_small_io.safetensors")


@pytest.fixture(scope="module")
def condition(stage: Stage, golden: dict[str, torch.Tensor]) -> Condition:
    with torch.inference_mode():
        return Condition(
            embed_image(stage.components.image_encoder, golden["image"]),
            image_latents(stage.components.autoencoder, golden["image"], 0.02, golden["image_noise"]),
            micro_conditions(fps=7.0, motion_bucket=127.0, noise_aug=0.02, batch=1),
        )


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@torch.inference_mode()
def test_the_input_and_the_embedding_of_a_small_image(stage: Stage, golden: dict[str, torch.Tensor]) -> None:
    near(clip_pixels(golden["image"]), golden["clip_pixels"])
    near(embed_image(stage.components.image_encoder, golden["image"])[:, 0], golden["image_embeds"])


@torch.inference_mode()
def test_the_input_and_the_embedding_of_a_large_image(stage: Stage) -> None:
    large = load_file(GOLDEN / "clip_large_io.safetensors")
    image = large["image_uint8"]
    assert image.shape[-3:] == (576, 1024, 3)
    pixels = (image.reshape(576, 1024, 3).permute(2, 0, 1).float() / 127.5 - 1)[None]
    near(clip_pixels(pixels), large["clip_pixels"].reshape(1, 3, 224, 224))
    near(embed_image(stage.components.image_encoder, pixels)[:, 0], large["image_embeds"].reshape(1, -1))


@torch.inference_mode()
def test_the_moments_of_the_noised_image(stage: Stage, golden: dict[str, torch.Tensor], condition: Condition) -> None:
    noised = golden["image"] + 0.02 * golden["image_noise"]
    moments = stage.components.autoencoder.encode(noised[:, None])
    near(torch.cat([moments.mean, moments.logvar], dim=2)[:, 0], golden["image_moments"])
    near(condition.image_latents[:, 0], golden["image_moments"][:, :4])


@torch.inference_mode()
@pytest.mark.parametrize(("name", "alone"), [("unet_output", False), ("unet_output_images_only", True)])
def test_one_call_of_the_network(
    stage: Stage, golden: dict[str, torch.Tensor], condition: Condition, name: str, alone: bool
) -> None:
    images_only = torch.full((1, FRAMES), alone)
    x, c_noise = golden["unet_input"][None], golden["unet_timestep"].reshape(1)
    found = stage.components.unet(x, c_noise, condition.context, condition.numbers, images_only)
    near(found[0], golden[name])
    if not alone:
        near(stage.components.unet(x, c_noise, condition.context, condition.numbers)[0], golden[name])


def test_the_noise_levels(golden: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(schedule(Karras(), STEPS), golden["sigmas"], rtol=5e-6, atol=0)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "sampler", "guider"),
    [
        ("latents_euler", samplers.Euler(), guidance.Linear(low=1.0, high=2.5)),
        ("latents_heun", samplers.Heun(), guidance.Linear(low=1.0, high=2.5)),
        ("latents_dpmpp_2m", samplers.DPMPP2M(), guidance.Linear(low=1.0, high=2.5)),
        ("latents_euler_triangle", samplers.Euler(), guidance.Triangle(low=1.0, high=2.5)),
    ],
)
def test_sampled_latents(
    stage: Stage,
    golden: dict[str, torch.Tensor],
    condition: Condition,
    name: str,
    sampler: samplers.Euler | samplers.Heun | samplers.DPMPP2M,
    guider: guidance.Linear | guidance.Triangle,
) -> None:
    levels = schedule(Karras(), STEPS)
    denoise = guided_denoiser(stage.components.unet, condition, guidance.scales(guider, FRAMES))
    start = golden["latent_noise"][None] * start_scale(levels)
    found = samplers.sample(sampler, denoise, start, levels, lambda: pytest.fail("nothing is drawn"))
    expected = golden[name]
    near(found[0] / expected.std(), expected / expected.std(), 1e-4)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("frames_euler", VideoSettings(frames=FRAMES)),
        ("frames_euler_chunk2", VideoSettings(frames=FRAMES, chunk=2, chunked="independent")),
        ("frames_image_decoder", VideoSettings(frames=FRAMES, decoder="image")),
    ],
)
def test_decoded_frames(stage: Stage, golden: dict[str, torch.Tensor], name: str, settings: VideoSettings) -> None:
    frames = decode(stage, golden["latents_euler"][None], settings)[0]
    near(((frames + 1) / 2).clamp(0, 1), golden[name])
    if name == "frames_euler":
        assert (golden[name] - golden["frames_euler_chunk2"]).abs().max() > 1e-2
        for chunk in (1, 2):
            exact = decode(stage, golden["latents_euler"][None], VideoSettings(frames=FRAMES, chunk=chunk))[0]
            near(((exact + 1) / 2).clamp(0, 1), golden[name])
