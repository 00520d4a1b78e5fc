"""diffusers' side, called as its own pipeline calls it, with our weights under the same names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPImageProcessor

from stillmotion.checkpoints.diffusers import SCHEDULER
from stillmotion.checkpoints.diffusers_config import autoencoder_document, unet_document
from stillmotion.diffusers_api.pretrained import as_image_encoder
from stillmotion.models.components import Components
from stillmotion.placement import DTYPES
from stillmotion.presets import Preset

from .networks import (
    FPS,
    GUIDANCE,
    MOTION_BUCKET,
    NOISE_AUG,
    PRESETS,
    Request,
    components,
    draws_of,
    filled,
    picture,
    step_condition,
)

# Any: the types that diffusers states are not those of what it returns.
theirs: Any = diffusers


class Side:
    """diffusers' pipeline, ready to run. Its steps run without gradients, as its own `__call__` does."""

    def __init__(self, pipeline: Any, preset: Preset, device: str) -> None:
        self.preset = preset
        self.pipeline = pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.device = torch.device(device)

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the networks run in."""
        return self.pipeline.unet.dtype

    def guided_step(self, latents: Tensor, sigma: float) -> Callable[[], Tensor]:
        """A call that does what one turn of the pipeline's loop does, but for the scheduler's step.

        Gives the denoised latents, so that both sides can be compared.
        """
        condition = step_condition(self.preset, latents)
        batch, frames = latents.shape[:2]
        context = _behind_zeros(condition.context.to(self.device, self.dtype))
        image = _behind_zeros(condition.image_latents.to(self.device, self.dtype)).repeat(1, frames, 1, 1, 1)
        numbers = condition.numbers.to(self.device, self.dtype).repeat(2, 1)
        x = latents.to(self.device, self.dtype)
        c_noise = torch.tensor(sigma).log().div(4).to(self.device)
        scale = torch.linspace(*GUIDANCE, frames).to(self.device, self.dtype).reshape(1, -1, 1, 1, 1)
        assert len(context) == 2 * batch

        def step() -> Tensor:
            with torch.no_grad():
                scaled = torch.cat([x] * 2) / (sigma**2 + 1) ** 0.5
                inputs = torch.cat([scaled, image], dim=2)
                found = self.pipeline.unet(
                    inputs, c_noise, encoder_hidden_states=context, added_time_ids=numbers, return_dict=False
                )[0]
                base, towards = found.chunk(2)
                velocity = base + scale * (towards - base)
                return x.float() / (sigma**2 + 1) - velocity.float() * (sigma / (sigma**2 + 1) ** 0.5)

        return step

    def decode(self, latents: Tensor, request: Request) -> Callable[[], Tensor]:
        """A call that decodes scaled latents to frames `b t c h w` in float32, all at once as by default."""
        there = latents.to(self.device, self.dtype)

        def run() -> Tensor:
            with torch.no_grad():
                chunk = request.chunk or request.frames
                return self.pipeline.decode_latents(there, request.frames, chunk).transpose(1, 2)

        return run

    def generate(self, request: Request, seed: int = 0) -> np.ndarray:
        """Image in, uint8 frames `t h w c` out; the draws are those of our side."""
        _, start = draws_of(self.preset, request, seed)
        self.pipeline.scheduler = scheduler(request.sigma_max)
        frames = self.pipeline(
            picture(request.width, request.height),
            height=request.height,
            width=request.width,
            num_frames=request.frames,
            num_inference_steps=request.steps,
            min_guidance_scale=request.guidance[0],
            max_guidance_scale=request.guidance[1],
            fps=FPS,
            motion_bucket_id=MOTION_BUCKET,
            noise_aug_strength=NOISE_AUG,
            decode_chunk_size=request.chunk,
            generator=torch.Generator().manual_seed(seed),
            latents=start.to(self.device, self.dtype),
            output_type="np",
        ).frames
        return (np.asarray(frames)[0] * 255).round().astype(np.uint8)

    def compile(self, backend: str) -> None:
        """Compile the two networks that take nearly all of the time, each as one graph."""
        self.pipeline.unet.compile(backend=backend)
        self.pipeline.vae.decoder.compile(backend=backend)


def side_of(components: Components, preset: Preset, device: str) -> Side:
    """The same weights in diffusers' classes: the tensors are shared, not copied, while they stay on their device."""
    with torch.device("meta"):
        unet, vae = make_unet(preset), make_autoencoder(preset)
    for peer, ours in ((unet, components.unet), (vae, components.autoencoder)):
        peer.load_state_dict(ours.state_dict(), strict=True, assign=True)
        peer.eval().requires_grad_(False)
    return Side(_pipeline(unet, vae, as_image_encoder(components.image_encoder)), preset, device)


def decoder_alone(preset: Preset, dtype: torch.dtype, device: str) -> Side:
    """diffusers' autoencoder with the weights that ours has; what else a model has is small."""
    small = side_of(components(PRESETS["small"], dtype), PRESETS["small"], device).pipeline
    vae = filled(lambda: make_autoencoder(preset), dtype)
    return Side(_pipeline(small.unet, vae, small.image_encoder), preset, device)


def make_unet(preset: Preset) -> nn.Module:
    """diffusers' U-Net of a preset's shape."""
    return theirs.UNetSpatioTemporalConditionModel.from_config(unet_document(preset.unet))


def make_autoencoder(preset: Preset) -> nn.Module:
    """diffusers' autoencoder of a preset's shape."""
    return theirs.AutoencoderKLTemporalDecoder.from_config(autoencoder_document(preset.autoencoder))


def scheduler(sigma_max: float) -> Any:
    """The released one, from another highest noise level."""
    return theirs.EulerDiscreteScheduler.from_config(SCHEDULER | {"sigma_max": sigma_max})


def from_folder(
    folder: Path, preset: Preset, dtype: str, device: str, plan: str = "", request: Request | None = None
) -> Side:
    """Load a diffusers folder. It runs as it comes; only our side has plans."""
    assert not plan
    return Side(theirs.StableVideoDiffusionPipeline.from_pretrained(folder, torch_dtype=DTYPES[dtype]), preset, device)


def _pipeline(unet: nn.Module, vae: nn.Module, image_encoder: nn.Module) -> Any:
    return theirs.StableVideoDiffusionPipeline(vae, image_encoder, unet, scheduler(700.0), CLIPImageProcessor())


def _behind_zeros(rows: Tensor) -> Tensor:
    """The unconditional branch's zeros, then the rows."""
    return torch.cat([torch.zeros_like(rows), rows])
