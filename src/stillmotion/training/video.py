"""Training the video U-Net and the image encoder together on clips whose motion is known."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..checkpoints.store import write
from ..conditioning import Condition, drop_conditions, embed_image, image_latents, micro_conditions
from ..diffusion.loss import denoising_loss, velocity_weight
from ..diffusion.precondition import VWithEDMNoise, denoised
from ..diffusion.sigmas import draw_log_normal
from ..events import Progress, Watch, unwatched
from ..models.autoencoder import Autoencoder
from ..models.image_encoder import ImageEncoder, build_image_encoder
from ..models.unet import UNet
from ..presets import Preset
from .config import VideoTraining
from .ema import Ema
from .loop import device_of, generator, mixed_precision, train
from .toys import VERSION, ToyConfig, render_clip

CLIPS_A_FILE = 100


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedClips:
    """Clips ready for the U-Net: scaled latents of every frame, the first frame's pixels, and the true labels."""

    latents: Tensor  # n t c h w, float16
    first_frames: Tensor  # n c h w, uint8
    fps: Tensor
    motion_bucket: Tensor

    def __len__(self) -> int:
        return len(self.fps)


@dataclasses.dataclass(frozen=True, slots=True)
class Rendered:
    """Clips before the encoder, in arrays: tensors would go from process to process through scarce shared memory."""

    frames: np.ndarray  # n t c h w, in [-1, 1]
    fps: list[float]
    motion_bucket: list[float]


@dataclasses.dataclass(frozen=True, slots=True)
class VideoNetworks:
    """What this stage trains, and the frozen autoencoder that it trains against."""

    unet: UNet
    image_encoder: ImageEncoder
    autoencoder: Autoencoder


def new_networks(preset: Preset, autoencoder: Autoencoder, seed: int) -> VideoNetworks:
    """Fresh networks of the preset's shapes beside a trained autoencoder."""
    torch.manual_seed(seed)
    unet = UNet(preset.unet)
    unet.zero_last_layers()
    return VideoNetworks(unet, build_image_encoder(preset.image_encoder), autoencoder.eval().requires_grad_(False))


def train_video(
    cfg: VideoTraining, networks: VideoNetworks, clips: EncodedClips, folder: Path, watch: Watch = unwatched
) -> Ema:
    """Train U-Net and image encoder with EDM noise, one level a video. Returns the averages."""
    unet, device = networks.unet, device_of(cfg.loop)
    networks.autoencoder.to(device)

    def loss(step: int) -> Tensor:
        batch = batch_of(cfg, clips, step)
        latents = batch.latents.float().to(device)
        draw = generator(cfg.loop.seed, step, stream=2)
        deviates = torch.randn(len(batch), generator=draw)
        sigma = draw_log_normal(cfg.sigma_mean, cfg.sigma_deviation, deviates).to(device)
        noise = torch.randn(latents.shape, generator=draw).to(device)
        noisy = latents + sigma[:, None, None, None, None] * noise
        with mixed_precision(cfg.loop), _attention_of_short_rows(device):
            condition = draw_condition(cfg, networks, batch, draw)

            def network(x: Tensor, c_noise: Tensor) -> Tensor:
                return unet(condition.beside(x), c_noise, condition.context, condition.numbers)

            estimate = denoised(network, VWithEDMNoise(), noisy, sigma)
        return denoising_loss(estimate, latents, velocity_weight(sigma))

    modules = {"unet": unet, "image_encoder": networks.image_encoder}
    return train(cfg.loop, modules, loss, folder, watch, cfg)


def draw_condition(
    cfg: VideoTraining, networks: VideoNetworks, batch: EncodedClips, draw: torch.Generator
) -> Condition:
    """The condition of a batch: noised first frames, their embeddings and labels, some of them hidden."""
    device = networks.autoencoder.quant_conv.weight.device
    images = batch.first_frames.float().to(device) / 127.5 - 1
    count = len(batch)
    noise_aug = draw_log_normal(cfg.noise_aug_mean, cfg.noise_aug_deviation, torch.randn(count, generator=draw))
    pixel_noise = torch.randn(images.shape, generator=draw)
    with torch.no_grad():
        latents = image_latents(networks.autoencoder, images, noise_aug.to(device), pixel_noise)
    numbers = micro_conditions(batch.fps, batch.motion_bucket, noise_aug, count).to(device)
    condition = Condition(embed_image(networks.image_encoder, images), latents, numbers)
    return drop_conditions(condition, torch.rand(count, generator=draw).to(device), cfg.dropout)


def _attention_of_short_rows(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """On the CPU, attention by plain products: at 14 frames and 160 pixels torch's fused backward pass is slower."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def batch_rows(cfg: VideoTraining, clips: int, step: int) -> Tensor:
    """Rows of the batch of `step`: every epoch is one shuffle of the whole data set."""
    size = cfg.loop.batch_size
    rows = [step * size + i for i in range(size)]
    orders = {epoch: _order(cfg.loop.seed, clips, epoch) for epoch in {row // clips for row in rows}}
    return torch.stack([orders[row // clips][row % clips] for row in rows])


def batch_of(cfg: VideoTraining, clips: EncodedClips, step: int) -> EncodedClips:
    """The clips of the batch of `step`; in the first steps, as `cfg.short_share` says, they end in their middle."""
    rows = batch_rows(cfg, len(clips), step)
    frames = clips.latents.shape[1] if step >= cfg.short_share * cfg.loop.steps else -(-clips.latents.shape[1] // 2)
    return EncodedClips(
        clips.latents[rows, :frames], clips.first_frames[rows], clips.fps[rows], clips.motion_bucket[rows]
    )


def encode_clips(cfg: VideoTraining, autoencoder: Autoencoder, folder: Path, watch: Watch = unwatched) -> EncodedClips:
    """Render and encode the data set once, in files of a hundred clips that a killed run keeps.

    A file's name holds a digest of the scenes' settings and of the encoder, so that none is taken for another's.
    Several files at once are rendered by processes of their own, one a processor: beside a GPU, rendering is what takes
    the time.
    """
    digest, starts = _digest(cfg, autoencoder), range(0, cfg.clips, CLIPS_A_FILE)
    parts_seeds = [range(cfg.first_seed + at, cfg.first_seed + min(at + CLIPS_A_FILE, cfg.clips)) for at in starts]
    paths = [Path(folder) / f"clips-{digest}-{seeds.start}-{len(seeds)}.safetensors" for seeds in parts_seeds]
    missing = [seeds for seeds, path in zip(parts_seeds, paths, strict=True) if not path.exists()]
    parts = []
    with _rendering(cfg.toys, missing) as rendered:
        for seeds, path in zip(parts_seeds, paths, strict=True):
            if seeds in missing:
                write(path, {name: [tensor] for name, tensor in _encode(cfg, autoencoder, next(rendered)).items()})
            parts.append(load_file(path))
            watch(Progress("encode clips", seeds.stop - cfg.first_seed, cfg.clips))
    whole = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    return EncodedClips(**whole)


@torch.no_grad()
def latent_deviation(autoencoder: Autoencoder, cfg: VideoTraining, scenes: int = 64) -> float:
    """Standard deviation of the unscaled latents over scenes that no data set holds; its inverse is the scale."""
    toys = dataclasses.replace(cfg.toys, frames=1)
    frames = torch.stack([render_clip(toys, 500_000_000 + i).frames for i in range(scenes)])
    return autoencoder.encode(frames).mean.std().item()


@contextlib.contextmanager
def _rendering(toys: ToyConfig, parts: Sequence[range]) -> Iterator[Iterator[Rendered]]:
    """The clips of each range of seeds in turn; a process each pays for its start from the second range on."""
    if len(parts) < 2:
        yield (_render(toys, seeds) for seeds in parts)
        return
    workers = min(len(parts), os.cpu_count() or 1)
    context = multiprocessing.get_context("spawn")  # a fork of a process that computes may hang
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        ahead: deque[Future[Rendered]] = deque()
        waiting = iter(parts)

        def in_order() -> Iterator[Rendered]:
            while True:
                # Only so many ahead as there are workers: a hundred clips are 170 MB.
                ahead.extend(pool.submit(_render, toys, seeds) for seeds in islice(waiting, workers - len(ahead)))
                if not ahead:
                    return
                yield ahead.popleft().result()

        yield in_order()


def _render(toys: ToyConfig, seeds: range) -> Rendered:
    clips = [render_clip(toys, seed) for seed in seeds]
    frames = torch.stack([clip.frames for clip in clips])
    return Rendered(frames.numpy(), [clip.fps for clip in clips], [clip.motion_bucket for clip in clips])


@torch.no_grad()
def _encode(cfg: VideoTraining, autoencoder: Autoencoder, clips: Rendered) -> dict[str, Tensor]:
    scale, device = autoencoder.cfg.scaling_factor, device_of(cfg.loop)
    autoencoder.to(device)
    frames = torch.from_numpy(clips.frames)
    with mixed_precision(cfg.loop):
        latents = [autoencoder.encode(clip[None].to(device)).mean[0].float().cpu() * scale for clip in frames]
    return {
        "latents": torch.stack(latents).half(),
        "first_frames": ((frames[:, 0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8),
        "fps": torch.tensor(clips.fps),
        "motion_bucket": torch.tensor(clips.motion_bucket),
    }


def _digest(cfg: VideoTraining, autoencoder: Autoencoder) -> str:
    """Eight hexadecimal digits that change with the scenes, the latents' scale or the encoder's weights."""
    digest = hashlib.sha256(repr((VERSION, cfg.toys, cfg.loop.precision, autoencoder.cfg.scaling_factor)).encode())
    for parameter in (*autoencoder.encoder.parameters(), *autoencoder.quant_conv.parameters()):
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def _order(seed: int, clips: int, epoch: int) -> Tensor:
    return torch.randperm(clips, generator=generator(seed, epoch, stream=3))
