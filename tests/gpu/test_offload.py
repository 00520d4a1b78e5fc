"""What waits in main memory changes no frame, and needs less of the GPU's."""

from __future__ import annotations

import copy
import gc

import pytest
import torch

from stillmotion.models.autoencoder import Autoencoder, AutoencoderConfig
from stillmotion.models.components import Components
from stillmotion.models.image_encoder import ImageEncoderConfig, build_image_encoder
from stillmotion.models.unet import UNet, UNetConfig
from stillmotion.pipelines.image_to_video import VideoSettings, animate
from stillmotion.placement import Offload, Placement, Stage

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = "cuda"
KINDS: tuple[Offload, ...] = ("none", "model", "sequential")
MIB = 2**20


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_offloading_changes_no_frame(tiny_components: Components, dtype: str) -> None:
    settings = VideoSettings(frames=3, steps=2)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    made = []
    for kind in KINDS:
        stage = Stage(copy.deepcopy(tiny_components), Placement(device=DEVICE, dtype=dtype, offload=kind))
        made.append(animate(stage, image, settings, [5]))
        if kind != "none":
            for network in stage.components.networks().values():
                assert {value.device.type for value in network.parameters()} == {"cpu"}
    torch.testing.assert_close(made[1], made[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(made[2], made[0], rtol=0, atol=1e-4)


def middling_components() -> Components:
    """A quarter of a thousand million random weights, over half of them the U-Net's: activations are small beside."""
    torch.manual_seed(0)
    components = Components(
        unet=UNet(UNetConfig(channels=(96, 192, 384, 384), heads=(3, 6, 12, 12), context_width=(256,) * 4)),
        autoencoder=Autoencoder(AutoencoderConfig(channels=(64, 128, 256, 256))),
        image_encoder=build_image_encoder(
            ImageEncoderConfig(width=640, mlp_width=2560, layers=16, heads=10, projection_width=256)
        ),
    )
    for network in components.networks().values():
        network.eval().requires_grad_(False)
    return components


@pytest.mark.slow
def test_each_kind_of_offload_needs_less_memory_than_the_one_before() -> None:
    components = middling_components()
    weights = sum(p.numel() * 4 for network in components.networks().values() for p in network.parameters())
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    peaks: dict[str, int] = {}
    for kind in KINDS:
        for network in components.networks().values():
            network.to("cpu")
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        stage = Stage(components, Placement(device=DEVICE, dtype="float32", offload=kind))
        animate(stage, image, VideoSettings(frames=3, steps=2), [0])
        peaks[kind] = torch.cuda.max_memory_allocated()
    print(f"weights {weights / MIB:.0f} MiB; peaks:", {kind: f"{peak / MIB:.0f} MiB" for kind, peak in peaks.items()})
    assert peaks["none"] > weights
    assert peaks["model"] < 0.85 * peaks["none"]
    assert peaks["sequential"] < 0.6 * peaks["model"]
