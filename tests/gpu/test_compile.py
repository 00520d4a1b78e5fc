"""A compiled U-Net gives the same video, for a second image too."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from stillmotion.models.components import Components
from stillmotion.pipelines.image_to_video import VideoSettings, animate
from stillmotion.placement import DType, Placement, Stage

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # the compiler warns of its own insides
]

DEVICE = "cuda"
SETTINGS = VideoSettings(frames=3, steps=2)


def picture(seed: int) -> Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_compiled_unet_gives_the_same_videos(tiny_components: Components, dtype: DType) -> None:
    plain = Stage(copy.deepcopy(tiny_components), Placement(device=DEVICE, dtype=dtype))
    compiled = Stage(copy.deepcopy(tiny_components), Placement(device=DEVICE, dtype=dtype))
    torch.compiler.reset()
    compiled.components.unet.compile()
    allowed = 0.02 if dtype == "float32" else 0.1
    for seed in (0, 1):  # the second image is where the parents' pipeline failed: diffusers issue 10317
        expected = animate(plain, picture(seed), SETTINGS, [seed])
        frames = animate(compiled, picture(seed), SETTINGS, [seed])
        assert frames.isfinite().all()
        assert (frames - expected).abs().mean() < allowed * expected.abs().mean()


def test_a_compiled_unet_takes_another_number_of_frames(tiny_components: Components) -> None:
    stage = Stage(tiny_components, Placement(device=DEVICE, dtype="float32"))
    torch.compiler.reset()
    stage.components.unet.compile()
    for frames in (3, 4, 2):
        settings = VideoSettings(frames=frames, steps=1)
        assert animate(stage, picture(0), settings, [0]).shape == (1, frames, 3, 16, 16)
