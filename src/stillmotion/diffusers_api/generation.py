"""The steps of a generation, each a function of the networks that the user put into the pipeline."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..conditioning import Condition
from ..diffusion.precondition import Denoise, VWithEDMNoise, denoised
from ..errors import UsageError
from ..models.image_encoder import MEAN, STD, clip_pixels
from ..models.prepared import Network, prepared

Generators = torch.Generator | list[torch.Generator] | None
# Ours, diffusers', or anything that is called alike: what torch.compile returns, a quantised network, a wrapper.
Component = Any


def weights_of(network: Component) -> Tensor:
    """A tensor with the network's device and precision, for networks of any kind."""
    return next(network.parameters())


def check_generators(generator: Generators, device: torch.device) -> None:
    """Raise UsageError for a generator on another device, other than the CPU, than the one that is worked on."""
    each = generator if isinstance(generator, list) else [generator]
    places = {device.type if one is None else one.device.type for one in each}
    allowed = {"cpu", device.type}
    if not places <= allowed:
        expected = " or ".join(sorted(allowed))
        raise UsageError(f"the generator is on {', '.join(sorted(places))}; expected one on {expected}.")


def draw_noise(
    shape: tuple[int, ...], generator: Generators, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "b ..."]:
    """Unit noise drawn on the generator's device: by one for the whole batch, or by one a sample."""
    each = generator if isinstance(generator, list) else [generator]
    rows = shape if len(each) == 1 else (1, *shape[1:])
    drawn = [
        torch.randn(rows, generator=one, device=device if one is None else one.device, dtype=dtype).to(device)
        for one in each
    ]
    return torch.cat(drawn)


def clip_input(image: Float[Tensor, "1 3 h w"], size: int, extractor: Component) -> Float[Tensor, "1 3 h2 w2"]:
    """An image in [-1, 1] as CLIP's input, normalised as `extractor` says; one of CLIP's own `size` is not resized."""
    mean, std = (MEAN, STD) if extractor is None else (tuple(extractor.image_mean), tuple(extractor.image_std))
    fits = image.shape[-2:] == (size, size)
    if not fits and (mean, std) == (MEAN, STD):
        return clip_pixels(image)
    unsigned = (image + 1) / 2 if fits else clip_pixels(image) * _channels(STD, image) + _channels(MEAN, image)
    return (unsigned - _channels(mean, image)) / _channels(std, image)


def mean_latents(autoencoder: Component, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 c h2 w2"]:
    """Mean latents, unscaled. An autoencoder that overflows in float16 does this in float32."""
    dtype = weights_of(autoencoder).dtype
    working = torch.float32 if dtype == torch.float16 and autoencoder.config.force_upcast else dtype
    autoencoder.to(dtype=working)
    try:
        return autoencoder.encode(images.to(working)).latent_dist.mode()[:, None]
    finally:
        autoencoder.to(dtype=dtype)


def guidance_ramp(low: float, high: float, frames: int) -> Float[Tensor, "1 t 1 1 1"]:
    """The guidance scale of each frame, from `low` at the first to `high` at the last. Raises UsageError."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UsageError(f"guidance is {low} to {high}; expected finite numbers.")
    return torch.linspace(low, high, frames).reshape(1, -1, 1, 1, 1)


def is_guided(scale: float | Tensor) -> bool:
    """Whether the unconditional branch runs: where some frame's scale is above 1."""
    return bool(torch.as_tensor(scale).max() > 1)


def denoiser(unet: Component, condition: Condition, scale: Callable[[], float | Tensor]) -> Denoise:
    """The estimate of clean latents; `scale` says the guidance as it stands at each step."""

    @functools.cache
    def ready(is_both: bool) -> tuple[Condition, Network]:
        told = condition.both_branches() if is_both else condition

        def plain(x: Tensor, c_noise: Tensor) -> Tensor:
            known = {"encoder_hidden_states": told.context, "added_time_ids": told.numbers}
            return unet(x, c_noise[0], **known, return_dict=False)[0]

        return told, prepared(unet, told.context, told.numbers) or plain

    def predict(is_both: bool, x: Tensor, c_noise: Tensor) -> Tensor:
        told, run = ready(is_both)
        return run(told.beside(x.to(told.context.dtype)), c_noise).float()

    def network(x: Tensor, c_noise: Tensor) -> Tensor:
        weight = scale()
        if not is_guided(weight):
            return predict(False, x, c_noise)
        base, towards = predict(True, torch.cat([x, x]), c_noise).chunk(2)
        return base + weight * (towards - base)

    return lambda x, sigma: denoised(network, VWithEDMNoise(), x, sigma.to(x.device).expand(len(x)))


def _channels(values: Sequence[float], like: Tensor) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]
