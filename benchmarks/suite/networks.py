"""What both sides are made of: shapes, random weights that are the same on both, requests and inputs."""

from __future__ import annotations

import dataclasses
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from stillmotion.checkpoints import diffusers
from stillmotion.checkpoints.load import load, locate, shape_of
from stillmotion.checkpoints.store import header, stored_bytes
from stillmotion.conditioning import Condition, micro_conditions
from stillmotion.models.autoencoder import Autoencoder, AutoencoderConfig
from stillmotion.models.components import Components
from stillmotion.models.image_encoder import ImageEncoderConfig, build_image_encoder
from stillmotion.models.unet import UNet, UNetConfig
from stillmotion.placement import DTYPES
from stillmotion.presets import SVD, TINY, Preset

N = TypeVar("N", bound=nn.Module)
GUIDANCE = (1.0, 2.5)
FPS, MOTION_BUCKET, NOISE_AUG = 7, 127, 0.02
# The noise level of a single timed step; its time does not depend on it.
SIGMA = 9.95


def _small() -> Preset:
    """Every kind of block of the released model, and nothing of its size."""
    unet = UNetConfig(
        channels=(32, 64),
        has_attention=(True, False),
        heads=(2, 4),
        layers=(1, 1),
        transformer_depth=(1, 1),
        context_width=(24, 24),
        number_width=16,
        frames=4,
        sample_size=8,
    )
    tower = ImageEncoderConfig(width=32, mlp_width=64, layers=1, heads=2, patch_size=56, projection_width=24)
    autoencoder = AutoencoderConfig(channels=(32, 32, 32, 32), sample_size=64)
    return dataclasses.replace(SVD, name="small", unet=unet, autoencoder=autoencoder, image_encoder=tower)


def _for_comparison(preset: Preset) -> Preset:
    """With diffusers' epsilons, so that both sides compute the same function."""
    return dataclasses.replace(preset, unet=dataclasses.replace(preset.unet, norm_eps="diffusers"))


PRESETS = {preset.name: _for_comparison(preset) for preset in (SVD, shape_of(TINY.name), _small())}


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One video to be made by either side."""

    frames: int
    width: int
    height: int
    steps: int = 1
    # Frames decoded at once; None decodes all together.
    chunk: int | None = None
    sigma_max: float = 700.0
    # Of the first and the last frame; two ones need one branch alone.
    guidance: tuple[float, float] = GUIDANCE

    @property
    def size(self) -> str:
        """Frames, height and width as a table shows them."""
        return f"{self.frames} x {self.height} x {self.width}"


def components(preset: Preset, dtype: torch.dtype) -> Components:
    """The networks of a preset with random weights, or the embedded model's own."""
    if preset.name == TINY.name:
        return _embedded(preset, dtype)
    return Components(
        unet=filled(lambda: UNet(preset.unet), dtype),
        autoencoder=filled(lambda: Autoencoder(preset.autoencoder), dtype),
        image_encoder=filled(lambda: build_image_encoder(preset.image_encoder), dtype),
    )


def filled(make: Callable[[], N], dtype: torch.dtype) -> N:
    """A network whose weights are drawn by their names, so that equal names mean equal weights; none is trivial."""
    with torch.device("meta"):
        network = make()
    state = {name: _drawn(name, value.shape).to(dtype) for name, value in network.state_dict().items()}
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def picture(width: int, height: int) -> Image.Image:
    """Coarse random colours, enlarged: an image with edges and areas."""
    values = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def latents_of(preset: Preset, request: Request, batch: int = 1, seed: int = 0) -> Tensor:
    """Random latents of unit deviation, `b t c h w`, in float32 on the CPU."""
    unit = preset.autoencoder.downsampling
    shape = (batch, request.frames, preset.unet.out_channels, request.height // unit, request.width // unit)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def step_condition(preset: Preset, latents: Tensor) -> Condition:
    """A random condition for latents `b t c h w`, in float32 on the CPU."""
    batch, _, channels, height, width = latents.shape
    draws = torch.Generator().manual_seed(1)
    return Condition(
        torch.randn(batch, 1, preset.unet.context_width[0], generator=draws),
        torch.randn(batch, 1, channels, height, width, generator=draws),
        micro_conditions(FPS, MOTION_BUCKET, NOISE_AUG, batch),
    )


def draws_of(preset: Preset, request: Request, seed: int) -> tuple[Tensor, Tensor]:
    """The numbers that a video of this seed is made of, in both sides' order: noise on the image, then the start."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, 3, request.height, request.width, generator=generator)
    return image, torch.randn(latents_of(preset, request).shape, generator=generator)


def write_sparse_folder(folder: Path, preset: Preset, dtype: str) -> None:
    """A diffusers folder of this shape whose weights are zeros that take no disk.

    Once read, the pages of a mapped sparse file count as memory like those of any other.
    """
    with torch.device("meta"):
        networks: dict[str, nn.Module] = {
            "unet": UNet(preset.unet),
            "vae": Autoencoder(preset.autoencoder),
            "image_encoder": build_image_encoder(preset.image_encoder),
        }
    embedded = locate(TINY.name, ())
    shutil.copytree(embedded / "feature_extractor", folder / "feature_extractor")
    shutil.copy(embedded / "model_index.json", folder / "model_index.json")
    diffusers.write_json(folder / "scheduler" / "scheduler_config.json", diffusers.SCHEDULER)
    documents: dict[str, dict[str, Any]] = {
        "unet": diffusers.unet_document(preset.unet),
        "vae": diffusers.autoencoder_document(preset.autoencoder),
        "image_encoder": diffusers.image_encoder_document(preset.image_encoder, DTYPES[dtype]),
    }
    for part, network in networks.items():
        diffusers.write_json(folder / part / "config.json", documents[part])
        tensors = diffusers.RULES.export(network.state_dict())
        path = folder / part / f"{diffusers.WEIGHTS[part]}.safetensors"
        first = header(tensors, DTYPES[dtype])
        with path.open("wb") as file:
            file.write(first)
            file.truncate(len(first) + sum(stored_bytes(parts, DTYPES[dtype]) for parts in tensors.values()))


def _embedded(preset: Preset, dtype: torch.dtype) -> Components:
    """The embedded model's weights in networks with diffusers' epsilons."""
    loaded = load(TINY.name, dtype=dtype).components
    with torch.device("meta"):
        unet = UNet(preset.unet)
    unet.load_state_dict(loaded.unet.state_dict(), strict=True, assign=True)
    loaded.unet = unet.eval().requires_grad_(False)
    return loaded


def _drawn(name: str, shape: torch.Size) -> Tensor:
    """Weights keep the variance of what passes through them; norms, biases and mix factors are drawn too."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if len(shape) > 1:
        return noise.div_(noise[0].numel() ** 0.5)
    return noise.mul_(0.2).add_(1) if "norm" in name and name.endswith("weight") else noise.mul_(0.3)
