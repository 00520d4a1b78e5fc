"""A still image becomes a video in three steps: condition, sample, decode."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..conditioning import Condition, embed_image, image_latents, micro_conditions
from ..config import config
from ..diffusion import samplers
from ..diffusion.guidance import Guider, Linear, guided, scales
from ..diffusion.precondition import Denoise, VWithEDMNoise, denoised
from ..diffusion.sigmas import MAX_STEPS, Karras, Schedule, schedule
from ..errors import UsageError
from ..events import Progress, Watch, unwatched
from ..models.autoencoder import Autoencoder, Moments, decode_in_chunks
from ..models.compiled import Compiled
from ..models.heap import blocks_given_back, trim
from ..models.kept import Kept
from ..models.prepared import Network, is_plain, prepared
from ..models.streamable import can_stream, can_stream_encoder
from ..models.streamed_encode import encode_streamed
from ..models.streaming import decode_streamed
from ..models.unet import UNet
from ..placement import Stage
from .preview import Preview, check_every, preview_of

# Runs one stage of a video (encode, denoise, decode) by calling it, and returns what it made.
Attempt = Callable[[str, Callable[[], Any]], Any]
# Which branches of guidance go through the network.
Rows = Literal["both", "image", "none"]
MAX_FRAMES = 1024
MAX_SIDE_PX = 8192


@config
class VideoSettings:
    """What one video is made of, beside its image and its seed."""

    frames: int = 14
    steps: int = 25
    guider: Guider = dataclasses.field(default_factory=Linear)
    sampler: samplers.Sampler = dataclasses.field(default_factory=samplers.Euler)
    sigmas: Schedule = dataclasses.field(default_factory=Karras)
    # The true rate of the motion, in frames a second; how fast the file plays is another setting.
    fps: float = 7.0
    # How much moves: the model's own scale, 127 in the middle of its training range of 0 to 255.
    motion_bucket: float = 127.0
    # Deviation of the noise on the conditioning image, in units of its [-1, 1] range.
    noise_aug: float = 0.02
    decoder: Literal["temporal", "image"] = "temporal"
    # Frames that go through a layer of the decoder together; None leaves it to the memory plan, or takes all.
    chunk: int | None = None
    # exact: the pixels of decoding all frames together, whatever the chunk. independent: each chunk for itself, as in
    # the original and in diffusers, which shows where one ends.
    chunked: Literal["exact", "independent"] = "exact"

    def __post_init__(self) -> None:
        _check("frames", self.frames, 1, MAX_FRAMES)
        _check("steps", self.steps, 1, MAX_STEPS)
        _check("fps", self.fps, 0.1, 1000)
        _check("motion", self.motion_bucket, 0, 10_000)
        _check("noise_aug", self.noise_aug, 0, 10)
        if self.chunk is not None:
            _check("chunk", self.chunk, 1, self.frames)


def once(stage_name: str, run: Callable[[], Any]) -> Any:
    """An Attempt that takes a failure as it comes. What the stage before it left in the heap goes back first."""
    trim()
    return run()


def animate(
    stage: Stage,
    images: Float[Tensor, "b c h w"],
    settings: VideoSettings,
    seeds: Sequence[int],
    watch: Watch = unwatched,
    preview_every: int | None = None,
    attempt: Attempt = once,
) -> Float[Tensor, "b t c h w"]:
    """One video of each image in [-1, 1], each with its own seed; frames in [-1, 1] on the CPU, in float32.

    Height and width are multiples of the autoencoder's downsampling. Each video is made alone, so that it is the
    same in any batch. With `preview_every`, the event of every so many steps, and of the last, carries a preview.
    `attempt` runs each stage of a video, and may run it again. Raises UsageError for another size, or for a decoder
    that the model does not have.
    """
    if len(images) != len(seeds):
        raise UsageError(f"{len(seeds)} seeds were given for {len(images)} images; expected one each.")
    check_size(images.shape[-1], images.shape[-2], stage.components.autoencoder.cfg.downsampling)
    _decoder(stage, settings)
    if preview_every is not None:
        check_every(preview_every)
    videos = []
    for image, seed in zip(images, seeds, strict=True):
        videos.append(_animate_one(stage, image[None], settings, seed, watch, preview_every, attempt))
    return torch.cat(videos)


def _animate_one(
    stage: Stage,
    image: Float[Tensor, "1 c h w"],
    settings: VideoSettings,
    seed: int,
    watch: Watch,
    preview_every: int | None,
    attempt: Attempt,
) -> Float[Tensor, "1 t c h w"]:
    def encode() -> tuple[Condition, Preview | None, torch.Generator]:
        generator = torch.Generator().manual_seed(seed)
        condition = make_condition(stage, image, settings, generator, watch)
        return condition, _preview(stage, image, condition, preview_every) if preview_every else None, generator

    def denoise() -> Tensor:
        return sample_latents(stage, condition, settings, generator.clone_state(), watch, preview)

    def to_frames() -> Tensor:
        return decode(stage, latents, settings, watch).float().cpu().clamp(-1, 1)

    with torch.inference_mode():
        condition, preview, generator = attempt("encode", encode)
        latents = attempt("denoise", denoise)
        return attempt("decode", to_frames)


def make_condition(
    stage: Stage,
    image: Float[Tensor, "1 c h w"],
    settings: VideoSettings,
    generator: torch.Generator,
    watch: Watch = unwatched,
) -> Condition:
    """What the network is told about one image. Draws the image's noise first, also where its strength is 0."""
    components = stage.components
    noise = torch.randn(image.shape, generator=generator)
    watch(Progress("encode", 0, 2))
    with stage.use(components.image_encoder):
        context = embed_image(components.image_encoder, image.to(stage.device))
    watch(Progress("encode", 1, 2))
    encode = _encoding(stage)
    with stage.use(components.autoencoder):
        latents = image_latents(components.autoencoder, image.to(stage.device), settings.noise_aug, noise, encode)
    watch(Progress("encode", 2, 2))
    numbers = micro_conditions(settings.fps, settings.motion_bucket, settings.noise_aug, batch=1)
    return Condition(context, latents, numbers).to(stage.device, stage.dtype)


def _encoding(stage: Stage) -> Callable[[Tensor], Moments] | None:
    """How the image is encoded in little memory; None for the autoencoder's own way."""
    park, autoencoder = stage.placement.savings.encode_park, stage.components.autoencoder
    if park is None or type(autoencoder) is not Autoencoder or not can_stream_encoder(autoencoder):
        return None
    return functools.partial(encode_streamed, autoencoder, park=park)


def sample_latents(
    stage: Stage,
    condition: Condition,
    settings: VideoSettings,
    generator: torch.Generator,
    watch: Watch = unwatched,
    preview: Preview | None = None,
) -> Float[Tensor, "1 t c h w"]:
    """Denoise from pure noise to scaled latents, in float32. What `preview` shows goes with the events of the steps."""
    height, width = condition.image_latents.shape[-2:]
    shape = (1, settings.frames, stage.components.unet.cfg.out_channels, height, width)
    levels = schedule(settings.sigmas, settings.steps)
    steps = len(levels) - 1

    def draw_noise() -> Tensor:
        return torch.randn(shape, generator=generator).to(stage.device)

    def after_step(step: int, x: Tensor) -> Tensor:
        watch(Progress("denoise", step + 1, steps, preview and preview.after(step + 1, steps)))
        return x

    start = draw_noise() * start_scale(levels)
    watch(Progress("denoise", 0, steps))
    with stage.use(stage.components.unet):
        scale, are_together = scales(settings.guider, settings.frames), stage.placement.savings.branches == "together"
        kept = stage.kept_for(steps)
        denoise = guided_denoiser(stage.components.unet, condition, scale, are_together, stage.compiled, kept)
        denoise = preview.remembering(denoise) if preview else denoise
        return samplers.sample(settings.sampler, denoise, start, levels, draw_noise, after_step)


def decode(
    stage: Stage, latents: Float[Tensor, "b t c h w"], settings: VideoSettings, watch: Watch = unwatched
) -> Float[Tensor, "b t c2 h2 w2"]:
    """Frames of scaled latents, near [-1, 1]."""
    components = stage.components
    scale = components.autoencoder.cfg.scaling_factor
    autoencoder = _decoder(stage, settings)
    savings = stage.placement.savings
    is_streamed = settings.chunked == "exact" and type(autoencoder) is Autoencoder and can_stream(autoencoder)
    frames_at_once = (is_streamed and savings.decode_frames) or settings.chunk or latents.shape[1]
    with stage.use(autoencoder):
        unscaled = (latents / scale).to(stage.dtype_of(autoencoder))
        if not is_streamed:
            on_cpu = unscaled.device.type == "cpu"
            with blocks_given_back() if on_cpu else contextlib.nullcontext():
                return decode_in_chunks(autoencoder.decode, unscaled, frames_at_once, watch)
        rows, park = savings.decode_rows, savings.park
        run = functools.partial(decode_streamed, autoencoder, unscaled, frames_at_once, rows_at_once=rows, park=park)
        return run(watch=watch) if stage.compiled is None else stage.compiled.around(lambda _: run(watch=watch))


def guided_denoiser(
    unet: UNet,
    condition: Condition,
    scale: Float[Tensor, " t"],
    are_branches_together: bool = True,
    compiled: Compiled | None = None,
    kept: Kept | None = None,
) -> Denoise:
    """The SVD denoiser of one condition. Where guidance needs both branches, the unconditional one comes first.

    are_branches_together: both go through the network in one batch; otherwise in turn, in half of the memory.
    compiled: compiles a network that is just ours (`prepared.is_plain`); any other is called as it is.
    kept: as for `prepared.prepared`.
    """
    used = compiled if compiled is not None and is_plain(unet) else None

    @functools.cache
    def ready(rows: Rows, is_compiled: bool) -> tuple[Condition, Network]:
        told = {"both": condition.both_branches, "none": condition.unconditional, "image": lambda: condition}[rows]()
        plain: Network = lambda x, c_noise: unet(x, c_noise, told.context, told.numbers)  # noqa: E731
        network = prepared(unet, told.context, told.numbers, kept) or plain
        return told, used.replayed(network, unet) if used is not None and is_compiled else network

    def estimate(rows: Rows, x: Tensor, sigma: Tensor) -> Tensor:
        def predict(scaled: Tensor, c_noise: Tensor) -> Tensor:
            def run(is_compiled: bool) -> Tensor:
                told, network = ready(rows, is_compiled)
                return network(told.beside(scaled.to(told.context.dtype)), c_noise)

            return run(False) if used is None else used.around(run)

        return denoised(predict, VWithEDMNoise(), x, sigma.to(x.device).expand(len(x)))

    def together(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        base, towards = estimate("both", torch.cat([x, x]), sigma).chunk(2)
        return towards, base

    def in_turn(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        base = estimate("none", x, sigma)
        return estimate("image", x, sigma), base

    branches = together if are_branches_together else in_turn
    return guided(branches, lambda x, sigma: estimate("image", x, sigma), scale)


def start_scale(levels: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The deviation of the first latents: noise of the first level over data of unit deviation."""
    return (levels[0] ** 2 + 1).sqrt()


def check_size(width: int, height: int, unit: int) -> None:
    """Raise UsageError unless a frame of this size fills whole latents of `unit` pixels, and is no larger than 8192."""
    if width % unit or height % unit or not unit <= min(width, height) <= max(width, height) <= MAX_SIDE_PX:
        raise UsageError(f"size is {width}x{height}; expected multiples of {unit} pixels, at most {MAX_SIDE_PX}.")


def _preview(stage: Stage, image: Float[Tensor, "1 3 h w"], condition: Condition, every: int) -> Preview:
    scaled = condition.image_latents * stage.components.autoencoder.cfg.scaling_factor
    return preview_of(image, scaled, every=every)


def _decoder(stage: Stage, settings: VideoSettings) -> Autoencoder:
    """The autoencoder whose decoder was asked for. Raises UsageError where the model has none of that kind."""
    components = stage.components
    for autoencoder in (components.autoencoder, components.image_decoder):
        if autoencoder is not None and autoencoder.cfg.decoder == settings.decoder:
            return autoencoder
    own = components.autoencoder.cfg.decoder
    raise UsageError(f"decoder is {settings.decoder}, which this model does not have; expected {own}.")


def _check(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise UsageError(f"{name} is {value}; expected {low} to {high}.")
