"""The whole pipeline gives diffusers' frames for random arguments; where diffusers is wrong, what is right."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as reference
from PIL import Image

from stillmotion.errors import Cancelled, UsageError

# numpy 2 warns of how diffusers hands it tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")

SHARE = 1e-4  # of the frames' standard deviation
ARGUMENT_SETS = 32
QUICK = 3
AYS = [700, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0]


def picture(seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def drawn_arguments(draw: random.Random, seed: int) -> dict[str, Any]:
    """What diffusers gets right: several images only with one video each and chunks that keep videos apart."""
    frames = draw.choice([2, 3, 4])
    images, videos = draw.choice([(1, 1), (1, 1), (1, 2), (2, 1), (3, 1)])
    size = draw.choice([(40, 32), (64, 64), (25, 70)])
    many = [picture(seed + index, size) for index in range(images)]
    arguments: dict[str, Any] = {
        "image": many[0] if images == 1 and draw.random() < 0.7 else many,
        "height": draw.choice([32, 40, 64]),
        "width": draw.choice([32, 48]),
        "num_frames": draw.choice([frames, frames, None]),
        "num_inference_steps": draw.choice([1, 2, 3, 5]),
        "fps": draw.choice([7, 1, 25]),
        "motion_bucket_id": draw.choice([127, 0, 255, 180]),
        "noise_aug_strength": draw.choice([0.02, 0.0, 0.1, 1.0]),
        "num_videos_per_prompt": videos,
        "output_type": draw.choice(["np", "pt", "latent", "pil"]),
    }
    low, high = draw.choice([(1.0, 3.0), (1.0, 3.0), (1.0, 1.0), (2.0, 2.0), (0.0, 1.0), (1.5, 7.5), (3.0, 1.5)])
    arguments |= {"min_guidance_scale": low, "max_guidance_scale": high}
    if draw.random() < 0.3:
        arguments["sigmas"] = draw.choice([AYS, [700.0, 10.0, 1.0], [80.0, 3.0, 0.5, 0.0], [700.0, 0.0]])
    if draw.random() < 0.5:
        arguments["decode_chunk_size"] = draw.choice([1, 2, 8]) if images * videos == 1 else 1
    return arguments


def with_generator(arguments: dict[str, Any], kind: str, seed: int) -> dict[str, Any]:
    """Fresh draws for each run: the global generator, one for the batch, or one a video."""
    if kind == "global":
        torch.manual_seed(seed)
        return arguments
    if kind == "one":
        return arguments | {"generator": torch.Generator().manual_seed(seed)}
    images = len(arguments["image"]) if isinstance(arguments["image"], list) else 1
    videos = images * arguments["num_videos_per_prompt"]
    return arguments | {"generator": [torch.Generator().manual_seed(seed + index) for index in range(videos)]}


def halving(pipe: Any, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A callback that replaces the latents behind the first step."""
    assert set(tensors) == {"latents"}
    return {"latents": tensors["latents"] / 2} if step == 0 else tensors


def as_tensor(frames: Any) -> torch.Tensor:
    if isinstance(frames, torch.Tensor):
        return frames
    if isinstance(frames, np.ndarray):
        return torch.from_numpy(frames)
    return torch.from_numpy(np.stack([[np.asarray(image) for image in video] for video in frames])).float() / 255


@pytest.fixture
def exact_pipeline(monkeypatch):
    """diffusers' pipeline in float64, with the draws of its float32 run."""

    def make(pipe: Any) -> Any:
        drawn = reference.randn_tensor

        def in_float32(shape, generator=None, device=None, dtype=None):
            return drawn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

        monkeypatch.setattr(reference, "randn_tensor", in_float32)
        double = {name: copy.deepcopy(part) for name, part in pipe.components.items()}
        for name in ("vae", "unet", "image_encoder"):
            double[name].double()
        made = type(pipe)(**double)
        made.set_progress_bar_config(disable=True)
        return made

    return make


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] if seed >= QUICK else []) for seed in range(ARGUMENT_SETS)]
)
def test_frames_equal_diffusers(seed, pipelines, exact_pipeline, check_close, monkeypatch):
    draw = random.Random(seed)
    ours, theirs = pipelines(seed % 3)
    arguments = drawn_arguments(draw, seed)
    if "decode_chunk_size" in arguments:
        monkeypatch.setattr(ours, "chunked", "independent")
    kind = draw.choice(["global", "one", "each"])
    if draw.random() < 0.3:
        arguments["callback_on_step_end"] = halving
    if draw.random() < 0.25:
        shape = ours(**with_generator(arguments, kind, seed) | {"output_type": "latent"}).frames.shape
        arguments["latents"] = torch.randn(shape, generator=torch.Generator().manual_seed(99))
    found = ours(**with_generator(arguments, kind, seed)).frames
    expected = theirs(**with_generator(arguments, kind, seed)).frames
    assert type(found) is type(expected)
    if arguments["output_type"] == "pil":
        assert found[0][0].size == expected[0][0].size
        levels = (as_tensor(found) - as_tensor(expected)).abs() * 255
        print(f"PARITY pipeline {seed}: {levels.max():.0f} levels in {(levels > 0.5).float().mean():.1e} of the values")
        assert levels.max() < 1.5
        assert (levels > 0.5).float().mean() < 1e-2
        return
    exact = exact_pipeline(theirs)(**with_generator(arguments, kind, seed)).frames
    check_close(f"pipeline {seed}", as_tensor(found), as_tensor(expected), as_tensor(exact).double(), SHARE)


@pytest.mark.slow
def test_a_tensor_of_both_sizes_equals_diffusers(pipelines, exact_pipeline, check_close):
    """224 x 224 is the one size at which diffusers takes a tensor."""
    ours, theirs = pipelines(0)
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    arguments = {"image": image, "height": 224, "width": 224, "num_frames": 2, "num_inference_steps": 2}
    arguments |= {"output_type": "pt", "num_videos_per_prompt": 1}
    results = [pipe(**with_generator(arguments, "one", 1)).frames for pipe in (ours, theirs, exact_pipeline(theirs))]
    check_close("pipeline of a tensor", results[0], results[1], results[2].double(), SHARE)


def small(**arguments: Any) -> dict[str, Any]:
    """A cheap call, whose draws are those of one seed."""
    chosen = {"image": picture(0), "height": 32, "width": 32, "num_frames": 3, "num_inference_steps": 2}
    chosen |= {"output_type": "latent", "generator": torch.Generator().manual_seed(0)}
    return chosen | arguments


def test_several_videos_of_several_images_keep_their_own_image(pipelines):
    """diffusers gives video 1 the embedding of image 0 and the latents of image 1 (inventory 6.2, 2)."""
    ours, theirs = pipelines(0)
    images = [picture(0), picture(5)]
    latents = torch.randn(4, 3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    shared = {"noise_aug_strength": 0.0, "num_videos_per_prompt": 2}
    together = ours(**small(image=images, latents=latents, **shared)).frames
    alone = [
        ours(**small(image=image, latents=own, **shared)).frames
        for image, own in zip(images, latents.split(2), strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-3)
    wrong = theirs(**small(image=images, latents=latents, **shared)).frames
    assert (wrong[1] - together[1]).abs().max() > 0.01


def test_a_batch_gives_what_each_image_gives_with_its_generators(pipelines):
    ours, _ = pipelines(0)
    images = [picture(0), picture(5)]

    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    shared = {"num_videos_per_prompt": 2, "noise_aug_strength": 0.5}
    together = ours(**small(image=images, generator=generators(1, 2, 3, 4), **shared)).frames
    first = ours(**small(image=images[0], generator=generators(1, 2), **shared)).frames
    second = ours(**small(image=images[1], generator=generators(3, 4), **shared)).frames
    torch.testing.assert_close(together, torch.cat([first, second]), rtol=0, atol=1e-3)


def test_folders_are_exchanged_with_diffusers(pipelines, tmp_path):
    """Each loads what the other saved."""
    ours, theirs = pipelines(0)
    expected = ours(**small()).frames
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    there = type(theirs).from_pretrained(tmp_path / "ours")
    here = type(ours).from_pretrained(tmp_path / "theirs", norm_eps="diffusers")
    for pipe in (there, here):
        pipe.set_progress_bar_config(disable=True)
        torch.testing.assert_close(pipe(**small()).frames, expected, rtol=0, atol=1e-3)


def test_components_are_exchanged_with_diffusers(pipelines):
    """Our pipeline runs their networks, and theirs runs ours."""
    ours, theirs = pipelines(0)
    expected = ours(**small(output_type="pt")).frames
    for pipe in (type(ours)(**theirs.components), type(theirs)(**ours.components)):
        pipe.set_progress_bar_config(disable=True)
        torch.testing.assert_close(pipe(**small(output_type="pt")).frames, expected, rtol=0, atol=1e-3)


def test_an_autoencoder_without_frames_is_called_without_them(pipelines):
    ours, theirs = pipelines(0)
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    results = []
    for pipe in (ours, theirs):
        framewise = type(pipe)(**pipe.components | {"vae": vae})
        framewise.set_progress_bar_config(disable=True)
        results.append(framewise(**small(output_type="pt")).frames)
    torch.testing.assert_close(*results, rtol=0, atol=1e-3)


def test_one_frame_and_falling_guidance_work(pipelines):
    """diffusers decides on guidance twice, by different rules, and fails in between (inventory 6.2, 3)."""
    ours, theirs = pipelines(0)
    for arguments in ({"num_frames": 1}, {"min_guidance_scale": 3.0, "max_guidance_scale": 1.0}):
        assert ours(**small(**arguments)).frames.isfinite().all()
        with pytest.raises(RuntimeError):
            theirs(**small(**arguments))
    plain = ours(**small(num_frames=1, min_guidance_scale=1.0, max_guidance_scale=1.0)).frames
    torch.testing.assert_close(ours(**small(num_frames=1)).frames, plain)  # one frame has the first frame's scale
    falling = ours(**small(min_guidance_scale=3.0, max_guidance_scale=1.0)).frames
    assert (falling - ours(**small(max_guidance_scale=1.0)).frames).abs().max() > 0.01


def test_decoding_chunks_do_not_mix_videos(pipelines):
    """diffusers decodes the end of one video with the start of the next (inventory 6.2, 4)."""
    ours, theirs = pipelines(0)
    latents = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    changed = latents.clone()
    changed[1] += 1
    with torch.no_grad():
        kept = [ours.decode_latents(each, 3, decode_chunk_size=2)[0] for each in (latents, changed)]
        exact = ours.decode_latents(latents, 3, decode_chunk_size=1)
        mixed = [theirs.decode_latents(each, 3, decode_chunk_size=2)[0] for each in (latents, changed)]
        whole = [pipe.decode_latents(latents, 3, decode_chunk_size=3) for pipe in (ours, theirs)]
    assert torch.equal(*kept)
    assert not torch.equal(*mixed)
    torch.testing.assert_close(*whole, rtol=0, atol=1e-4)
    assert torch.equal(exact, whole[0])


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_without_a_dict_the_result_is_a_tuple(output_type, pipelines):
    """diffusers returns the frames themselves (inventory 6.2, 6)."""
    ours, _ = pipelines(0)
    result = ours(**small(output_type=output_type, return_dict=False))
    assert isinstance(result, tuple)
    assert len(result) == 1
    frames = ours(**small(output_type=output_type)).frames
    assert torch.equal(as_tensor(result[0]), as_tensor(frames))


def test_given_latents_are_cast(pipelines):
    """diffusers keeps them in their own precision, and a model of another one fails (inventory 6.2, 7)."""
    ours, theirs = pipelines(0)
    latents = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = ours(**small(latents=latents)).frames
    torch.testing.assert_close(ours(**small(latents=latents.double())).frames, expected)
    with pytest.raises(RuntimeError):
        theirs(**small(latents=latents.double()))


def test_callbacks_are_checked_and_can_stop(pipelines):
    """diffusers does not check the names, and cannot be stopped (inventory 6.2, 9)."""
    ours, _ = pipelines(0)
    with pytest.raises(UsageError, match="expected latents"):
        ours(**small(callback_on_step_end_tensor_inputs=["prompt_embeds"]))
    seen = []

    def stop(pipe, step, timestep, tensors):
        seen.append(step)
        pipe.interrupt()
        return tensors

    with pytest.raises(Cancelled):
        ours(**small(callback_on_step_end=stop, num_inference_steps=4))
    assert seen == [0]
    assert ours(**small()).frames.isfinite().all()  # the next call is not stopped
