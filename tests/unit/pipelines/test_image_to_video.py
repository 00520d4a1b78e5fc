"""From an image to frames: reproducible, stoppable, and sentences for what cannot be made."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from stillmotion.conditioning import embed_image, image_latents
from stillmotion.config import parse, to_tree
from stillmotion.diffusion import guidance, samplers, sigmas
from stillmotion.diffusion.precondition import VWithEDMNoise, scalings
from stillmotion.errors import Cancelled, ConfigError, UsageError
from stillmotion.events import Progress
from stillmotion.models.components import Components
from stillmotion.pipelines.image_to_video import (
    VideoSettings,
    animate,
    decode,
    guided_denoiser,
    make_condition,
    sample_latents,
    start_scale,
)
from stillmotion.placement import Placement, Stage


@pytest.fixture
def stage(tiny_components: Components) -> Stage:
    return Stage(tiny_components, Placement(device="cpu", dtype="float32"))


def images(count: int = 1, height: int = 8, width: int = 12) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


SMALL = VideoSettings(frames=3, steps=2)


def test_the_same_seed_gives_the_same_frames_and_another_one_others(stage: Stage) -> None:
    first, second = animate(stage, images(), SMALL, [4]), animate(stage, images(), SMALL, [4])
    assert torch.equal(first, second)
    assert (first - animate(stage, images(), SMALL, [5])).abs().max() > 1e-3
    assert first.shape == (1, 3, 3, 8, 12) and first.dtype == torch.float32
    assert first.min() >= -1 and first.max() <= 1


def test_the_global_random_state_neither_matters_nor_changes(stage: Stage) -> None:
    torch.manual_seed(1)
    first = animate(stage, images(), SMALL, [4])
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    torch.manual_seed(99)
    assert torch.equal(animate(stage, images(), SMALL, [4]), first)


def test_a_video_is_the_same_in_any_batch(stage: Stage) -> None:
    settings = VideoSettings(frames=3, steps=2, sampler=samplers.EulerAncestral())
    together = animate(stage, images(3), settings, [7, 8, 9])
    for i, seed in enumerate([7, 8, 9]):
        assert torch.equal(together[i : i + 1], animate(stage, images(3)[i : i + 1], settings, [seed]))


def test_images_and_seeds_go_together(stage: Stage) -> None:
    with pytest.raises(ValueError):
        animate(stage, images(2), SMALL, [1])


@pytest.mark.parametrize("stop", range(8))
def test_cancelled_from_any_event_stops_there(stage: Stage, stop: int) -> None:
    events: list[Progress] = []

    def watch(event: Progress) -> None:
        events.append(event)
        if len(events) == stop + 1:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        animate(stage, images(), SMALL, [1], watch)
    assert len(events) == stop + 1


def test_the_events_of_a_generation(stage: Stage) -> None:
    events: list[Progress] = []
    animate(stage, images(), VideoSettings(frames=3, steps=2, chunk=2), [1], events.append)
    expected = [("encode", 0, 2), ("encode", 1, 2), ("encode", 2, 2)]
    expected += [("denoise", i, 2) for i in range(3)] + [("decode", i, 3) for i in range(4)]
    assert [(e.stage, e.done, e.total) for e in events] == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("frames", 0), ("frames", 1025), ("steps", 0), ("steps", 1001), ("fps", 0.0), ("fps", math.nan),
        ("fps", math.inf), ("motion_bucket", -1.0), ("motion_bucket", math.nan), ("noise_aug", -0.1),
        ("noise_aug", math.nan), ("chunk", 0), ("chunk", 15),
    ],
)  # fmt: skip
def test_a_setting_outside_its_range_is_named(key: str, value: Any) -> None:
    name = "motion" if key == "motion_bucket" else key
    with pytest.raises(UsageError, match=f"{name} is {value}; expected"):
        VideoSettings(**{key: value})


def test_guidance_that_is_no_number_is_named() -> None:
    with pytest.raises(ConfigError, match=r"guider\.linear.*guidance is nan"):
        parse(VideoSettings, {"guider": {"kind": "linear", "low": math.nan}})


@pytest.mark.parametrize(("height", "width"), [(9, 12), (8, 13), (1, 1)])
def test_a_size_that_does_not_fill_the_latents_is_refused(stage: Stage, height: int, width: int) -> None:
    with pytest.raises(UsageError, match=f"{width}x{height}; expected multiples of 2"):
        animate(stage, images(1, height, width), SMALL, [1])


def test_an_image_decoder_that_is_not_there_is_refused_before_any_work(stage: Stage) -> None:
    stage.components.image_decoder = None
    with pytest.raises(UsageError, match="decoder is image"):
        animate(stage, images(), VideoSettings(decoder="image"), [1], lambda event: pytest.fail("work began"))


def test_one_frame_and_one_step(stage: Stage) -> None:
    found = animate(stage, images(), VideoSettings(frames=1, steps=1), [1])
    assert found.shape == (1, 1, 3, 8, 12) and found.isfinite().all()


ALL_SAMPLERS = (
    samplers.Euler(), samplers.Euler(churn=5.0), samplers.Heun(), samplers.EulerAncestral(),
    samplers.DPMPP2SAncestral(), samplers.DPMPP2M(), samplers.LMS(),
)  # fmt: skip
ALL_GUIDERS = (
    guidance.Unguided(), guidance.Constant(scale=2.0), guidance.Linear(), guidance.Triangle(), guidance.Trapezoid()
)  # fmt: skip
ALL_SCHEDULES = (sigmas.Karras(), sigmas.AlignYourSteps(), sigmas.DDPM(), sigmas.Levels(values=(50.0, 3.0, 0.2)))
CHOICES = (
    [{"sampler": sampler} for sampler in ALL_SAMPLERS]
    + [{"guider": guider} for guider in ALL_GUIDERS]
    + [{"sigmas": schedule} for schedule in ALL_SCHEDULES]
    + [{"decoder": decoder} for decoder in ("temporal", "image")]
    + [{"chunk": chunk} for chunk in (1, 2, 3, None)]
)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_choice_runs_and_survives_being_written_down(stage: Stage, choice: dict[str, Any]) -> None:
    settings = VideoSettings(frames=3, steps=3, **choice)
    assert parse(VideoSettings, to_tree(settings)) == settings
    found = animate(stage, images(), settings, [1])
    assert found.shape == (1, 3, 3, 8, 12) and found.isfinite().all() and found.std() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("group", [ALL_SAMPLERS, ALL_GUIDERS, ALL_SCHEDULES])
def test_every_choice_makes_its_own_video(stage: Stage, group: tuple[Any, ...]) -> None:
    field = {ALL_SAMPLERS: "sampler", ALL_GUIDERS: "guider", ALL_SCHEDULES: "sigmas"}[group]
    found = [animate(stage, images(), VideoSettings(frames=5, steps=4, **{field: choice}), [1]) for choice in group]
    for i, first in enumerate(found):
        for second in found[i + 1 :]:
            assert (first - second).abs().max() > 1e-5


def test_decoders_and_chunks_differ_where_they_must(stage: Stage) -> None:
    latents = torch.randn(1, 3, 4, 4, 6)
    whole = decode(stage, latents, VideoSettings(frames=3))
    torch.testing.assert_close(whole, stage.components.autoencoder.decode(latents / 0.18215))
    assert torch.equal(whole, decode(stage, latents, VideoSettings(frames=3, chunk=3)))
    for chunk in (1, 2):
        assert torch.equal(whole, decode(stage, latents, VideoSettings(frames=3, chunk=chunk)))
    independent = decode(stage, latents, VideoSettings(frames=3, chunk=2, chunked="independent"))
    assert not torch.allclose(whole, independent, atol=1e-3)
    torch.testing.assert_close(independent[:, :2], stage.components.autoencoder.decode(latents[:, :2] / 0.18215))
    assert stage.components.image_decoder is not None
    by_frame = decode(stage, latents, VideoSettings(frames=3, decoder="image"))
    torch.testing.assert_close(by_frame, stage.components.image_decoder.decode(latents / 0.18215))


def test_the_condition_draws_the_images_noise_first_and_always(stage: Stage) -> None:
    for strength in (0.0, 0.3):
        draw, twin = torch.Generator().manual_seed(6), torch.Generator().manual_seed(6)
        settings = VideoSettings(noise_aug=strength, fps=9.0, motion_bucket=33.0)
        condition = make_condition(stage, images(), settings, draw)
        noise = torch.randn(1, 3, 8, 12, generator=twin)
        assert torch.equal(draw.get_state(), twin.get_state())
        expected = image_latents(stage.components.autoencoder, images(), strength, noise)
        torch.testing.assert_close(condition.image_latents, expected)
        torch.testing.assert_close(condition.context, embed_image(stage.components.image_encoder, images()))
        assert condition.numbers.tolist() == [[8.0, 33.0, pytest.approx(strength)]]


def test_the_first_latents_are_unit_noise_times_the_first_level_over_unit_data(stage: Stage) -> None:
    levels = torch.tensor([3.0, 0.0])
    assert start_scale(levels).item() == pytest.approx(math.sqrt(10))
    seen: list[torch.Tensor] = []
    stage.components.unet.register_forward_pre_hook(lambda module, told: seen.append(told[0]))
    settings = VideoSettings(frames=3, sigmas=sigmas.Levels(values=(3.0,)))
    condition = make_condition(stage, images(), settings, torch.Generator().manual_seed(0))
    sample_latents(stage, condition, settings, torch.Generator().manual_seed(6))
    unit = torch.randn(1, 3, 4, 4, 6, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(seen[0][:1, :, :4], unit)  # c_in undoes the scale


def test_both_branches_run_in_one_batch_unconditional_first(stage: Stage) -> None:
    unet = stage.components.unet
    condition = make_condition(stage, images(), SMALL, torch.Generator().manual_seed(0))
    x, sigma = torch.randn(1, 3, 4, 4, 6), torch.tensor(2.0)
    told: list[tuple[torch.Tensor, ...]] = []
    handle = unet.register_forward_pre_hook(lambda module, inputs: told.append(inputs))
    scale = torch.tensor([1.0, 2.0, 3.0])
    found = guided_denoiser(unet, condition, scale)(x, sigma)
    handle.remove()
    (inputs, c_noise, context, numbers) = told[0]
    assert len(told) == 1 and inputs.shape[0] == 2
    assert not inputs[0, :, 4:].any() and not context[0].any()
    torch.testing.assert_close(c_noise, torch.full((2,), math.log(2) / 4))
    torch.testing.assert_close(inputs[1, :, 4:], condition.image_latents[0].expand(3, -1, -1, -1))
    assert torch.equal(context[1:], condition.context) and torch.equal(numbers[0], numbers[1])
    level = scalings(VWithEDMNoise(), sigma)
    outputs = [
        unet(part.beside(level.c_in * x), level.c_noise[None], part.context, part.numbers)
        for part in (condition.unconditional(), condition)
    ]
    base, towards = (level.c_skip * x + level.c_out * output for output in outputs)
    torch.testing.assert_close(found, base + scale[:, None, None, None] * (towards - base), rtol=1e-4, atol=1e-4)


def test_no_guidance_runs_one_branch(stage: Stage) -> None:
    sizes: list[int] = []
    stage.components.unet.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    animate(stage, images(), VideoSettings(frames=3, steps=2, guider=guidance.Unguided()), [1])
    animate(stage, images(), VideoSettings(frames=3, steps=2), [1])
    assert sizes == [1, 1, 2, 2]


def test_fewer_seeds_than_images_are_refused_before_any_work(stage: Stage) -> None:
    seen: list[Progress] = []
    with pytest.raises(UsageError, match="1 seeds were given for 2 images"):
        animate(stage, images(2), SMALL, [1], seen.append)
    assert seen == []
