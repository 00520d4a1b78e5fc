"""Compiled by region on CUDA: the same videos, one compilation for all, recordings that are repeated, warm caches."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stillmotion.conditioning import Condition
from stillmotion.models.compiled import Compiled
from stillmotion.models.components import Components
from stillmotion.models.unet import UNet
from stillmotion.pipelines.image_to_video import VideoSettings, animate, guided_denoiser
from stillmotion.placement import DType, Offload, Placement, Stage

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # the compiler warns of its own insides
]

DEVICE = "cuda"
SETTINGS = VideoSettings(frames=3, steps=2)


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test starts without compiled code, in a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch.compiler.reset()


def picture(seed: int, side: int = 16) -> Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("offload", ["none", "model"])
def test_compiled_regions_give_the_same_videos(tiny_components: Components, dtype: DType, offload: Offload) -> None:
    plain, compiled = (
        Stage(copy.deepcopy(tiny_components), Placement(device=DEVICE, dtype=dtype, offload=offload, compile=kind))
        for kind in ("off", "region")
    )
    allowed, seen = 0.02 if dtype == "float32" else 0.1, []
    for seed in (0, 1):  # the second image is where the parents' pipeline failed: diffusers issue 10317
        expected = animate(plain, picture(seed), SETTINGS, [seed])
        frames = animate(compiled, picture(seed), SETTINGS, [seed])
        assert frames.isfinite().all()
        assert (frames - expected).abs().mean() < allowed * expected.abs().mean()
        seen.append(graphs())
    assert compiled.runs_compiled == "region"
    assert seen[0] > 0 and seen[1] == seen[0]


def test_another_number_of_frames_and_another_size_need_no_compilation(tiny_components: Components) -> None:
    stage = Stage(tiny_components, Placement(device=DEVICE, dtype="bfloat16", compile="region"))
    animate(stage, picture(0), SETTINGS, [0])
    before = graphs()
    for frames, side in ((4, 16), (2, 32), (5, 48)):
        settings = VideoSettings(frames=frames, steps=1)
        assert animate(stage, picture(0, side), settings, [0]).shape == (1, frames, 3, side, side)
    assert graphs() == before and stage.runs_compiled == "region"


def test_short_steps_are_recorded_and_repeated(tiny_components: Components, monkeypatch: pytest.MonkeyPatch) -> None:
    unet: UNet = tiny_components.unet.to(DEVICE)
    replays: list[object] = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(graph), replay(graph))[1])
    condition = Condition(torch.randn(1, 1, 24), torch.randn(1, 1, 4, 8, 8), torch.ones(1, 3)).to(
        torch.device(DEVICE), torch.float32
    )
    x, scale = torch.randn(1, 3, 4, 8, 8, device=DEVICE), torch.tensor([1.0, 2.0, 3.0])
    with torch.inference_mode():
        plain = guided_denoiser(unet, condition, scale)
        denoise = guided_denoiser(unet, condition, scale, compiled=Compiled(torch.device(DEVICE)))
        for sigma in (5.0, 2.0, 1.0):
            level = torch.tensor(sigma, device=DEVICE)
            torch.testing.assert_close(denoise(x, level), plain(x, level), rtol=1e-2, atol=1e-2)
    assert len(replays) == 3


CHILD = """
import json, torch
from torch._dynamo.utils import counters
from stillmotion.models.autoencoder import Autoencoder, AutoencoderConfig
from stillmotion.models.streaming import decode_streamed
from stillmotion.nn.regions import Regions
autoencoder = Autoencoder(AutoencoderConfig(channels=(32,), layers=1)).eval().requires_grad_(False).cuda()
regions = Regions()
regions.around(lambda _: decode_streamed(autoencoder, torch.randn(1, 2, 4, 8, 8, device="cuda"), 2))
print(json.dumps({"failure": regions.failure, **counters["inductor"]}))
"""


def test_a_second_process_finds_the_kernels_of_the_first(tmp_path: Path) -> None:
    def run() -> dict[str, Any]:
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
        command = [sys.executable, "-c", CHILD]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return json.loads(done.stdout.splitlines()[-1])

    first, second = run(), run()
    assert first["failure"] is None and first["fxgraph_cache_miss"] > 0
    assert second["failure"] is None and second.get("fxgraph_cache_miss", 0) == 0 and second["fxgraph_cache_hit"] > 0
