"""Decoding layer by layer: the frames of decoding all at once, in the memory of one activation of the video.

Convolutions within a frame see one frame, convolutions over time one pixel, and only the statistics of the temporal
norms see everything. So each layer runs over frames, or over pixels, a few at a time, on the whole video's activation
that is parked between layers, and changes it in place. The statistics of a layer's result are taken as it is made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UsageError
from ..events import Progress, Watch, unwatched
from .autoencoder import Autoencoder, AutoencoderConfig, Decoder
from .parked import Park, Room, keep_heap
from .streamed_steps import Run, advance, enter, leave, multiplications, peak_bytes, run_in, steps_of


@torch.no_grad()
def decode_streamed(
    autoencoder: Autoencoder,
    latents: Float[Tensor, "b t c h w"],
    frames_at_once: int,
    *,
    rows_at_once: int | None = None,
    park: Park = "device",
    watch: Watch = unwatched,
) -> Float[Tensor, "b t c2 h2 w2"]:
    """Frames of unscaled `latents`: those of `autoencoder.decode`, up to rounding, whatever the other arguments.

    The computation runs where `latents` are; weights are fetched from where they are, layer by layer.
    frames_at_once: how many go through a layer together. Where it is all of them, a second activation of the video
    spares a product in every temporal block at full size.
    rows_at_once: work on bands of so many rows, and park what lies between two convolutions of a frame as well, for
    frames that are too large for the device.
    park: where the video waits between layers.
    Raises UsageError for sizes below 1, and where the disk has no room.
    """
    for name, value in (("frames_at_once", frames_at_once), ("rows_at_once", rows_at_once)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; expected at least 1.")
    decoder, (videos, frames) = autoencoder.decoder, latents.shape[:2]
    room = Room(park, latents.device, latents.dtype)
    work = videos * frames * multiplications(decoder, *latents.shape[-2:])
    run = run_in(room, frames_at_once, frames, rows_at_once, _counted(watch, videos * frames, work))
    if "post_quant_conv" in autoencoder._modules:
        latents = autoencoder.post_quant_conv(latents.flatten(0, 1)).unflatten(0, (videos, frames))
    together = _together(run, autoencoder.cfg, frames, *latents.shape[-2:])
    keep_heap(room.device)
    return torch.stack(
        [torch.cat([_decoded(run, decoder, part) for part in video.split(together)]) for video in latents]
    )


def decode_peak_bytes(
    cfg: AutoencoderConfig,
    latents_shape: tuple[int, int, int],
    frames_at_once: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    rows_at_once: int | None = None,
    park: Park = "device",
) -> int:
    """The most memory of the device that `decode_streamed` of one video needs at once, beside the network's weights.

    latents_shape: frames, height and width. Other arguments are those of the decode.
    """
    frames, height, width = latents_shape
    with torch.device("meta"):
        decoder = Autoencoder(cfg).decoder.to(dtype)
    run = run_in(Room(park, device, dtype), frames_at_once, frames, rows_at_once, lambda amount: None)
    together = _together(run, cfg, frames, height, width)
    return peak_bytes(run, decoder, together, height, width)


def _together(run: Run, cfg: AutoencoderConfig, frames: int, height: int, width: int) -> int:
    """How many frames go through the whole decoder together: those of the image decoder stand alone."""
    if cfg.decoder == "temporal":
        return frames
    return min(frames, run.frames(height * cfg.downsampling, width * cfg.downsampling, cfg.channels[0]))


def _decoded(run: Run, decoder: Decoder, latents: Float[Tensor, "t c h w"]) -> Float[Tensor, "t c2 h2 w2"]:
    clip = enter(run, decoder.conv_in, latents)
    for step in steps_of(decoder):
        clip = advance(run, step, clip)
    return leave(run, decoder, clip)


def _counted(watch: Watch, frames: int, total: int) -> Callable[[int], None]:
    """Hears of work done, and tells it to `watch` as a number of frames."""
    done = 0

    def worked(amount: int) -> None:
        nonlocal done
        before, done = done * frames // total, done + amount
        if done * frames // total > before:
            watch(Progress("decode", done * frames // total, frames))

    watch(Progress("decode", 0, frames))
    return worked
