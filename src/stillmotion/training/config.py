"""Settings of a training run."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from ..config import config, to_tree
from .toys import ToyConfig


@config
class OptimizerConfig:
    """AdamW, or Muon for the matrices, with a warm-up, a plateau and a linear descent to zero."""

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    # Of Muon's average of gradients.
    momentum: float = 0.95
    weight_decay: float = 0.01
    warmup_steps: int = 100
    # Share of all steps, at the end, over which the rate falls to zero.
    descent: float = 0.4
    # Gradients of a larger norm are scaled down to this one.
    max_grad_norm: float = 1.0
    ema_decay: float = 0.998


@config
class LoopConfig:
    """How long, how reproducibly, and what is kept."""

    seed: int = 0
    steps: int = 1000
    batch_size: int = 8
    optimizer: OptimizerConfig = OptimizerConfig()
    # Steps between resumable checkpoints and between lines of the log.
    save_every: int = 200
    log_every: int = 20
    # bf16 runs the products in bfloat16 under autocast; weights, norms' statistics and loss stay float32.
    precision: Literal["float32", "bf16"] = "float32"
    # auto, cpu, cuda, cuda:1, mps. Random numbers are drawn on the CPU, the same for every device.
    device: str = "auto"


@config
class AutoencoderTraining:
    """Frames in, frames out: first the frame-wise autoencoder, then the decoder's layers across frames."""

    loop: LoopConfig = LoopConfig()
    toys: ToyConfig = ToyConfig()
    # Share of the frames stage's pictures that are dead leaves, which stand for photographs; the rest are scenes.
    leaves: float = 0.5
    # Weight of the divergence from a unit Gaussian, a latent.
    kl_weight: float = 1e-5
    # Weight of the error of neighbouring pixels' differences, which keeps edges sharp.
    edge_weight: float = 1.0
    # Weights of the error of the two opponent colours and of the means of 8x8 pixels.
    colour_weight: float = 1.0
    patch_weight: float = 2.0
    # Neighbouring frames that the clips stage decodes together.
    clip_frames: int = 5


@config
class VideoTraining:
    """The video U-Net with the paper's recipe: EDM noise a video, dropped conditions, true fps and motion labels."""

    loop: LoopConfig = LoopConfig()
    toys: ToyConfig = ToyConfig()
    # The data set: clips of seeds first_seed ... first_seed + clips - 1, encoded once.
    clips: int = 3000
    first_seed: int = 1_000_000
    # Logarithm of the noise level: normal with this mean and deviation, one draw a video.
    sigma_mean: float = 0.7
    sigma_deviation: float = 1.6
    # Logarithm of the noise on the conditioning image: normal with this mean and deviation.
    noise_aug_mean: float = -3.0
    noise_aug_deviation: float = 0.5
    # Probability of dropping the image embedding alone, the image latents alone, and both.
    dropout: float = 0.1
    # Share of the steps, at the start, that see the first half of each clip alone: short ways are learnt first, and
    # such a step costs half.
    short_share: float = 0.0


@config
class TinyTraining:
    """The embedded model from nothing: autoencoder on frames, its decoder on clips, then the video U-Net."""

    frames: AutoencoderTraining = AutoencoderTraining(
        loop=LoopConfig(
            steps=900,
            batch_size=8,
            precision="bf16",
            save_every=50,
            optimizer=OptimizerConfig(kind="muon", lr=2e-3, warmup_steps=30, descent=0.5, ema_decay=0.99),
        ),
    )
    clips: AutoencoderTraining = AutoencoderTraining(
        loop=LoopConfig(
            steps=150,
            batch_size=2,
            precision="bf16",
            save_every=50,
            optimizer=OptimizerConfig(kind="muon", lr=5e-4, warmup_steps=20, descent=0.5, ema_decay=0.98),
        ),
        toys=ToyConfig(leaves=0.5),
    )
    # Less noise than the released models were trained with: these latents are small, and detail is what comes late.
    video: VideoTraining = VideoTraining(
        loop=LoopConfig(
            steps=3000,
            batch_size=4,
            precision="bf16",
            save_every=50,
            optimizer=OptimizerConfig(kind="muon", lr=3e-3, ema_decay=0.995),
        ),
        toys=ToyConfig(objects=(0, 3), leaves=0.5),
        clips=1600,
        sigma_mean=2.0,
        sigma_deviation=1.5,
        dropout=0.05,
        short_share=0.75,
    )


# What may change when a run goes on: how far it goes, where it runs, and what is kept on the way.
FREE = ("steps", "save_every", "log_every", "device")


def settings_digest(loop: LoopConfig, stage: AutoencoderTraining | VideoTraining | None = None) -> str:
    """Sixteen hexadecimal digits that change with every setting, but those in FREE, that changes a run's weights."""
    own = {} if stage is None else {key: value for key, value in to_tree(stage).items() if key != "loop"}
    shared = {key: value for key, value in to_tree(loop).items() if key not in FREE}
    return hashlib.sha256(json.dumps([shared, own], sort_keys=True).encode()).hexdigest()[:16]
