"""Images in and videos out, under diffusers' names and arguments."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError
from ..media.download import load_image as open_image
from ..media.fitting import fit
from ..media.formats import CODECS, Encoding, quality_of
from ..media.images import upright_rgb
from ..media.pixels import to_images, to_pixels
from ..media.video import write_video

# One image of a request: an RGB image, or floats in [0, 1].
Picture = Image.Image | Float[Tensor, "3 h w"]
Images = Image.Image | np.ndarray | Tensor | Sequence[Image.Image | np.ndarray | Tensor]


def load_image(
    image: str | os.PathLike[str] | Image.Image,
    convert_method: Callable[[Image.Image], Image.Image] | None = None,
) -> Image.Image:
    """An image from a path, an http or https address, or an open one: upright, in sRGB, mode "RGB".

    `convert_method` is applied to that; in diffusers it is applied to the image as stored. Raises MediaError where it
    cannot be read, UsageError for something else than an image or its place.
    """
    if not isinstance(image, str | os.PathLike | Image.Image):
        raise UsageError(f"the image is a {type(image).__name__}; expected a path, an address or a PIL image.")
    opened = open_image(image)
    return opened if convert_method is None else convert_method(opened)


def export_to_video(
    video_frames: Sequence[Image.Image | np.ndarray | Tensor] | np.ndarray | Tensor,
    output_video_path: str | os.PathLike[str] | None = None,
    fps: float = 10,
    quality: float | None = 5.0,
    bitrate: int | None = None,
    macro_block_size: int | None = 16,
) -> str:
    """Write frames as an H.264 mp4, over an older one, and return its path: a new temporary file where there is none.

    video_frames: PIL images, arrays (h, w, 3) or tensors (3, h, w), or one array or tensor of all; floats are in
    [0, 1]. quality: 0 to 10, mapped to x264's constant rate factor as imageio does; None is our own default.
    `bitrate` and `macro_block_size` are accepted and change nothing: the quality decides the bits, and any size is
    kept but for an odd one, which gets one more row or column. Raises UsageError or StillmotionError.
    """
    if quality is not None and not 0 <= quality <= 10:
        raise UsageError(f"quality is {quality}; expected 0 to 10, or None.")
    frames = _as_bytes(video_frames)
    path = _temporary_mp4() if output_video_path is None else Path(output_video_path)
    encoding = Encoding()
    if quality is not None:
        encoding = Encoding(quality=quality_of(CODECS["h264"], max(1, int((1 - quality / 10) * 51))))
    try:
        write_video(path, frames, fps, encoding, overwrite=True)
    except BaseException:
        if output_video_path is None:
            path.unlink()
        raise
    return str(path)


def pictures(images: Images) -> list[Picture]:
    """The images of a request, one entry each, of any size.

    They are PIL images, arrays `h w c` or `b h w c`, tensors `c h w` or `b c h w`, or lists of them. Floats are in
    [0, 1]; whole numbers are bytes. Grey images become RGB, transparency is laid over white. Raises UsageError for
    anything else.
    """
    if isinstance(images, Image.Image):
        return [upright_rgb(images)]
    if isinstance(images, np.ndarray):
        return _of_array(images)
    if isinstance(images, Tensor):
        return _of_tensor(images)
    if not isinstance(images, list | tuple):
        raise UsageError(f"the image is a {type(images).__name__}; expected a PIL image, an array, a tensor or a list.")
    if not images:
        raise UsageError("the list of images is empty; expected at least one.")
    return [picture for image in images for picture in pictures(image)]


def to_signed(picture: Picture) -> Float[Tensor, "1 3 h w"]:
    """One picture at its own size as floats in [-1, 1]."""
    if isinstance(picture, Image.Image):
        return to_pixels([picture])
    return picture[None].float() * 2 - 1


def stretched(picture: Picture, height: int, width: int) -> Float[Tensor, "1 3 H W"]:
    """One picture resized, without regard to its aspect, as floats in [-1, 1]; a tensor keeps its precision.

    Lanczos for images, an antialiased cubic for tensors of another size.
    """
    if isinstance(picture, Image.Image):
        return to_pixels([fit(picture, width, height, "stretch")])
    pixels = picture[None]
    if pixels.shape[-2:] != (height, width):
        resized = F.interpolate(pixels.float(), size=(height, width), mode="bicubic", antialias=True)
        pixels = resized.clamp(0, 1).to(pixels.dtype)
    return pixels * 2 - 1


def as_output(frames: Float[Tensor, "b t c h w"], output_type: str) -> list[list[Image.Image]] | np.ndarray | Tensor:
    """Frames near [-1, 1] as PIL images, as an array `b t h w c` or as a tensor `b t c h w`, floats in [0, 1]."""
    if output_type == "pil":
        return [to_images(video) for video in frames]
    unsigned = (frames / 2 + 0.5).clamp(0, 1)
    return unsigned if output_type == "pt" else unsigned.cpu().permute(0, 1, 3, 4, 2).numpy()


def _of_array(values: np.ndarray) -> list[Picture]:
    if values.ndim == 4:
        return [picture for image in values for picture in _of_array(image)]
    channels = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise UsageError(f"the image array has the shape {values.shape}; expected h w, h w c or b h w c.")
    if values.dtype == np.uint8:
        return [upright_rgb(Image.fromarray(values.squeeze(2) if values.ndim == 3 and channels == 1 else values))]
    pixels = torch.from_numpy(np.ascontiguousarray(values)).reshape(*values.shape[:2], channels).permute(2, 0, 1)
    if channels == 4:
        pixels = pixels[:3] * pixels[3:] + (1 - pixels[3:])
    return _of_tensor(pixels)


def _of_tensor(values: Tensor) -> list[Picture]:
    batch = values[None] if values.ndim == 3 else values
    if batch.ndim != 4 or batch.shape[1] not in (1, 3) or 0 in batch.shape:
        raise UsageError(f"the image tensor has the shape {tuple(values.shape)}; expected 3 h w or b 3 h w.")
    if batch.dtype == torch.uint8:
        batch = batch.float() / 255
    if not batch.is_floating_point() or not (batch.min() >= 0 and batch.max() <= 1):
        found = f"{batch.min().item():g} to {batch.max().item():g} in {batch.dtype}"
        raise UsageError(f"the image's values are {found}; expected floats in [0, 1], or uint8.")
    return list(batch.expand(-1, 3, -1, -1))


def _as_bytes(
    frames: Sequence[Image.Image | np.ndarray | Tensor] | np.ndarray | Tensor,
) -> UInt8[np.ndarray, "t h w 3"]:
    if len(frames) == 0:
        raise UsageError("there are no frames; expected at least one.")
    made = [_frame_bytes(frame) for frame in frames]
    shapes = sorted({frame.shape for frame in made})
    if len(shapes) > 1 or len(shapes[0]) != 3 or shapes[0][2] != 3:
        raise UsageError(f"the frames have the shapes {', '.join(map(str, shapes))}; expected one, (h, w, 3).")
    return np.stack(made)


def _frame_bytes(frame: Image.Image | np.ndarray | Tensor) -> UInt8[np.ndarray, "h w c"]:
    if isinstance(frame, Image.Image):
        return np.asarray(frame.convert("RGB"))
    if isinstance(frame, Tensor):
        frame = frame.detach().cpu()
        frame = frame.movedim(0, -1) if frame.ndim == 3 and frame.shape[0] == 3 else frame
        frame = (frame.float() if frame.is_floating_point() else frame).numpy()
    if not isinstance(frame, np.ndarray):
        raise UsageError(f"a frame is a {type(frame).__name__}; expected a PIL image, an array or a tensor.")
    if frame.dtype == np.uint8:
        return frame
    if not np.issubdtype(frame.dtype, np.floating) or not np.isfinite(frame).all():
        raise UsageError(f"a frame has {frame.dtype} values that are no finite floats; expected [0, 1], or uint8.")
    return (frame.clip(0, 1) * 255).round().astype(np.uint8)


def _temporary_mp4() -> Path:
    handle, name = tempfile.mkstemp(suffix=".mp4")
    os.close(handle)
    return Path(name)
