"""The embedded model's three trainings in order, and the assembly of their averaged weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from torch import nn

from ..checkpoints.load import Loaded
from ..errors import TrainingError
from ..events import Progress, Watch, unwatched
from ..models.autoencoder import Autoencoder
from ..models.components import Components
from ..models.image_encoder import build_image_encoder
from ..models.unet import UNet
from ..presets import Preset
from . import checkpoint
from .autoencoder import temporal_from_frames, train_clips, train_frames
from .config import TinyTraining
from .video import VideoNetworks, encode_clips, latent_deviation, new_networks, train_video

FRAMES, CLIPS, VIDEO, DATA = "frames", "clips", "video", "data"


def train_tiny(
    cfg: TinyTraining, preset: Preset, folder: Path, watch: Watch = unwatched, start: Loaded | None = None
) -> None:
    """Run what is not finished of the three trainings; their states lie in subfolders of `folder`.

    start: a model whose autoencoder stays as it is, and whose U-Net and image encoder are trained further: the last of
    the three trainings alone, from its weights. Raises TrainingError as the loop does.
    """
    if start is not None:
        networks = _networks_of(start)
        clips = encode_clips(cfg.video, networks.autoencoder, folder / DATA, watch)
        train_video(cfg.video, networks, clips, folder / VIDEO, _named("video", watch))
        return
    train_frames(cfg.frames, preset.autoencoder, folder / FRAMES, _named("frames", watch))
    frames_model = averaged_frames_model(preset, folder)
    train_clips(cfg.clips, preset.autoencoder, frames_model, folder / CLIPS, _named("clips", watch))
    preset = with_latent_scale(cfg, preset, frames_model)
    frames_model.cfg = dataclasses.replace(preset.autoencoder, decoder="image")
    clips = encode_clips(cfg.video, frames_model, folder / DATA, watch)
    networks = new_networks(preset, frames_model, cfg.video.loop.seed)
    train_video(cfg.video, networks, clips, folder / VIDEO, _named("video", watch))


def assemble(cfg: TinyTraining, preset: Preset, folder: Path, start: Loaded | None = None) -> tuple[Components, Preset]:
    """The averaged networks of the trainings in `folder`, and the preset with the scale of their latents.

    start: as for the training. Raises TrainingError where a training has not begun.
    """
    if start is not None:
        _load_averages(start.components.unet, folder / VIDEO, "unet")
        _load_averages(start.components.image_encoder, folder / VIDEO, "image_encoder")
        return start.components, start.preset
    frames_model = averaged_frames_model(preset, folder)
    preset = with_latent_scale(cfg, preset, frames_model)
    frames_model.cfg = dataclasses.replace(preset.autoencoder, decoder="image")
    temporal = temporal_from_frames(preset.autoencoder, frames_model)
    _load_averages(temporal, folder / CLIPS, "autoencoder")
    unet, image_encoder = UNet(preset.unet), build_image_encoder(preset.image_encoder)
    _load_averages(unet, folder / VIDEO, "unet")
    _load_averages(image_encoder, folder / VIDEO, "image_encoder")
    components = Components(unet, temporal, image_encoder, frames_model)
    for network in components.networks().values():
        network.eval().requires_grad_(False)
    return components, preset


def averaged_frames_model(preset: Preset, folder: Path) -> Autoencoder:
    """The frame-wise autoencoder with its averaged weights."""
    model = Autoencoder(dataclasses.replace(preset.autoencoder, decoder="image"))
    _load_averages(model, folder / FRAMES, "autoencoder")
    return model.eval().requires_grad_(False)


def with_latent_scale(cfg: TinyTraining, preset: Preset, autoencoder: Autoencoder) -> Preset:
    """The preset with the factor that brings this autoencoder's latents to unit deviation."""
    scale = round(1 / latent_deviation(autoencoder, cfg.video), 5)
    return dataclasses.replace(preset, autoencoder=dataclasses.replace(preset.autoencoder, scaling_factor=scale))


def _networks_of(start: Loaded) -> VideoNetworks:
    networks = start.components
    for trained in (networks.unet, networks.image_encoder):
        trained.train().requires_grad_(True)
    return VideoNetworks(networks.unet, networks.image_encoder, networks.autoencoder.eval().requires_grad_(False))


def _load_averages(network: nn.Module, folder: Path, name: str) -> None:
    found = checkpoint.averages(folder, name)
    wanted = {key: value.shape for key, value in network.named_parameters()}
    odd = [key for key in {**wanted, **found} if key not in found or wanted.get(key) != found[key].shape]
    if odd:
        raise TrainingError(
            f"the run in {folder} differs from this model in {len(odd)} tensors, the first {odd[0]}; expected its own."
        )
    network.load_state_dict(network.state_dict() | found)


def _named(stage: str, watch: Watch) -> Watch:
    return lambda event: watch(Progress(stage, event.done, event.total))
