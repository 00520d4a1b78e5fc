"""Training the autoencoder on rendered scenes: frames first, then the decoder's layers across frames."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..events import Watch, unwatched
from ..models.autoencoder import Autoencoder, AutoencoderConfig
from .config import AutoencoderTraining
from .ema import Ema
from .leaves import dead_leaves
from .loop import device_of, generator, mixed_precision, train
from .toys import ToyConfig, render_clip


def train_frames(
    cfg: AutoencoderTraining, model: AutoencoderConfig, folder: Path, watch: Watch = unwatched
) -> tuple[Autoencoder, Ema]:
    """Train encoder and frame-wise decoder on single frames. Returns the network and its averages.

    The layer between latents and decoder stays the identity, and so does what only the frame-wise decoder has, so
    that its weights are also those of the frame-wise layers of the temporal decoder.
    """
    torch.manual_seed(cfg.loop.seed)
    network = Autoencoder(dataclasses.replace(model, decoder="image"))
    torch.nn.init.dirac_(network.post_quant_conv.weight)
    assert network.post_quant_conv.bias is not None
    torch.nn.init.zeros_(network.post_quant_conv.bias)
    network.post_quant_conv.requires_grad_(False)
    skip_extra_middle(network)
    device = device_of(cfg.loop)

    def loss(step: int) -> Tensor:
        frames = batch_of_frames(cfg, step).to(device)
        noise_source = generator(cfg.loop.seed, step, stream=1)
        with mixed_precision(cfg.loop):
            moments = network.encode(frames)
            latents = moments.sample(torch.randn(moments.mean.shape, generator=noise_source).to(device))
            decoded = network.decode(latents)
        kl = moments.kl().mean() / moments.mean[0].numel()
        return reconstruction_loss(decoded.float(), frames, cfg) + cfg.kl_weight * kl

    return network, train(cfg.loop, {"autoencoder": network}, loss, folder, watch, cfg)


def skip_extra_middle(network: Autoencoder) -> None:
    """Make what the frame-wise decoder's middle has beyond the temporal one an identity, for good.

    The temporal decoder counts its middle blocks by `layers`; with one, it has no attention there either.
    """
    if network.cfg.layers > 1:
        return
    middle = network.decoder.mid_block
    for last in (middle.attentions.get_submodule("0.to_out.0"), middle.resnets.get_submodule("1.conv2")):
        for parameter in last.parameters():
            torch.nn.init.zeros_(parameter)
    middle.attentions.requires_grad_(False)
    middle.resnets[1].requires_grad_(False)


def train_clips(
    cfg: AutoencoderTraining,
    model: AutoencoderConfig,
    frames_model: Autoencoder,
    folder: Path,
    watch: Watch = unwatched,
) -> tuple[Autoencoder, Ema]:
    """Train the decoder's layers across frames behind a frozen encoder, starting from the frame-wise decoder."""
    torch.manual_seed(cfg.loop.seed)
    network = temporal_from_frames(model, frames_model)
    network.encoder.requires_grad_(False)
    network.quant_conv.requires_grad_(False)
    device = device_of(cfg.loop)

    def loss(step: int) -> Tensor:
        clips = batch_of_clips(cfg, step).to(device)
        with mixed_precision(cfg.loop):
            with torch.no_grad():
                latents = network.encode(clips).mean
            decoded = network.decode(latents)
        return reconstruction_loss(decoded.float(), clips, cfg)

    return network, train(cfg.loop, {"autoencoder": network}, loss, folder, watch, cfg)


def temporal_from_frames(model: AutoencoderConfig, frames_model: Autoencoder) -> Autoencoder:
    """A temporal autoencoder whose frame-wise layers are those of `frames_model`, and whose rest adds nothing yet."""
    network = Autoencoder(dataclasses.replace(model, decoder="temporal"))
    given = frames_model.state_dict()
    state = network.state_dict()
    for key in state:
        source = key.replace("spatial_res_block.", "")
        if source in given:
            state[key] = given[source].clone()
        elif "temporal_res_block.conv2" in key:
            state[key] = torch.zeros_like(state[key])
    state["decoder.time_conv_out.weight"] = (
        torch.eye(3)[:, :, None, None, None] * torch.tensor([0.0, 1.0, 0.0])[None, None, :, None, None]
    )
    state["decoder.time_conv_out.bias"] = torch.zeros(3)
    network.load_state_dict(state)
    return network


def reconstruction_loss(
    decoded: Float[Tensor, "b t c h w"], frames: Float[Tensor, "b t c h w"], cfg: AutoencoderTraining
) -> Float[Tensor, ""]:
    """Absolute error of pixels, of edges, of colour, and of patches the size of a latent; plus the square error.

    Pixels alone are learned as brightness long before colour: the opponent channels and the patches' means, which
    small networks neglect, get terms of their own.
    """
    error = decoded - frames
    red, green, blue = error.unbind(dim=2)
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    colour = (red - green).abs().mean() + (blue - (red + green) / 2).abs().mean()
    patches = F.avg_pool2d(error.flatten(0, 1), 8).abs().mean()
    pixels = error.abs().mean() + error.square().mean()
    return pixels + cfg.edge_weight * edges + cfg.colour_weight * colour + cfg.patch_weight * patches


def batch_of_frames(cfg: AutoencoderTraining, step: int) -> Float[Tensor, "b 1 c h w"]:
    """Pictures that no other step sees: dead leaves, and one random frame each of scenes."""
    toys = dataclasses.replace(cfg.toys, frames=1, objects=(1, 6))
    leaves = round(cfg.leaves * cfg.loop.batch_size)
    frames = []
    for i in range(cfg.loop.batch_size):
        seed = step * cfg.loop.batch_size + i
        if i < leaves:
            frames.append(dead_leaves(seed, toys.width, toys.height)[None])
        else:
            frames.append(_recoloured(render_clip(toys, seed).frames, seed))
    return torch.stack(frames)


def batch_of_clips(cfg: AutoencoderTraining, step: int) -> Float[Tensor, "b t c h w"]:
    """Short clips of scenes that no other step sees."""
    toys: ToyConfig = dataclasses.replace(cfg.toys, frames=cfg.clip_frames)
    first = step * cfg.loop.batch_size
    return torch.stack([render_clip(toys, first + i).frames for i in range(cfg.loop.batch_size)])


def _recoloured(frames: Float[Tensor, "t c h w"], seed: int) -> Float[Tensor, "t c h w"]:
    """Half of the scenes in colours beyond the palette: channels mixed at random, sometimes inverted."""
    if seed % 2:
        return frames
    draw = torch.Generator().manual_seed(seed)
    mixing = 0.5 * torch.eye(3) + 0.5 * torch.randn(3, 3, generator=draw)
    shift = 0.3 * torch.randn(3, generator=draw)
    return (torch.einsum("dc,tchw->tdhw", mixing, frames) + shift[:, None, None]).clamp(-1, 1)
