"""Pictures to pixels in [-1, 1], and frames back to bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ..errors import MediaError, UsageError
from .fitting import check_rgb


def to_pixels(images: Sequence[Image.Image]) -> Float[Tensor, "b c h w"]:
    """Float32 pixels in [-1, 1]: value / 127.5 - 1. Raises UsageError unless all are RGB and of one size."""
    if not images:
        raise UsageError("no image was given; expected at least one.")
    for image in images:
        check_rgb(image)
    sizes = sorted({f"{image.width}x{image.height}" for image in images})
    if len(sizes) > 1:
        raise UsageError(f"the images have the sizes {', '.join(sizes)}; expected one size.")
    values = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return values.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 127.5 - 1


def to_uint8(frames: Float[Tensor, "t c h w"]) -> UInt8[np.ndarray, "t h w c"]:
    """Frames in [-1, 1] as bytes: (x + 1) / 2 x 255, clamped and rounded; `to_pixels` is undone exactly.

    Any float dtype and device. Raises MediaError if a value is NaN: the network that made it has failed, and a black
    frame would hide that.
    """
    if frames.ndim != 4:
        raise UsageError(f"the frames have the shape {tuple(frames.shape)}; expected (t, c, h, w).")
    return np.stack([_frame_to_uint8(frame) for frame in frames]) if len(frames) else _no_frames(frames)


def to_images(frames: Float[Tensor, "t 3 h w"]) -> list[Image.Image]:
    """One RGB image a frame; the values are those of `to_uint8`, and so are the errors."""
    if frames.ndim == 4 and frames.shape[1] != 3:
        raise UsageError(f"the frames have {frames.shape[1]} channels; expected 3.")
    return [Image.fromarray(frame) for frame in to_uint8(frames)]


def _frame_to_uint8(frame: Float[Tensor, "c h w"]) -> UInt8[np.ndarray, "h w c"]:
    values = frame.detach().to("cpu", torch.float32)
    if values.isnan().any():
        bad = int(values.isnan().sum())
        raise MediaError(f"a frame holds {bad} values that are not numbers; expected values in [-1, 1].")
    return ((values + 1) / 2).clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _no_frames(frames: Float[Tensor, "0 c h w"]) -> UInt8[np.ndarray, "0 h w c"]:
    _, channels, height, width = frames.shape
    return np.zeros((0, height, width, channels), np.uint8)
