"""Previews: on the right events, of the newest estimate, and without any trace in the frames."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from stillmotion.diffusion import guidance, samplers
from stillmotion.errors import Cancelled, UsageError
from stillmotion.events import Progress
from stillmotion.models.components import Components
from stillmotion.models.preview import LatentRGB
from stillmotion.pipelines.image_to_video import VideoSettings, animate, decode
from stillmotion.pipelines.preview import Preview
from stillmotion.placement import Placement, Stage

SMALL = VideoSettings(frames=3, steps=5)


@pytest.fixture
def stage(tiny_components: Components) -> Stage:
    return Stage(tiny_components, Placement(device="cpu", dtype="float32"))


def image(count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 8, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (99, [5]), (None, [])])
def test_every_so_many_steps_and_the_last(stage: Stage, every: int | None, expected: list[int]) -> None:
    events: list[Progress] = []
    animate(stage, image(), SMALL, [1], events.append, every)
    shown = [event for event in events if event.preview is not None]
    assert [event.done for event in shown] == expected
    assert all(event.stage == "denoise" and event.preview.shape == (3, 4, 6, 3) for event in shown)  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [samplers.Euler(churn=5.0), samplers.Heun(), samplers.DPMPP2SAncestral()])
@pytest.mark.parametrize("guider", [guidance.Unguided(), guidance.Linear()])
def test_the_frames_are_the_same_with_and_without(
    stage: Stage, sampler: samplers.Sampler, guider: guidance.Guider
) -> None:
    settings = dataclasses.replace(SMALL, sampler=sampler, guider=guider)
    without = animate(stage, image(2), settings, [1, 2])
    assert torch.equal(without, animate(stage, image(2), settings, [1, 2], lambda event: None, 1))


def test_the_last_preview_is_of_the_latents_that_are_decoded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def decoded(stage: Stage, latents: torch.Tensor, *others: object) -> torch.Tensor:
        seen.append(latents)
        return decode(stage, latents, *others)  # type: ignore[arg-type]

    monkeypatch.setattr("stillmotion.pipelines.image_to_video.decode", decoded)
    maps: list[LatentRGB] = []
    take = Preview.__init__

    def noted(self: Preview, each: list[LatentRGB], every: int = 1) -> None:
        maps.extend(each)
        take(self, each, every)

    monkeypatch.setattr(Preview, "__init__", noted)
    events: list[Progress] = []
    animate(stage, image(), SMALL, [1], events.append, 5)
    last = next(event.preview for event in events if event.preview is not None)
    assert last is not None
    np.testing.assert_allclose(last.astype(int), maps[0].frames(seen[0])[0].astype(int), atol=1)


def test_each_video_has_a_map_of_its_own() -> None:
    black = LatentRGB(torch.zeros(3, 4), torch.full((3,), -1.0))
    white = LatentRGB(torch.zeros(3, 4), torch.full((3,), 1.0))
    preview = Preview([black, white])
    assert preview.newest() is None and preview.after(1, 1) is None
    preview.remembering(lambda x, sigma: x + sigma)(torch.zeros(2, 3, 4, 5, 6), torch.tensor(1.0))
    shown = preview.newest()
    assert shown is not None and shown.shape == (2, 3, 5, 6, 3)
    assert (shown[0] == 0).all() and (shown[1] == 255).all()


def test_a_watch_may_stop_at_a_preview(stage: Stage) -> None:
    def stop(event: Progress) -> None:
        if event.preview is not None:
            raise Cancelled("seen enough.")

    with pytest.raises(Cancelled):
        animate(stage, image(), SMALL, [1], stop, 2)


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2"])
def test_a_number_of_steps_is_asked_for(stage: Stage, every: object) -> None:
    with pytest.raises(UsageError, match="expected a whole number of at least 1"):
        animate(stage, image(), SMALL, [1], lambda event: pytest.fail("work began"), every)  # type: ignore[arg-type]
