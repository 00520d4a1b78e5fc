"""Encoding layer by layer: the latents of encoding an image at once, in the memory of two of its activations or less.

As `streaming` does on the way up: each layer runs over bands of rows, on the activation that is parked between layers,
and the statistics of a layer's result are taken as it is made. Nothing is cut into tiles, so nothing is seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..nn.attention import FrameAttention
from ..nn.resample import Downsample
from ..nn.resnet import ResnetBlock
from .autoencoder import Autoencoder, AutoencoderConfig, Encoder, EncoderLevel, Moments
from .bands import BANDS, PLAIN_BANDS, ROW_BANDS, is_summed_apart, kernel_of, spans, within_frames
from .moments import Moments as Statistics
from .moments import affine, joined, moments_of, pooled
from .parked import Park, Room, keep_heap
from .streamed_steps import Run, attend_within, kernels_of, run_in, twice_within

ROWS = 64
Parked = tuple[Float[Tensor, "1 h w c"], Statistics]
Made = tuple[Float[Tensor, "1 h2 w2 c2"], Statistics]


@torch.no_grad()
def encode_streamed(
    autoencoder: Autoencoder,
    frames: Float[Tensor, "b t c h w"],
    *,
    rows_at_once: int | None = None,
    park: Park = "device",
) -> Moments:
    """The distribution of `autoencoder.encode`, up to rounding, whatever the other arguments.

    The computation runs where `frames` are, one after the other; weights are fetched from where they are, layer by
    layer. rows_at_once: of a band; None for as many as the cache of a CPU holds, and ROWS elsewhere or where a frame
    waits on disk. park: where it waits between layers.
    Raises UsageError for rows below 1, and where the disk has no room.
    """
    if rows_at_once is not None and rows_at_once < 1:
        raise UsageError(f"rows_at_once is {rows_at_once}; expected at least 1.")
    room = Room(park, frames.device, frames.dtype)
    run = _run(room, rows_at_once)
    keep_heap(room.device)
    encoded = torch.cat([_encoded(run, autoencoder.encoder, frame) for frame in frames.flatten(0, 1).split(1)])
    return Moments(autoencoder.quant_conv(encoded).unflatten(0, frames.shape[:2]))


def encode_peak_bytes(
    cfg: AutoencoderConfig,
    size: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    *,
    rows_at_once: int | None = None,
    park: Park = "device",
) -> int:
    """The most memory of the device that `encode_streamed` of one image needs at once, beside the network's weights.

    size: height and width of the image. Other arguments are those of the encoding.
    """
    run = _run(Room(park, device, dtype), rows_at_once)
    is_cpu = device.type == "cpu"
    is_here = park == "device" or (park == "host" and is_cpu)
    (height, width), inputs, peak, laid_out = size, cfg.channels[0], 0, 0
    for level, channels in enumerate(cfg.channels):
        pixels, widest = height * width, max(inputs, channels)
        is_summed = is_summed_apart(widest, dtype, device)
        bands = (BANDS if dtype == torch.float32 else ROW_BANDS) if is_summed else PLAIN_BANDS
        band = bands * (min(height, run.rows(height, width, widest)) + 2) * width * widest
        held = pixels * (channels + (widest if inputs != channels else 0) + channels)
        tokens = 6 * pixels * channels if level == len(cfg.channels) - 1 else 0
        peak = max(peak, is_here * held + band, is_here * pixels * channels + tokens)
        # Two convolutions of 3x3 taps laid out, and the larger one's taps summed in float32.
        taps = 9 * channels * widest
        laid_out = max(laid_out, 4 * taps + 3 * is_summed * taps * (torch.float32.itemsize // dtype.itemsize or 1))
        height, width, inputs = (height, width, inputs) if level == len(cfg.channels) - 1 else (
            height // 2, width // 2, channels
        )  # fmt: skip
    return dtype.itemsize * (peak + (laid_out if is_cpu else 0))


def _run(room: Room, rows_at_once: int | None) -> Run:
    if rows_at_once is None and (room.device.type != "cpu" or room.park == "disk"):
        rows_at_once = ROWS
    return run_in(room, 1, 1, rows_at_once, lambda amount: None)


def _encoded(run: Run, encoder: Encoder, image: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 c2 h2 w2"]:
    parked = _entered(run, encoder.conv_in, image.permute(0, 2, 3, 1))
    for level in cast(Iterable[EncoderLevel], encoder.down_blocks):
        for block in cast(Iterable[ResnetBlock], level.resnets):
            parked = _block(run, block, parked)
        if "downsamplers" in level._modules:
            parked = _halved(run, cast(Downsample, level.downsamplers[0]).conv, parked[0])
    first, last = cast(Iterable[ResnetBlock], encoder.mid_block.resnets)
    part, _ = _block(run, first, parked)
    attended = part, attend_within(run, cast(FrameAttention, encoder.mid_block.attentions[0]), part)
    part, moments = _block(run, last, attended)
    kernel = kernel_of(encoder.conv_out, run.room.device)
    target = torch.empty(*part.shape[:3], kernel.outputs, dtype=part.dtype, device=run.room.device)
    norm, rows = affine(encoder.conv_norm_out, moments), run.rows(*part.shape[1:])
    within_frames(part, norm, kernel, target, rows, run.bands)
    return target.permute(0, 3, 1, 2).contiguous()


def _entered(run: Run, conv: nn.Conv2d, image: Float[Tensor, "1 h w c"]) -> Made:
    _, height, width, _ = image.shape
    kernel = kernel_of(conv, run.room.device)
    target = run.room.parked(1, height, width, kernel.outputs)
    return within_frames(image, None, kernel, target, run.rows(height, width, kernel.outputs), run.bands)


def _block(run: Run, block: ResnetBlock, parked: Parked) -> Made:
    return twice_within(run, block, kernels_of(block, run.room.device), *parked)


def _halved(run: Run, conv: nn.Conv2d, part: Float[Tensor, "1 h w c"]) -> Made:
    """A convolution of stride 2, which sees a row of zeros below the image and a column beside it."""
    device, (_, height, width, channels) = run.room.device, part.shape
    run.hidden.release()  # before as much is taken again
    weight = conv.weight.to(device).contiguous(memory_format=torch.channels_last)
    bias = None if conv.bias is None else conv.bias.to(device)
    target = run.room.parked(1, height // 2, width // 2, len(weight))
    found, heights = [], []
    for top, bottom in spans(height // 2, max(1, run.rows(height, width, channels) // 2)):
        window = part[:, 2 * top : 2 * bottom + 1].to(device).permute(0, 3, 1, 2)
        padded = F.pad(window, (0, 1, 0, 2 * (bottom - top) + 1 - window.shape[2]))
        band = F.conv2d(padded, weight, bias, stride=2).permute(0, 2, 3, 1)
        target[:, top:bottom].copy_(band)
        found.append(joined([moments_of(frame.flatten(0, 1)) for frame in band]))
        heights.append(bottom - top)
    return target, pooled(found, heights)
