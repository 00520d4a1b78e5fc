"""Our side: the seams that every user goes through."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from stillmotion.checkpoints.load import folder_networks, folder_preset, load, load_network
from stillmotion.diffusion.guidance import Linear, scales
from stillmotion.diffusion.sigmas import Karras
from stillmotion.media.pixels import to_pixels, to_uint8
from stillmotion.models.autoencoder import Autoencoder
from stillmotion.models.components import Components
from stillmotion.models.mapped import file_pages
from stillmotion.pipelines.image_to_video import VideoSettings, animate, decode, guided_denoiser
from stillmotion.pipelines.memory import Workload, plan_memory, predict
from stillmotion.placement import DTYPES, Compile, DType, Placement, Savings, Stage
from stillmotion.presets import Preset

from .networks import (
    FPS,
    GUIDANCE,
    MOTION_BUCKET,
    NOISE_AUG,
    PRESETS,
    Request,
    components,
    filled,
    picture,
    step_condition,
)

# What needs the least memory without waiting long.
LEAN = Savings(branches="in-turn", keeps_order=False, decode_frames=1)
ANY = Request(1, 64, 64)
# Of a generation, of which a guided step is one.
USUAL_STEPS = 25
NAMES = {value: name for name, value in DTYPES.items()}


class Side:
    """A model of ours, ready to run."""

    def __init__(self, stage: Stage, preset: Preset) -> None:
        self.stage = stage
        self.preset = preset

    def guided_step(self, latents: Tensor, sigma: float) -> Callable[[], Tensor]:
        """A call that denoises latents `b t c h w` once, both branches; preparation for a generation is done here."""
        cfg, stage = self.preset.unet, self.stage
        condition = step_condition(self.preset, latents).to(stage.device, stage.dtype)
        x, level = latents.to(stage.device), torch.tensor(sigma, device=stage.device)
        assert latents.shape[2] == cfg.out_channels
        with torch.inference_mode():
            scale = scales(Linear(low=GUIDANCE[0], high=GUIDANCE[1]), latents.shape[1])
            kept = stage.kept_for(USUAL_STEPS)
            network = stage.components.unet
            denoise = guided_denoiser(network, condition, scale, compiled=stage.compiled, kept=kept)

        def step() -> Tensor:
            with torch.inference_mode():
                return denoise(x, level)

        return step

    def decode(self, latents: Tensor, request: Request) -> Callable[[], Tensor]:
        """A call that decodes scaled latents to frames in float32."""
        settings, there = settings_of(request), latents.to(self.stage.device)

        def run() -> Tensor:
            with torch.inference_mode():
                return decode(self.stage, there, settings).float()

        return run

    def generate(self, request: Request, seed: int = 0) -> np.ndarray:
        """Image in, uint8 frames `t h w c` out."""
        image = to_pixels([picture(request.width, request.height)])
        return to_uint8(animate(self.stage, image, settings_of(request), [seed])[0])

    def predicted_bytes(self, request: Request) -> int:
        """The peak that the memory plan says this video has under the side's own placement."""
        is_mapped = bool(file_pages(self.stage.components.unet.parameters()))
        load = Workload(self.preset, settings_of(request), request.width, request.height, is_mapped)
        return predict(load, self.stage.placement).peak_bytes


def settings_of(request: Request) -> VideoSettings:
    """The request in our words."""
    return VideoSettings(
        frames=request.frames,
        steps=request.steps,
        guider=Linear(low=request.guidance[0], high=request.guidance[1]),
        sigmas=Karras(sigma_max=request.sigma_max),
        fps=FPS,
        motion_bucket=MOTION_BUCKET,
        noise_aug=NOISE_AUG,
        chunk=request.chunk,
    )


def side_of(networks: Components, preset: Preset, dtype: str, device: str) -> Side:
    """The networks under our own settings, but for the precision."""
    return Side(Stage(networks, _placement(dtype, device)), preset)


def _compiled_on(device: str) -> Compile:
    """Warm figures of a GPU are those of compiled code; a processor's prepared network does without."""
    return "region" if torch.device(device).type == "cuda" else "off"


def decoder_alone(preset: Preset, dtype: torch.dtype, device: str) -> Side:
    """The autoencoder with random weights; what else a model has is small."""
    small = components(PRESETS["small"], dtype)
    small.autoencoder = filled(lambda: Autoencoder(preset.autoencoder), dtype)
    return side_of(small, preset, NAMES[dtype], device)


def from_folder(folder: Path, preset: Preset, dtype: str, device: str, plan: str = "", request: Request = ANY) -> Side:
    """Load a diffusers folder as it is stored.

    plan: nothing for how it comes, `lean`, `streamed` for lean with weights that wait in their file, or the bytes that
    the memory plan may use for the request.
    """
    placement = _placement(dtype, device)
    if not plan:
        return side_of(load(folder, dtype=DTYPES[dtype]).components, preset, dtype, device)
    if plan in ("lean", "streamed"):
        offload = "model" if plan == "lean" else "sequential"
        placement = dataclasses.replace(placement, offload=offload, savings=LEAN)
    else:
        workload = Workload(preset, settings_of(request), request.width, request.height)
        placement = plan_memory(workload, placement, int(plan)).placement
    networks, _ = folder_networks(folder_preset(folder, folder), None)
    return Side(Stage(networks, placement, lambda name: load_network(folder, name)), preset)


def _placement(dtype: str, device: str) -> Placement:
    """Where our side runs, and in which of DTYPES."""
    return Placement(device=device, dtype=cast(DType, dtype), compile=_compiled_on(device))
