"""CUDA gives what the CPU gives: the networks, the random numbers, whole videos, and the drop-in pipeline."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from stillmotion.checkpoints.load import save
from stillmotion.diffusers_api import StableVideoDiffusionPipeline
from stillmotion.models.components import Components
from stillmotion.nn.attention import MAX_ROWS, Attention
from stillmotion.pipelines.image_to_video import VideoSettings, animate
from stillmotion.placement import DType, Placement, Stage
from stillmotion.presets import TINY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = "cuda"
SETTINGS = VideoSettings(frames=3, steps=2)


def picture() -> Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def stage(components: Components, device: str, dtype: DType = "float32") -> Stage:
    """The components' copy on a device, so that each stage has weights of its own."""
    return Stage(copy.deepcopy(components), Placement(device=device, dtype=dtype))


def assert_near(found: Tensor, expected: Tensor, deviations: float) -> None:
    """No value is further away than a share of the expected values' standard deviation."""
    assert found.isfinite().all()
    assert (found.cpu().float() - expected).abs().max() <= deviations * expected.std()


@pytest.mark.usefixtures("full_float32")
def test_the_unet_on_cuda_equals_the_cpu(tiny_components: Components) -> None:
    generator = torch.Generator().manual_seed(0)
    unet = tiny_components.unet
    inputs = (
        torch.randn(2, 3, unet.cfg.in_channels, 8, 8, generator=generator),
        torch.tensor([-1.0, 1.5]),
        torch.randn(2, 1, unet.cfg.context_width[0], generator=generator),
        torch.tensor([[6.0, 127.0, 0.02], [11.0, 30.0, 0.1]]),
    )
    expected = unet(*inputs)
    assert_near(unet.to(DEVICE)(*(value.to(DEVICE) for value in inputs)), expected, 1e-3)


@pytest.mark.usefixtures("full_float32")
def test_the_autoencoder_on_cuda_equals_the_cpu(tiny_components: Components) -> None:
    autoencoder = tiny_components.autoencoder
    latents = autoencoder.encode(picture()[:, None]).mean
    clip = latents.expand(-1, 3, -1, -1, -1) * torch.tensor([0.5, 1.0, 1.5]).reshape(1, 3, 1, 1, 1)
    frames = autoencoder.decode(clip)
    autoencoder.to(DEVICE)
    assert_near(autoencoder.encode(picture()[:, None].to(DEVICE)).mean, latents, 1e-3)
    assert_near(autoencoder.decode(clip.to(DEVICE)), frames, 1e-3)


def test_a_seed_gives_the_same_start_on_both_devices(tiny_components: Components) -> None:
    starts = []
    for device in ("cpu", DEVICE):
        made = stage(tiny_components, device)
        seen: list[Tensor] = []
        made.components.unet.register_forward_pre_hook(lambda unet, inputs, seen=seen: seen.append(inputs[0].cpu()))
        animate(made, picture(), SETTINGS, [7])
        starts.append(seen[0][:, :, : made.components.unet.cfg.out_channels])
    torch.testing.assert_close(starts[1], starts[0], rtol=1e-6, atol=1e-6)
    assert starts[0].std() > 0.5


@pytest.mark.usefixtures("full_float32")
def test_a_video_made_on_cuda_is_that_of_the_cpu(tiny_components: Components) -> None:
    expected = animate(stage(tiny_components, "cpu"), picture(), SETTINGS, [7])
    assert_near(animate(stage(tiny_components, DEVICE), picture(), SETTINGS, [7]), expected, 1e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_finite_and_near_float32(tiny_components: Components, dtype: DType) -> None:
    expected = animate(stage(tiny_components, DEVICE), picture(), SETTINGS, [7])
    frames = animate(stage(tiny_components, DEVICE, dtype), picture(), SETTINGS, [7])
    assert frames.isfinite().all() and not torch.equal(frames, expected)
    assert (frames - expected).abs().mean() < 0.1 * expected.abs().mean()


@pytest.fixture
def folder(tiny_components: Components, tmp_path: Path) -> Path:
    """The components as a diffusers folder."""
    preset = dataclasses.replace(TINY, name="random")
    save(tiny_components, preset, tmp_path / "model", "diffusers")
    return tmp_path / "model"


def frames_of(pipe: StableVideoDiffusionPipeline) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        Image.new("RGB", (24, 16), (200, 30, 90)),
        height=16,
        width=16,
        num_frames=3,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).frames
    assert isinstance(made, Tensor)
    return made


@pytest.mark.usefixtures("full_float32")
def test_the_drop_in_pipeline_moves_to_cuda(folder: Path) -> None:
    pipe = StableVideoDiffusionPipeline.from_pretrained(folder)
    expected = frames_of(pipe)
    assert pipe.to(DEVICE) is pipe and pipe.device.type == DEVICE
    frames = frames_of(pipe)
    assert frames.device.type == DEVICE
    assert_near(frames, expected, 1e-2)
    assert_near(frames_of(pipe.to("cpu")), expected, 0)


@pytest.mark.usefixtures("full_float32")
@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_the_drop_in_pipeline_offloads(folder: Path, kind: str) -> None:
    pipe = StableVideoDiffusionPipeline.from_pretrained(folder)
    expected = frames_of(pipe)
    pipe.enable_model_cpu_offload() if kind == "model" else pipe.enable_sequential_cpu_offload()
    frames = frames_of(pipe)
    assert frames.device.type == DEVICE
    assert_near(frames, expected, 1e-2)
    networks = (pipe.vae, pipe.image_encoder, pipe.unet)
    assert {value.device.type for network in networks for value in network.parameters()} == {"cpu"}


def test_half_precision_of_the_drop_in_pipeline_is_near_float32(folder: Path) -> None:
    expected = frames_of(StableVideoDiffusionPipeline.from_pretrained(folder))
    for dtype in (torch.bfloat16, torch.float16):
        frames = frames_of(StableVideoDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype).to(DEVICE))
        assert frames.isfinite().all()
        assert (frames.float().cpu() - expected).abs().mean() < 0.1 * expected.abs().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_over_more_rows_than_cudas_grid_has_blocks(dtype: torch.dtype) -> None:
    attention = Attention(64, 1).to(DEVICE, dtype)
    x = torch.randn(MAX_ROWS + 1, 2, 64, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    with torch.no_grad():
        assert torch.equal(attention(x)[-1], attention(x[-1:])[0])
