"""A still image becomes a video in three steps: condition, sample, decode."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..conditioning import Condition, embed_image, image_latents, micro_conditions
from ..config import config
from ..diffusion import samplers
from ..diffusion.guidance import Guider, Linear, guided, scales
from ..diffusion.precondition import Denoise, VWithEDMNoise, denoised
from ..diffusion.sigmas import MAX_STEPS, Karras, Schedule, schedule
from ..errors import UsageError
from ..events import Progress, Watch, unwatched
from ..models.autoencoder import Autoencoder, decode_in_chunks
from ..models.unet import UNet
from ..placement import Stage

MAX_FRAMES = 1024
MAX_SIDE_PX = 8192


@config
class VideoSettings:
    """What one video is made of, beside its image and its seed."""

    frames: int = 14
    steps: int = 25
    guider: Guider = dataclasses.field(default_factory=Linear)
    sampler: samplers.Sampler = dataclasses.field(default_factory=samplers.Euler)
    sigmas: Schedule = dataclasses.field(default_factory=Karras)
    # The true rate of the motion, in frames a second; how fast the file plays is another setting.
    fps: float = 7.0
    # How much moves: the model's own scale, 127 in the middle of its training range of 0 to 255.
    motion_bucket: float = 127.0
    # Deviation of the noise on the conditioning image, in units of its [-1, 1] range.
    noise_aug: float = 0.02
    decoder: Literal["temporal", "image"] = "temporal"
    # Frames decoded at once; None decodes all together, the only choice that cannot show seams.
    chunk: int | None = None

    def __post_init__(self) -> None:
        _check("frames", self.frames, 1, MAX_FRAMES)
        _check("steps", self.steps, 1, MAX_STEPS)
        _check("fps", self.fps, 0.1, 1000)
        _check("motion", self.motion_bucket, 0, 10_000)
        _check("noise_aug", self.noise_aug, 0, 10)
        if self.chunk is not None:
            _check("chunk", self.chunk, 1, MAX_FRAMES)


def animate(
    stage: Stage,
    images: Float[Tensor, "b c h w"],
    settings: VideoSettings,
    seeds: Sequence[int],
    watch: Watch = unwatched,
) -> Float[Tensor, "b t c h w"]:
    """One video of each image in [-1, 1], each with its own seed; frames in [-1, 1] on the CPU, in float32.

    Height and width are multiples of the autoencoder's downsampling. Each video is made alone, so that it is the
    same in any batch. Raises UsageError for another size, or for a decoder that the model does not have.
    """
    if len(images) != len(seeds):
        raise UsageError(f"{len(seeds)} seeds were given for {len(images)} images; expected one each.")
    check_size(images.shape[-1], images.shape[-2], stage.components.autoencoder.cfg.downsampling)
    _decoder(stage, settings)
    videos = []
    for image, seed in zip(images, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        with torch.inference_mode():
            condition = make_condition(stage, image[None], settings, generator, watch)
            latents = sample_latents(stage, condition, settings, generator, watch)
            videos.append(decode(stage, latents, settings, watch).float().cpu().clamp(-1, 1))
    return torch.cat(videos)


def make_condition(
    stage: Stage,
    image: Float[Tensor, "1 c h w"],
    settings: VideoSettings,
    generator: torch.Generator,
    watch: Watch = unwatched,
) -> Condition:
    """What the network is told about one image. Draws the image's noise first, also where its strength is 0."""
    components = stage.components
    noise = torch.randn(image.shape, generator=generator)
    watch(Progress("encode", 0, 2))
    with stage.use(components.image_encoder):
        context = embed_image(components.image_encoder, image.to(stage.device))
    watch(Progress("encode", 1, 2))
    with stage.use(components.autoencoder):
        latents = image_latents(components.autoencoder, image.to(stage.device), settings.noise_aug, noise)
    watch(Progress("encode", 2, 2))
    numbers = micro_conditions(settings.fps, settings.motion_bucket, settings.noise_aug, batch=1)
    return Condition(context, latents, numbers).to(stage.device, stage.dtype)


def sample_latents(
    stage: Stage,
    condition: Condition,
    settings: VideoSettings,
    generator: torch.Generator,
    watch: Watch = unwatched,
) -> Float[Tensor, "1 t c h w"]:
    """Denoise from pure noise to scaled latents, in float32."""
    height, width = condition.image_latents.shape[-2:]
    shape = (1, settings.frames, stage.components.unet.cfg.out_channels, height, width)
    levels = schedule(settings.sigmas, settings.steps)
    steps = len(levels) - 1

    def draw_noise() -> Tensor:
        return torch.randn(shape, generator=generator).to(stage.device)

    def after_step(step: int, x: Tensor) -> Tensor:
        watch(Progress("denoise", step + 1, steps))
        return x

    start = draw_noise() * start_scale(levels)
    watch(Progress("denoise", 0, steps))
    with stage.use(stage.components.unet):
        denoise = guided_denoiser(stage.components.unet, condition, scales(settings.guider, settings.frames))
        return samplers.sample(settings.sampler, denoise, start, levels, draw_noise, after_step)


def decode(
    stage: Stage, latents: Float[Tensor, "b t c h w"], settings: VideoSettings, watch: Watch = unwatched
) -> Float[Tensor, "b t c2 h2 w2"]:
    """Frames of scaled latents, near [-1, 1]."""
    components = stage.components
    scale = components.autoencoder.cfg.scaling_factor
    autoencoder = _decoder(stage, settings)
    with stage.use(autoencoder):
        unscaled = (latents / scale).to(stage.dtype_of(autoencoder))
        return decode_in_chunks(autoencoder.decode, unscaled, settings.chunk or latents.shape[1], watch)


def guided_denoiser(unet: UNet, condition: Condition, scale: Float[Tensor, " t"]) -> Denoise:
    """The SVD denoiser of one condition: both branches in one batch, unconditional first, where guidance needs both."""
    both = condition.both_branches()

    def estimate(told: Condition, x: Tensor, sigma: Tensor) -> Tensor:
        def network(scaled: Tensor, c_noise: Tensor) -> Tensor:
            return unet(told.beside(scaled.to(told.context.dtype)), c_noise, told.context, told.numbers)

        return denoised(network, VWithEDMNoise(), x, sigma.to(x.device).expand(len(x)))

    def branches(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        base, towards = estimate(both, torch.cat([x, x]), sigma).chunk(2)
        return towards, base

    return guided(branches, lambda x, sigma: estimate(condition, x, sigma), scale)


def start_scale(levels: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The deviation of the first latents: noise of the first level over data of unit deviation."""
    return (levels[0] ** 2 + 1).sqrt()


def check_size(width: int, height: int, unit: int) -> None:
    """Raise UsageError unless a frame of this size fills whole latents of `unit` pixels, and is no larger than 8192."""
    if width % unit or height % unit or not unit <= min(width, height) <= max(width, height) <= MAX_SIDE_PX:
        raise UsageError(f"size is {width}x{height}; expected multiples of {unit} pixels, at most {MAX_SIDE_PX}.")


def _decoder(stage: Stage, settings: VideoSettings) -> Autoencoder:
    """The autoencoder whose decoder was asked for. Raises UsageError where the model has none of that kind."""
    components = stage.components
    for autoencoder in (components.autoencoder, components.image_decoder):
        if autoencoder is not None and autoencoder.cfg.decoder == settings.decoder:
            return autoencoder
    own = components.autoencoder.cfg.decoder
    raise UsageError(f"decoder is {settings.decoder}, which this model does not have; expected {own}.")


def _check(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise UsageError(f"{name} is {value}; expected {low} to {high}.")
