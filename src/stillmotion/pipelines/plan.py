"""What a generation will cost, counted before it runs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..diffusion.guidance import scales
from ..diffusion.samplers import DPMPP2SAncestral, Heun
from ..diffusion.sigmas import schedule
from ..models.autoencoder import Autoencoder
from ..models.image_encoder import build_image_encoder
from ..models.unet import UNet
from ..placement import DTYPES, Placement
from ..presets import Preset
from .image_to_video import VideoSettings

# The share of the machine's matrix rate that these networks reached on the processors measured so far.
REACHED_SHARE = 0.45


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """Operations (a multiply-add counts two) of one video, but for encoding its image, and bytes of all weights."""

    denoise_operations: float
    decode_operations: float
    model_calls: int
    weight_bytes: int

    @property
    def operations(self) -> float:
        """Operations of the whole video."""
        return self.denoise_operations + self.decode_operations


def cost(preset: Preset, settings: VideoSettings, width: int, height: int, dtype: str) -> Cost:
    """Count one video of this size on networks without memory."""
    unit = preset.autoencoder.downsampling
    branches = 1 if bool((scales(settings.guider, settings.frames) == 1).all()) else 2
    with torch.device("meta"):
        unet, image_encoder = UNet(preset.unet), build_image_encoder(preset.image_encoder)
        autoencoder = Autoencoder(dataclasses.replace(preset.autoencoder, decoder=settings.decoder))
        shape = (branches, settings.frames, preset.unet.in_channels, height // unit, width // unit)
        inputs = (torch.empty(shape), torch.empty(branches))
        context = torch.empty(branches, 1, preset.unet.context_width[0])
        numbers = torch.empty(branches, preset.unet.numbers)
        latents = torch.empty(1, settings.frames, preset.unet.out_channels, height // unit, width // unit)
    call = _operations(lambda: unet(*inputs, context, numbers))
    steps = len(schedule(settings.sigmas, settings.steps)) - 1
    calls = 2 * steps - 1 if isinstance(settings.sampler, Heun | DPMPP2SAncestral) else steps
    size = DTYPES[dtype].itemsize
    weights = sum(p.numel() for network in (unet, autoencoder, image_encoder) for p in network.parameters()) * size
    return Cost(call * calls, _operations(lambda: autoencoder.decode(latents)), calls, weights)


def matrix_rate(placement: Placement, size: int = 1024) -> float:
    """Operations a second of a square product on this device in this precision, measured now."""
    a = torch.randn(size, size).to(placement.device, DTYPES[placement.dtype])
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # reading one number waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def expected_seconds(counted: Cost, rate: float) -> float:
    """A rough time of one video, from its operations and the machine's measured rate."""
    return counted.operations / (rate * REACHED_SHARE)


def _operations(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()
