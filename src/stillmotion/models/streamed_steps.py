"""The steps of a decoder, each on the whole parked video and on little of it at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..nn.attention import FrameAttention
from ..nn.mix import Mix
from ..nn.resample import Upsample
from ..nn.resnet import ResnetBlock, SpatioTemporalResnet
from .autoencoder import Decoder, DecoderLevel
from .bands import (
    BANDS,
    PLAIN_BANDS,
    Kernel,
    across_frames,
    add_into,
    is_summed_apart,
    kernel_of,
    spans,
    temporal_kernel,
    within_frames,
)
from .moments import Moments, affine, joined, moments_of, pooled
from .parked import Bands, Clip, Passing, Room

# Bytes of a band on the CPU: a few of them fit into its last cache, so that norm, activation, product and statistics of
# a band follow one another without main memory between them. Of 14 frames of 256 x 256, 2 MiB take 44.1 s in float32
# and 21.9 in bfloat16, 8 MiB take 35.5 and 20.3, 16 MiB 35.4 (two Zen 4 cores, 32 MiB of cache).
CACHE_BYTES = 8 * 2**20
# The same elsewhere: enough to fill the device, little beside one frame of the released size.
DEVICE_BYTES = 256 * 2**20
# What a range of pixels comes to with Winograd's sums and products of it, and without.
COLUMNS, PLAIN_COLUMNS = 6, 4
LEAST_ROWS = 8  # fewer would spend more on their two neighbouring rows than they save
LEAST_PIXELS = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One residual block of the decoder, with what comes just before it: an attention, or the doubling of a level."""

    resnet: ResnetBlock | SpatioTemporalResnet
    is_full_size: bool
    attention: FrameAttention | None = None
    doubling: nn.Conv2d | None = None

    @property
    def within(self) -> ResnetBlock:
        """The half that works within frames."""
        return self.resnet if isinstance(self.resnet, ResnetBlock) else self.resnet.spatial_res_block

    @property
    def changes_shape(self) -> bool:
        """Whether the result has another size or other channels than what goes in."""
        return self.doubling is not None or self.within.conv_shortcut is not None


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """How one video is decoded."""

    room: Room
    # What one group of frames needs between two convolutions, and what it is before them where its size has doubled.
    hidden: Passing
    doubled: Passing
    # What the whole video is between the two convolutions of a temporal block.
    between: Passing
    # What is made of one band, and read at once.
    bands: Bands
    frames_at_once: int
    rows_at_once: int | None
    # Whether temporal blocks at full size keep what lies between their two convolutions, rather than make it twice.
    # Those below it always do: there it is small.
    keeps_hidden: bool
    # Told the multiplications of each piece of work behind it.
    worked: Callable[[int], None]

    def frames(self, height: int, width: int, channels: int) -> int:
        """How many such frames go through a layer together.

        On the CPU as many as its cache holds, whatever was asked: more gain nothing, and the same groups round alike.
        """
        if self.room.device.type != "cpu":
            return self.frames_at_once
        return max(1, CACHE_BYTES // (height * width * channels * self.room.dtype.itemsize))

    def rows(self, height: int, width: int, channels: int) -> int:
        """How many rows of such frames make a band."""
        if self.rows_at_once is not None:
            return self.rows_at_once
        if self.room.device.type != "cpu":
            return height
        return max(LEAST_ROWS, CACHE_BYTES // (width * channels * self.room.dtype.itemsize))

    def columns(self, frames: int, pixels: int, channels: int) -> list[range]:
        """Ranges of pixels that are worked on together, over all frames."""
        budget = CACHE_BYTES if self.room.device.type == "cpu" else DEVICE_BYTES
        at_once = max(LEAST_PIXELS, budget // (frames * channels * self.room.dtype.itemsize))
        return [range(first, last) for first, last in spans(pixels, at_once)]


def run_in(
    room: Room, frames_at_once: int, frames: int, rows_at_once: int | None, worked: Callable[[int], None]
) -> Run:
    """A run with space of its own. Where bands have so many rows, what passes between convolutions is parked too."""
    passing = dataclasses.replace(room, park="device") if rows_at_once is None else room
    return Run(
        room=room,
        hidden=Passing(passing),
        doubled=Passing(passing),
        between=Passing(room),
        bands=Bands(dataclasses.replace(room, park="device")),
        frames_at_once=min(frames_at_once, frames),
        rows_at_once=rows_at_once,
        keeps_hidden=frames_at_once >= frames,
        worked=worked,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Kernels:
    """The convolutions of a step within frames."""

    conv1: Kernel
    conv2: Kernel
    shortcut: Kernel | None
    doubling: Kernel | None


def kernels_of(block: ResnetBlock, device: torch.device, doubling: nn.Conv2d | None = None) -> Kernels:
    """Those of a residual block, and of the doubling before it."""
    return Kernels(
        conv1=kernel_of(block.conv1, device),
        conv2=kernel_of(block.conv2, device),
        shortcut=None if block.conv_shortcut is None else kernel_of(block.conv_shortcut, device),
        doubling=None if doubling is None else kernel_of(doubling, device, doubles=True),
    )


def steps_of(decoder: Decoder) -> Iterator[Step]:
    """The residual blocks in the order in which they run."""
    middle, top = decoder.mid_block, len(decoder.up_blocks) - 1
    first, *others = (cast(SpatioTemporalResnet | ResnetBlock, each) for each in middle.resnets)
    yield Step(first, is_full_size=top == 0)
    for resnet in others[:1]:
        yield Step(resnet, attention=cast(FrameAttention, middle.attentions[0]), is_full_size=top == 0)
    doubling = None
    for index, level in enumerate(cast(Iterable[DecoderLevel], decoder.up_blocks)):
        for resnet in cast(Iterable[SpatioTemporalResnet | ResnetBlock], level.resnets):
            yield Step(resnet, doubling=doubling, is_full_size=index == top)
            doubling = None
        doubling = cast(Upsample, level.upsamplers[0]).conv if "upsamplers" in level._modules else None


def multiplications(decoder: Decoder, height: int, width: int) -> int:
    """Those that `Run.worked` will hear of for one frame of latents of this size."""
    total, pixels = 0, height * width
    for step in steps_of(decoder):
        pixels *= 4 if step.doubling is not None else 1
        total += pixels * (_weights(step.within) + _doubling_weights(step))
        if isinstance(step.resnet, SpatioTemporalResnet):
            total += pixels * _weights(step.resnet.temporal_res_block)
    return total + pixels * _weights(decoder.conv_out)


def enter(run: Run, conv: nn.Conv2d, latents: Float[Tensor, "t c h w"]) -> Clip:
    """The first convolution."""
    height, width = latents.shape[-2:]
    kernel, clip = kernel_of(conv, run.room.device), Clip()
    rows = run.rows(height, width, kernel.outputs)
    for part in latents.permute(0, 2, 3, 1).split(run.frames(height, width, kernel.outputs)):
        target = run.room.parked(len(part), height, width, kernel.outputs)
        clip.append(*within_frames(part, None, kernel, target, rows, run.bands))
    return clip


def advance(run: Run, step: Step, clip: Clip) -> Clip:
    """One step. The parts of `clip` are given up one after the other."""
    block, made = step.within, Clip()
    kernels = kernels_of(block, run.room.device, step.doubling)
    work = _weights(block) + _doubling_weights(step)
    if step.changes_shape:
        run.between.release()
    while clip.parts:
        part, moments = clip.pop()
        if step.attention is not None:
            moments = attend_within(run, step.attention, part)
        for some, known in _doubled(run, kernels, part, moments):
            made.append(*twice_within(run, block, kernels, some, known))
            run.worked(work * made.parts[-1].shape[:3].numel())
            del some
        del part
    if isinstance(step.resnet, SpatioTemporalResnet):
        _twice_across(run, step.resnet, made, keeps_hidden=run.keeps_hidden or not step.is_full_size)
    return made


def leave(run: Run, decoder: Decoder, clip: Clip) -> Float[Tensor, "t c h w"]:
    """The last norm and the last convolutions."""
    device, frames = run.room.device, []
    run.between.release()
    kernel = kernel_of(decoder.conv_out, device)
    while clip.parts:
        part, moments = clip.pop()
        target = torch.empty(*part.shape[:3], kernel.outputs, dtype=part.dtype, device=device)
        norm, rows = affine(decoder.conv_norm_out, moments), run.rows(*part.shape[1:])
        within_frames(part, norm, kernel, target, rows, run.bands)
        frames.append(target)
        run.worked(_weights(decoder.conv_out) * part.shape[:3].numel())
    made = torch.cat(frames)
    if "time_conv_out" in decoder._modules:
        kernel = temporal_kernel(decoder.time_conv_out, device)
        made = across_frames(made.flatten(1, 2), None, kernel, run.bands).view(made.shape)
    return made.permute(0, 3, 1, 2).contiguous()


def peak_bytes(run: Run, decoder: Decoder, frames: int, height: int, width: int) -> int:
    """The most memory of the device that so many frames of latents of this size need at once, beside the weights.

    For each step: what is parked, what passes between two convolutions of a group of frames, the bands under work,
    and the step's weights in another layout. On the CPU the bands are those of Winograd's sums and products, each
    convolution's taps are summed in float32 before they are laid out, and the heap keeps the space of the largest's.
    """
    device, size = run.room.device, run.room.dtype.itemsize
    is_here = run.room.park == "device" or (run.room.park == "host" and device.type == "cpu")
    passes_here = run.hidden.room.park == "device" or is_here
    channels, peak, laid_out, passing, between = decoder.conv_in.out_channels, 0, 0, 0, 0
    for step in steps_of(decoder):
        before = height * width * channels
        height, width = (height, width) if step.doubling is None else (2 * height, 2 * width)
        inputs, channels = channels, step.within.conv1.out_channels
        after, widest = height * width * channels, max(inputs, channels)
        group = min(frames, run.frames(height, width, widest))
        parked = max(frames * before + group * after, frames * after + group * before)
        is_passing = run.rows_at_once is not None or run.rows(height, width, widest) < height
        is_doubled = step.doubling is not None and step.within.conv_shortcut is not None
        passing = max(passing, group * (is_passing * after + is_doubled * height * width * inputs))
        is_summed = is_summed_apart(widest, run.room.dtype, device)
        band = (
            (BANDS if is_summed else PLAIN_BANDS)
            * group
            * min(height, run.rows(height, width, widest) + 2)
            * width
            * widest
        )
        between = 0 if step.changes_shape else between
        within = is_here * (between + (parked if step.changes_shape else frames * after)) + passes_here * passing + band
        across = 0
        if isinstance(step.resnet, SpatioTemporalResnet):
            keeps = run.keeps_hidden or not step.is_full_size
            column = len(run.columns(frames, height * width, channels)[0])
            between = keeps * frames * after
            ranges = (COLUMNS if is_summed else PLAIN_COLUMNS) * frames * column * channels
            across = is_here * (between + frames * after) + passes_here * passing + ranges
        weights = sum(p.numel() for p in step.resnet.parameters()) + 4 * _doubling_weights(step)
        largest = max(p.numel() for p in step.resnet.parameters()) * (torch.float32.itemsize // size or 1)
        laid_out = max(laid_out, 2 * weights + 3 * is_summed * largest)
        peak = max(peak, within, across) if device.type == "cpu" else max(peak, within + weights, across + weights)
    images = frames * height * width * decoder.conv_out.out_channels
    peak = max(peak, is_here * frames * height * width * channels + images, 3 * images)
    return size * (peak + (laid_out if device.type == "cpu" else 0))


def attend_within(run: Run, attention: FrameAttention, part: Float[Tensor, "n h w c"]) -> Moments:
    """Attention within each frame, in place; the module itself does it, small as these frames are."""
    x = part.to(run.room.device).permute(0, 3, 1, 2)[None]
    attended = attention(x)[0].permute(0, 2, 3, 1)
    part.copy_(attended)
    return joined([moments_of(frame.flatten(0, 1)) for frame in attended])


def _doubled(
    run: Run, kernels: Kernels, part: Float[Tensor, "n h w c"], moments: Moments
) -> Iterator[tuple[Float[Tensor, "n h2 w2 c"], Moments]]:
    """The part, or where a kernel doubles its size, what becomes of it, few frames at a time."""
    kernel = kernels.doubling
    if kernel is None:
        yield part, moments
        return
    height, width, channels = 2 * part.shape[1], 2 * part.shape[2], kernel.outputs
    rows = -(-run.rows(height, width, channels) // 2)
    for some in part.split(run.frames(height, width, channels)):
        # Without a shortcut's kernel, the residual block is added to it where it lies.
        take = run.room.parked if kernels.shortcut is None else run.doubled.take
        target = take(len(some), height, width, channels)
        yield within_frames(some, None, kernel, target, rows, run.bands)


def twice_within(
    run: Run, block: ResnetBlock, kernels: Kernels, part: Float[Tensor, "n h w c"], moments: Moments
) -> tuple[Float[Tensor, "n h w c2"], Moments]:
    """A residual block within frames: in place, but where its shortcut changes channels."""
    frames, height, width, inputs = part.shape
    rows = run.rows(height, width, max(inputs, kernels.conv1.outputs))
    shape = frames, height, width, kernels.conv1.outputs
    # What one call of a library makes of whole frames stays where it was made.
    takes = rows < height or run.rows_at_once is not None or kernels.conv1.writes_itself
    hidden = run.hidden.take(*shape) if takes else None
    hidden, between = within_frames(part, affine(block.norm1, moments), kernels.conv1, hidden, rows, run.bands)
    target = part if kernels.shortcut is None else run.room.parked(*shape)
    norm2, shortcut = affine(block.norm2, between), (part, kernels.shortcut)
    return within_frames(hidden, norm2, kernels.conv2, target, rows, run.bands, shortcut)


def _twice_across(run: Run, block: SpatioTemporalResnet, clip: Clip, keeps_hidden: bool) -> None:
    """The temporal half of a block and its blend, in place: a x + (1 - a) (x + h) is x + (1 - a) h."""
    temporal, device = block.temporal_res_block, run.room.device
    conv1, conv2 = temporal_kernel(temporal.conv1, device), temporal_kernel(temporal.conv2, device)
    norm1 = affine(temporal.norm1, joined(clip.moments).together())
    columns = run.columns(clip.frames, *clip.area_and_channels)
    sizes = [len(span) for span in columns]
    hidden = _blocks(run.between, clip, columns) if keeps_hidden else None
    work, found, statistics = _weights(temporal) * clip.frames // 2, [], []
    for index, span in enumerate(columns):
        kept = None if hidden is None else hidden[index]
        is_here = kept is not None and kept.device == device
        h = across_frames(clip.columns(span, run.bands), norm1, conv1, run.bands, kept if is_here else None)
        found.append(moments_of(h.flatten(0, 1)))
        if kept is not None and not is_here:
            kept.copy_(h)
        run.worked(work * len(span))
    norm2, share = affine(temporal.norm2, pooled(found, sizes)), _temporal_share(block.time_mixer)
    for index, span in enumerate(columns):
        if hidden is None:
            h = across_frames(clip.columns(span, run.bands), norm1, conv1, run.bands)
        else:
            h = hidden[index].to(device)
        added = zip(clip.views(span), across_frames(h, norm2, conv2, run.bands).split(clip.sizes), strict=True)
        made = [add_into(view, some, view.to(device), share) for view, some in added]
        statistics.append(joined([moments_of(frame) for some in made for frame in some]))
        run.worked(work * len(span))
    clip.learn(pooled(statistics, sizes))


def _blocks(space: Passing, clip: Clip, columns: list[range]) -> list[Float[Tensor, "t p c"]]:
    """Room for each range of pixels of the whole video."""
    frames, (pixels, channels) = clip.frames, clip.area_and_channels
    whole = space.take(1, pixels, frames, channels).view(-1, channels)
    sizes = [frames * len(span) for span in columns]
    return [block.view(frames, -1, channels) for block in whole.split(sizes)]


def _temporal_share(mix: Mix) -> float:
    alpha = mix.mix_factor.detach().to(torch.promote_types(mix.mix_factor.dtype, torch.float32)).sigmoid().item()
    return alpha if mix.weighs_temporal else 1 - alpha


def _weights(module: nn.Module) -> int:
    """Multiplications for each pixel of a convolutional module's result."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)


def _doubling_weights(step: Step) -> int:
    """The same for each pixel of a doubled image, of which every one has 2x2 taps of the small one."""
    return 0 if step.doubling is None else step.doubling.weight.numel() * 4 // 9
