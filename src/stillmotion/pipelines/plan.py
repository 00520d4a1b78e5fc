"""What a generation will cost, counted before it runs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..conditioning import embed_image
from ..diffusion.guidance import scales
from ..diffusion.samplers import DPMPP2SAncestral, Heun
from ..diffusion.sigmas import schedule
from ..models.autoencoder import Autoencoder
from ..models.image_encoder import build_image_encoder
from ..models.unet import UNet
from ..nn.products import Product
from ..placement import DTYPES, Placement
from ..presets import Preset
from .image_to_video import VideoSettings

# Bytes of one measured copy: large beside what a copy costs to begin, small beside any memory.
COPIED_BYTES = 64 * 2**20
# The share of the machine's matrix rate that these networks reach in each stage: assumed for accelerators, on which
# published implementations reach a third to a half.
REACHED_SHARE = {"encode": 0.45, "denoise": 0.45, "decode": 0.45}
# The same of a CPU, where convolutions save most of their multiplications, measured: 14 x 256 x 256 in float32 and
# bfloat16 reached 1.09 and 1.16 in denoising, 1.39 and 1.58 in decoding (two Zen 4 cores).
REACHED_SHARE_OF_CPU = {"encode": 0.8, "denoise": 1.1, "decode": 1.4}


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """Operations (a multiply-add counts two) of the stages of one video, and bytes of the weights."""

    encode_operations: float
    denoise_operations: float
    decode_operations: float
    model_calls: int
    # Of guidance, in each call: 1 or 2.
    branches: int
    # Of all networks, and of the U-Net among them.
    weight_bytes: int
    unet_bytes: int

    @property
    def operations(self) -> float:
        """Operations of the whole video."""
        return self.encode_operations + self.denoise_operations + self.decode_operations


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """What a machine does in a second under one placement: operations of a product, bytes of weights on their way."""

    operations_per_s: float
    bytes_per_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """Seconds of the stages of one video, without loading; and how many of them wait for weights."""

    encode: float
    denoise: float
    decode: float
    waiting: float

    @property
    def seconds(self) -> float:
        """All together."""
        return self.encode + self.denoise + self.decode


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
        image = torch.empty(1, 3, height, width)
    call = _operations(lambda: unet(*inputs, context, numbers))
    look = _operations(lambda: embed_image(image_encoder, image))
    look += _operations(lambda: autoencoder.encode(image[:, None]))
    calls = model_calls(settings)
    size = DTYPES[dtype].itemsize
    weights = [size * sum(p.numel() for p in each.parameters()) for each in (unet, autoencoder, image_encoder)]
    return Cost(
        encode_operations=look,
        denoise_operations=call * calls,
        decode_operations=_operations(lambda: autoencoder.decode(latents)),
        model_calls=calls,
        branches=branches,
        weight_bytes=sum(weights),
        unet_bytes=weights[0],
    )


def model_calls(settings: VideoSettings) -> int:
    """How often the network is called for one video."""
    steps = len(schedule(settings.sigmas, settings.steps)) - 1
    return 2 * steps - 1 if isinstance(settings.sampler, Heun | DPMPP2SAncestral) else steps


def matrix_rate(placement: Placement, size: int = 1024) -> float:
    """Operations a second of a square product on this device in this precision, as the networks do it, measured now."""
    a = torch.randn(size, size).to(placement.device, DTYPES[placement.dtype])
    best = float("inf")
    with torch.inference_mode():
        product = Product(a, None, size)
        for _ in range(4):
            start = time.perf_counter()
            product(a)[0, 0].item()  # reading one number waits for the device
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def copy_rate(placement: Placement) -> float:
    """Bytes a second that reach the device from where offloaded weights wait, measured now; a CPU copies its own."""
    waiting = torch.zeros(COPIED_BYTES, dtype=torch.uint8)
    if torch.device(placement.device).type == "cuda":
        waiting = waiting.pin_memory()
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        waiting.to(placement.device, copy=True)[-1].item()  # reading one number waits for the device
        best = min(best, time.perf_counter() - start)
    return COPIED_BYTES / best


def rates_of(placement: Placement) -> Rates:
    """What this machine does under a resolved placement, measured now; copies only where something is offloaded."""
    return Rates(matrix_rate(placement), copy_rate(placement) if placement.offload != "none" else float("inf"))


def expected(counted: Cost, placement: Placement, rates: Rates) -> Expected:
    """A rough time of one video: its operations, and the weights that offloading moves, over the machine's rates.

    A whole network is waited for. Single layers come for every call, and on CUDA beside the computation.
    """
    reached = REACHED_SHARE_OF_CPU if torch.device(placement.device).type == "cpu" else REACHED_SHARE
    paces = {name: rates.operations_per_s * share for name, share in reached.items()}
    others = (counted.weight_bytes - counted.unet_bytes) / rates.bytes_per_s
    moved = {"encode": others, "denoise": counted.unet_bytes / rates.bytes_per_s, "decode": others / 2}
    if placement.offload == "none":
        moved = dict.fromkeys(moved, 0.0)
    elif placement.offload == "sequential":
        in_turn = placement.savings.branches == "in-turn"
        moved["denoise"] *= counted.model_calls * (counted.branches if in_turn else 1)
    computed = {
        "encode": counted.encode_operations / paces["encode"],
        "denoise": counted.denoise_operations / paces["denoise"],
        "decode": counted.decode_operations / paces["decode"],
    }
    is_beside = placement.offload == "sequential" and torch.device(placement.device).type == "cuda"
    waits = {name: max(0.0, moved[name] - computed[name] * is_beside) for name in moved}
    return Expected(**{name: computed[name] + waits[name] for name in moved}, waiting=sum(waits.values()))


def _operations(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()
