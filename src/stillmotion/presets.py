"""Released models and their own default settings, as values; a variant is `replace(base, ...)`."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from .config import config
from .diffusion.samplers import Euler, EulerAncestral, Sampler
from .models.autoencoder import AutoencoderConfig
from .models.image_encoder import ImageEncoderConfig
from .models.unet import UNetConfig


@config
class Defaults:
    """What a generation uses where its request says nothing: the model's own values."""

    frames: int
    steps: int
    # Classifier-free guidance of the first and of the last frame.
    guidance: tuple[float, float]
    # Pixels.
    width: int
    height: int
    # Further sizes like those of the training; others work, and are further from what the model knows.
    other_sizes: tuple[tuple[int, int], ...] = ()
    fit: Literal["crop", "pad", "stretch"] = "crop"
    # The true rate of the motion, in frames a second.
    fps: float = 7.0
    motion_bucket: float = 127.0
    # Standard deviation of the noise added to the conditioning image, in units of its [-1, 1] range.
    noise_aug: float = 0.02
    sigma_min: float = 0.002
    sigma_max: float = 700.0
    rho: float = 7.0
    sampler: Sampler = Euler()

    @property
    def trained_sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of what the model knows, its usual size first."""
        return ((self.width, self.height), *self.other_sizes)


@config
class Preset:
    """A released model: where it is, what it is made of, and its defaults."""

    name: str
    # The diffusers folder on the hub; None for the embedded model.
    hub_id: str | None
    # Names under which the single file is known.
    file_names: tuple[str, ...] = ()
    unet: UNetConfig
    autoencoder: AutoencoderConfig
    image_encoder: ImageEncoderConfig
    defaults: Defaults


# The released models were finetuned at 1024x576; its portrait and the square hold as many pixels.
OTHER_SIZES = ((576, 1024), (768, 768))

SVD = Preset(
    name="svd",
    hub_id="stabilityai/stable-video-diffusion-img2vid",
    file_names=("svd.safetensors", "svd_image_decoder.safetensors"),
    unet=UNetConfig(),
    autoencoder=AutoencoderConfig(),
    image_encoder=ImageEncoderConfig(),
    defaults=Defaults(frames=14, steps=25, guidance=(1.0, 2.5), width=1024, height=576, other_sizes=OTHER_SIZES),
)
SVD_XT = replace(
    SVD,
    name="svd-xt",
    hub_id="stabilityai/stable-video-diffusion-img2vid-xt",
    file_names=("svd_xt.safetensors", "svd_xt_image_decoder.safetensors"),
    unet=UNetConfig(frames=25),
    defaults=replace(SVD.defaults, frames=25, steps=30, guidance=(1.5, 3.0)),
)
SVD_XT_1_1 = replace(
    SVD_XT,
    name="svd-xt-1.1",
    hub_id="stabilityai/stable-video-diffusion-img2vid-xt-1-1",
    file_names=("svd_xt_1_1.safetensors",),
)
# A real SVD in miniature that two CPU cores train in hours; its weights ship with the package.
TINY = Preset(
    name="tiny",
    hub_id=None,
    unet=UNetConfig(
        in_channels=16,
        out_channels=8,
        channels=(64, 96, 128),
        has_attention=(False, False, True),
        heads=(2, 3, 4),
        layers=(1, 2, 1),
        transformer_depth=(1, 1, 1),
        context_width=(64, 64, 64),
        number_width=32,
        sample_size=32,
    ),
    autoencoder=AutoencoderConfig(
        latent_channels=8,
        channels=(64, 64, 96),
        layers=1,
        sample_size=128,
        # Of the shipped autoencoder; a training measures that of its own.
        scaling_factor=0.31386,
        force_upcast=False,
    ),
    image_encoder=ImageEncoderConfig(width=64, mlp_width=256, layers=2, heads=4, patch_size=32, projection_width=64),
    defaults=Defaults(
        frames=14,
        # Few steps, with fresh noise in each: at middle noise so small a network pulls back what it had moved.
        steps=3,
        sampler=EulerAncestral(),
        guidance=(1.0, 1.0),
        width=128,
        height=80,
        sigma_max=80.0,
    ),
)

PRESETS = {preset.name: preset for preset in (TINY, SVD, SVD_XT, SVD_XT_1_1)}
