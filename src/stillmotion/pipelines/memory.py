"""The memory plan: what each stage of a generation needs at its peak, and the fastest way that fits into a budget."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ..conditioning import Condition, embed_image, image_latents
from ..diffusion.guidance import scales
from ..diffusion.sigmas import schedule
from ..errors import UsageError
from ..models.autoencoder import Autoencoder
from ..models.components import Components
from ..models.image_encoder import build_image_encoder
from ..models.mapped import CAN_GIVE_BACK
from ..models.memory import KERNEL_BYTES, META, MOST_KERNELS, Counted, count, weight_bytes
from ..models.prepared import KEPT_BYTES, LaidOut
from ..models.streamed_encode import encode_peak_bytes
from ..models.streaming import decode_peak_bytes
from ..models.unet import UNet, set_forward_slices
from ..nn.products import is_own
from ..placement import DTYPES, Branches, Offload, Park, Placement, owners
from ..presets import Preset
from .image_to_video import VideoSettings, guided_denoiser

# What the first generation of a process makes resident beside tensors and kernels, whatever its size: pages of torch's
# and oneDNN's code, and buffers of threads. Measured with a model of 9 MB: 26 MB of code, 4 MB of heap.
RUNTIME_BYTES = 30 * 10**6
# Bytes of a U-Net's weights in the order of a CPU's library over their own, at most: taps are summed for products.
MOST_ORDERED = 1.6
# Decoding leaves room between live blocks of the C library's heap, which holds what is below 32 MB: some ten bands of
# 8 MiB, whatever the size of the video, since bands have one size. Our own compiled code, whose bands have a space of
# their own, leaves less, as a plain decode does.
HEAP_BYTES, OWN_HEAP_BYTES, PLAIN_HEAP_BYTES = 110 * 10**6, 40 * 10**6, 35 * 10**6
# What the decoder compiles: its convolutions in each of four sizes, counted as by `models.memory`.
DECODER_KERNELS, ENCODER_KERNELS = 24, 24
# Branches of guidance, and slices of the feed-forwards, from the fastest on.
DENOISING: tuple[tuple[Branches, int | None], ...] = (("together", None), ("in-turn", None), ("in-turn", 16))
# Rows of a frame that are decoded at once where whole frames are too large.
ROWS = 64
# Of the U-Net's weights, what one thread reads while pages are given back only every so often (`mapped.SWEEP_S`): some
# 7 GB a second. Two runs with two threads held 246 and 280 MB beyond the largest layers. Our own compiled code lays
# weights out as it reads them, 2 GB a second with two threads: three runs held at most 80 MB.
SWEPT_BYTES, OWN_SWEPT_BYTES = 144 * 2**20, 48 * 2**20
OFFLOADS: tuple[Offload, ...] = ("none", "model", "sequential")
GIGABYTE = 10**9


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """One video of one model: all that decides how much memory it takes, but for how it is run.

    is_mapped: whether the U-Net's weights are pages of a file in the precision that they are computed in. A CPU that
    keeps them in another order then needs no second place for them.
    """

    preset: Preset
    video: VideoSettings
    width: int
    height: int
    is_mapped: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class StagePeak:
    """The most that one stage holds: weights, and what it computes with them."""

    stage: str
    weight_bytes: int
    working_bytes: int
    # Of the working bytes, those that do not grow with the video.
    fixed_bytes: int = 0

    @property
    def bytes(self) -> int:
        """Both together."""
        return self.weight_bytes + self.working_bytes


@dataclasses.dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a video is to be run, and the predicted peak of each stage on the device."""

    placement: Placement
    peaks: tuple[StagePeak, ...]

    @property
    def peak_bytes(self) -> int:
        """The highest of all stages."""
        return max(peak.bytes for peak in self.peaks)


def predict(load: Workload, placement: Placement) -> MemoryPlan:
    """The peaks of a video under a resolved placement. Nothing is read."""
    return MemoryPlan(placement, tuple(_peak(load, placement, stage) for stage in ("embed", *_LADDERS)))


def plan_memory(load: Workload, placement: Placement, budget: int, held: int = 0) -> MemoryPlan:
    """The fastest plan whose every stage fits into `budget` bytes of the device; it never offloads less than asked.

    held: bytes of the budget that are taken already, by Python and its libraries or by a device's own runtime.
    Raises UsageError where none fits, saying how much is needed, and which video would fit.
    """
    for offload in _offloads(placement):
        chosen = _fitting(load, dataclasses.replace(placement, offload=offload), budget - held)
        if chosen is not None:
            return chosen
    low = lowest(load, placement)
    if low.peak_bytes <= budget - held:  # what one stage leaves in memory may depend on the rung of another
        return low
    raise UsageError(_too_small(load, low, budget, held))


def lowest(load: Workload, placement: Placement) -> MemoryPlan:
    """The plan of least memory."""
    placement = dataclasses.replace(placement, offload=_offloads(placement)[-1])
    for stage in _LADDERS:
        placement = min(_LADDERS[stage](load, placement), key=lambda rung, s=stage: _peak(load, rung, s).bytes)
    return predict(load, placement)


def at_most(load: Workload, placement: Placement) -> int:
    """Bytes that a video certainly does not exceed: a bound that costs nothing to compute."""
    unet, autoencoder = load.preset.unet, load.preset.autoencoder
    pixels, unit = load.video.frames * load.width * load.height, autoencoder.downsampling
    latent_pixels = pixels // unit**2
    size = DTYPES[placement.dtype].itemsize
    denoise = 2 * 40 * latent_pixels * max(c / 4**i for i, c in enumerate(unet.channels)) * size
    is_exact = load.video.chunked == "exact"
    frame = 16 * load.width * load.height * max(c / 4**i for i, c in enumerate(autoencoder.channels)) * 4
    decode = max(frame, _decoding_bytes(load, placement)) if is_exact else frame * load.video.frames
    kept = RUNTIME_BYTES + HEAP_BYTES + MOST_KERNELS * KERNEL_BYTES
    sizes = _sizes(load.preset, placement.dtype)
    kept += int(MOST_ORDERED * sizes["unet"]) if _keeps_order(load, placement) else 0
    return sum(sizes.values()) + int(max(denoise, decode)) + kept


def next_rung(load: Workload, placement: Placement, stage_name: str) -> Placement | None:
    """The placement to try where a stage ran out of memory under this one; None where none is left."""
    rungs = list(_LADDERS[stage_name](load, placement)) if stage_name in _LADDERS else [placement]
    here = rungs.index(placement) if placement in rungs else -1
    if here + 1 < len(rungs):
        return rungs[here + 1]
    offloads = _offloads(placement)
    return dataclasses.replace(placement, offload=offloads[1]) if len(offloads) > 1 else None


def described(placement: Placement) -> str:
    """A plan in a few words."""
    savings = placement.savings
    words = [f"offload {placement.offload}", f"branches {savings.branches}"]
    if placement.device == "cpu" and not savings.keeps_order:
        words.append("weights ordered anew in each step")
    if savings.slices is not None:
        words.append(f"feed-forwards in {savings.slices} slices")
    if savings.encode_park is not None:
        words.append("encoded in bands" + ("" if savings.encode_park == "device" else f" on {savings.encode_park}"))
    if savings.decode_frames is not None:
        words.append(f"{savings.decode_frames} frame(s) decoded at once")
    if savings.decode_rows is not None:
        words.append(f"in bands of {savings.decode_rows} rows")
    if savings.park != "device":
        words.append(f"activations parked on {savings.park}")
    return ", ".join(words)


def _fitting(load: Workload, placement: Placement, budget: int) -> MemoryPlan | None:
    """Each stage's first rung that fits, under one way of offloading; None where a stage has none.

    A CPU's weights in its library's order stay for all stages: they are kept where no other saving pays for them.
    """
    kept = _rungs(load, placement, budget)
    if placement.device != "cpu" or not placement.savings.keeps_order:
        return kept
    anew = _rungs(load, _saving(placement, keeps_order=False), budget)
    is_free = anew is not None and kept is not None and _saving(kept.placement, keeps_order=False) == anew.placement
    return kept if is_free else anew


def _rungs(load: Workload, placement: Placement, budget: int) -> MemoryPlan | None:
    """Each stage's first rung that fits; None where a stage has none."""
    if _peak(load, placement, "embed").bytes > budget:
        return None
    for stage, ladder in _LADDERS.items():
        rungs = (rung for rung in ladder(load, placement) if _peak(load, rung, stage).bytes <= budget)
        chosen = next(rungs, None)
        if chosen is None:
            return None
        placement = chosen
    return predict(load, placement)


def _offloads(placement: Placement) -> tuple[Offload, ...]:
    """From what was asked for to the most. On a CPU single layers wait in a file, where the system can map one."""
    left = OFFLOADS[OFFLOADS.index(placement.offload) :]
    if placement.device != "cpu" or CAN_GIVE_BACK or len(left) == 1:
        return left
    return tuple(each for each in left if each != "sequential")


def _keeps_order(load: Workload, placement: Placement) -> bool:
    """Whether the weights of a large U-Net take memory in the order of a CPU's library."""
    on_cpu = torch.device(placement.device).type == "cpu"
    steps = len(schedule(load.video.sigmas, load.video.steps)) - 1
    return on_cpu and placement.keeps_order(steps) and _sizes(load.preset, placement.dtype)["unet"] > KEPT_BYTES


def _denoising(load: Workload, placement: Placement) -> Iterator[Placement]:
    alone = _branches(load.video) == 1
    if placement.device == "cpu" and placement.savings.keeps_order and placement.offload != "sequential":
        kept = placement.savings.branches if alone else "together"
        yield _saving(placement, branches=kept, slices=None, keeps_order=True)
    if placement.device == "cpu":
        placement = _saving(placement, keeps_order=False)
    for branches, slices in DENOISING:
        if slices is not None and placement.device == "cpu":  # which works on few pixels at a time in any case
            return
        if not (alone and branches == "in-turn" and slices is None):
            kept = placement.savings.branches if alone else branches
            yield _saving(placement, branches=kept, slices=slices)


def _encoding(load: Workload, placement: Placement) -> Iterator[Placement]:
    for park in (None, *_parks(placement)):
        yield _saving(placement, encode_park=park)


def _parks(placement: Placement) -> tuple[Park, ...]:
    return ("device", "disk") if placement.device == "cpu" else ("device", "host", "disk")


def _decoding(load: Workload, placement: Placement) -> Iterator[Placement]:
    if load.video.chunked != "exact":  # another chunk would change the pixels
        yield placement
        return
    at_once = min(load.video.chunk or load.video.frames, load.video.frames)
    yield _saving(placement, decode_frames=None, decode_rows=None, park="device")
    while at_once >= 8 and placement.device != "cpu":  # a CPU holds no more frames than its cache, whatever the chunk
        at_once //= 4
        yield _saving(placement, decode_frames=at_once, decode_rows=None, park="device")
    parks = _parks(placement)
    for park in parks:
        yield _saving(placement, decode_frames=1, decode_rows=None, park=park)
    for park in parks[1:]:
        yield _saving(placement, decode_frames=1, decode_rows=ROWS, park=park)


# The stages that have choices of their own, and these choices from the fastest on.
_LADDERS: dict[str, Callable[[Workload, Placement], Iterator[Placement]]] = {
    "encode": _encoding,
    "denoise": _denoising,
    "decode": _decoding,
}


def _saving(placement: Placement, **changed: Any) -> Placement:
    return dataclasses.replace(placement, savings=dataclasses.replace(placement.savings, **changed))


def _branches(video: VideoSettings) -> int:
    return 1 if bool((scales(video.guider, video.frames) == 1).all()) else 2


def _peak(load: Workload, placement: Placement, stage: str) -> StagePeak:
    decoder = "autoencoder" if load.video.decoder == load.preset.autoencoder.decoder else "image_decoder"
    network = {"embed": "image_encoder", "encode": "autoencoder", "denoise": "unet", "decode": decoder}[stage]
    beside = _beside(load, placement, stage)
    kernels = _denoising_counts(load, placement).kept_bytes if stage == "denoise" else 0
    working = _working(load, placement, stage) + beside
    return StagePeak(stage, _resident(load, placement, network), working, beside + kernels)


def _beside(load: Workload, placement: Placement, stage: str) -> int:
    """Bytes of a CPU's main memory that are no tensors: a GPU's are not counted against its memory."""
    if torch.device(placement.device).type != "cpu":
        return 0
    if stage != "decode":
        return RUNTIME_BYTES
    kernels = _denoising_counts(load, placement).kept_bytes + DECODER_KERNELS * KERNEL_BYTES
    left = OWN_HEAP_BYTES if _is_own(placement) else HEAP_BYTES
    return RUNTIME_BYTES + kernels + (left if load.video.chunked == "exact" else PLAIN_HEAP_BYTES)


def _is_own(placement: Placement) -> bool:
    """Whether our own compiled code computes."""
    return placement.device == "cpu" and is_own(torch.empty(0, dtype=DTYPES[placement.dtype]))


def _resident(load: Workload, placement: Placement, network: str) -> int:
    """Bytes of weights on the device while one network works."""
    preset = load.preset
    sizes = _sizes(preset, placement.dtype, load.video.decoder != preset.autoencoder.decoder)
    ordered = _ordered(load, placement) if _keeps_order(load, placement) else _Ordered(0, 0)
    spared = ordered.replaced_bytes if load.is_mapped and CAN_GIVE_BACK else 0
    if placement.offload == "none":  # they wait for the next video; what the U-Net computes with is counted as working
        return sum(sizes.values()) - spared + (0 if network == "unet" else ordered.bytes)
    if placement.offload == "model" or (placement.device == "cpu" and not CAN_GIVE_BACK):
        return sizes[network] - (spared if network == "unet" else 0)
    largest = _largest_layers(preset, placement.dtype, network)
    if placement.device != "cpu" or network != "unet":
        return largest
    swept = OWN_SWEPT_BYTES if _is_own(placement) else SWEPT_BYTES
    return min(sizes[network], largest + torch.get_num_threads() * swept)


@functools.lru_cache(maxsize=2)
def _networks(preset: Preset) -> Components:
    """The networks of a model without their numbers."""
    with META:
        return Components(
            UNet(preset.unet).eval(),
            Autoencoder(preset.autoencoder).eval(),
            build_image_encoder(preset.image_encoder),
            Autoencoder(dataclasses.replace(preset.autoencoder, decoder="image")).eval(),
        )


def _dtype_of(preset: Preset, dtype: str, network: str) -> torch.dtype:
    """As Stage.dtype_of: an autoencoder that overflows in float16 runs in float32."""
    raised = dtype == "float16" and network in ("autoencoder", "image_decoder") and preset.autoencoder.force_upcast
    return torch.float32 if raised else DTYPES[dtype]


@functools.lru_cache(maxsize=8)
def _sizes(preset: Preset, dtype: str, has_image_decoder: bool = True) -> dict[str, int]:
    """Bytes of each network that a generation needs. An image decoder shares the encoder of the autoencoder."""
    parts: dict[str, nn.Module] = dict(_networks(preset).networks())
    parts["image_decoder"] = _networks(preset).networks()["image_decoder"].get_submodule("decoder")
    if not has_image_decoder:
        del parts["image_decoder"]
    return {name: weight_bytes(part, _dtype_of(preset, dtype, name)) for name, part in parts.items()}


@functools.lru_cache(maxsize=8)
def _largest_layers(preset: Preset, dtype: str, network: str) -> int:
    """Bytes of the two largest layers: the one that computes and the one that is on its way."""
    layers = owners(_networks(preset).networks()[network])
    return sum(sorted(weight_bytes(layer, _dtype_of(preset, dtype, network)) for layer in layers)[-2:])


def _working(load: Workload, placement: Placement, stage: str) -> int:
    """Bytes that a stage computes with, beside the weights."""
    if stage == "denoise":
        return _denoising_bytes(load, placement)
    if stage == "decode":
        return _decoding_bytes(load, placement)
    if stage == "encode" and placement.savings.encode_park is not None:
        return _banded_encoding_bytes(load, placement)
    return _encoding_bytes(load.preset, placement.dtype, placement.device, stage, (load.width, load.height))


@functools.lru_cache(maxsize=16)
def _encoding_bytes(preset: Preset, dtype: str, device: str, stage: str, size: tuple[int, int]) -> int:
    components = _networks(preset)
    name = "image_encoder" if stage == "embed" else "autoencoder"
    components.networks()[name].to(_dtype_of(preset, dtype, name))
    image = torch.empty(1, 3, size[1], size[0], device=META)

    def run() -> None:
        if stage == "embed":
            embed_image(components.image_encoder, image)
        else:
            image_latents(components.autoencoder, image, 0.02, torch.empty_like(image))

    counted = count(run, torch.device(device))
    return counted.peak_bytes + counted.kept_bytes


def _banded_encoding_bytes(load: Workload, placement: Placement) -> int:
    assert placement.savings.encode_park is not None
    dtype, size = _dtype_of(load.preset, placement.dtype, "autoencoder"), (load.height, load.width)
    device, park = torch.device(placement.device), placement.savings.encode_park
    kernels = ENCODER_KERNELS * KERNEL_BYTES if device.type == "cpu" else 0
    return kernels + encode_peak_bytes(load.preset.autoencoder, size, dtype, device, park=park)


def _denoising_bytes(load: Workload, placement: Placement) -> int:
    counted = _denoising_counts(load, placement)
    return counted.peak_bytes + counted.kept_bytes


def _denoising_counts(load: Workload, placement: Placement) -> Counted:
    frames, height, width = _latent_shape(load)
    rows, slices = _rows(load, placement), placement.savings.slices
    counted = functools.partial(_step, load.preset, placement.dtype, placement.device, rows, slices)
    # What a sampler keeps beside: some latents of the whole video in float32.
    beside = 8 * frames * load.preset.unet.out_channels * height * width * 4
    if _keeps_order(load, placement):  # what the step itself counts of it, one block's, goes on top
        beside += _ordered(load, placement).bytes
    if placement.device != "cpu" or frames * height * width <= 4 * 32 * 32:
        whole = counted((frames, height, width))
        return Counted(beside + whole.peak_bytes, whole.kept_bytes)
    # A CPU works on a few thousand pixels at a time, which makes many calls: the peak is a line over the pixels.
    few, more = counted((2, 32, 32)), counted((4, 32, 32))
    slope = (more.peak_bytes - few.peak_bytes) / (2 * 32 * 32)
    peak = more.peak_bytes + slope * (frames * height * width - 4 * 32 * 32)
    # Parts that do not come out even end with a smaller one, for which everything is compiled once more.
    return Counted(beside + int(peak), 2 * more.kept_bytes)


@functools.lru_cache(maxsize=64)
def _step(
    preset: Preset, dtype: str, device: str, rows: int, slices: int | None, shape: tuple[int, int, int]
) -> Counted:
    """What one estimate takes: `rows` branches in one batch, frames of `shape` (frames, height, width) in latents."""
    unet = _networks(preset).unet.to(DTYPES[dtype])
    set_forward_slices(unet, slices)
    frames, height, width = shape
    kept = {"dtype": DTYPES[dtype], "device": META}
    condition = Condition(
        torch.empty(1, 1, preset.unet.context_width[0], **kept),
        torch.empty(1, 1, preset.unet.in_channels - preset.unet.out_channels, height, width, **kept),
        torch.empty(1, preset.unet.numbers, device=META),
    )
    x = torch.empty(1, frames, preset.unet.out_channels, height, width, device=META)
    scale = torch.full((frames,), float(rows))  # at 1 everywhere, one branch runs alone

    def run() -> None:
        guided_denoiser(unet, condition, scale, rows == 2)(x, torch.tensor(1.0))

    return count(run, torch.device(device))


@dataclasses.dataclass(frozen=True, slots=True)
class _Ordered:
    """What a U-Net's weights take in the order of a CPU's library, and those that are then not read any more."""

    bytes: int
    replaced_bytes: int


def _ordered(load: Workload, placement: Placement) -> _Ordered:
    return _ordered_in(load.preset, placement.dtype, placement.device, _rows(load, placement), _latent_shape(load))


@functools.lru_cache(maxsize=64)
def _ordered_in(preset: Preset, dtype: str, device: str, rows: int, shape: tuple[int, int, int]) -> _Ordered:
    """For `rows` branches in one batch, frames of `shape` (frames, height, width) in latents."""
    unet, made = _networks(preset).unet.to(DTYPES[dtype]), []
    counted = count(lambda: made.append(LaidOut(unet, rows, *shape)), torch.device(device))
    return _Ordered(counted.peak_bytes, made[0].replaced * DTYPES[dtype].itemsize)


def _rows(load: Workload, placement: Placement) -> int:
    """Branches of guidance in one batch."""
    return 2 if placement.savings.branches == "together" and _branches(load.video) == 2 else 1


def _latent_shape(load: Workload) -> tuple[int, int, int]:
    unit = load.preset.autoencoder.downsampling
    return load.video.frames, load.height // unit, load.width // unit


def _decoding_bytes(load: Workload, placement: Placement) -> int:
    video, savings, cfg = load.video, placement.savings, load.preset.autoencoder
    dtype = _dtype_of(load.preset, placement.dtype, "autoencoder")
    at_once = min(video.chunk or video.frames, video.frames)
    # The frames themselves, in float32 once before and once after they are cut to their range.
    finished = 3 * video.frames * load.width * load.height * (dtype.itemsize + 8)
    if video.chunked != "exact":
        shape = (at_once, load.height, load.width)
        return finished + _plain_decode_bytes(load.preset, placement.dtype, placement.device, video.decoder, shape)
    shape = (video.frames, load.height // cfg.downsampling, load.width // cfg.downsampling)
    streamed = decode_peak_bytes(
        dataclasses.replace(cfg, decoder=video.decoder),
        shape,
        savings.decode_frames or at_once,
        dtype,
        torch.device(placement.device),
        rows_at_once=savings.decode_rows,
        park=savings.park,
    )
    return max(streamed, finished)


@functools.lru_cache(maxsize=16)
def _plain_decode_bytes(preset: Preset, dtype: str, device: str, decoder: str, shape: tuple[int, int, int]) -> int:
    components = _networks(preset)
    network = components.autoencoder if decoder == preset.autoencoder.decoder else components.image_decoder
    assert network is not None
    network.to(_dtype_of(preset, dtype, "autoencoder"))
    unit = preset.autoencoder.downsampling
    latents = torch.empty(
        1, shape[0], preset.autoencoder.latent_channels, shape[1] // unit, shape[2] // unit, device=META
    ).to(_dtype_of(preset, dtype, "autoencoder"))
    return count(lambda: network.decode(latents), torch.device(device)).peak_bytes


def _too_small(load: Workload, low: MemoryPlan, budget: int, held: int) -> str:
    """What is needed at least, and which video would fit."""
    asked = f"{load.video.frames} frames of {load.width}x{load.height} with {load.preset.name}"
    others = [text for text in (_fewer_frames(load, low, budget - held), _smaller(load, low, budget - held)) if text]
    if not others:
        others = [text for text in (_smallest(load, low, budget - held),) if text]
    hint = f", or {' or '.join(others)}" if others else "; no other number of frames and no other size would fit"
    floor = gigabytes(low.peak_bytes + held)
    return f"memory is {gigabytes(budget)}, and {asked} need {floor}; expected at least that{hint}."


def gigabytes(count: int) -> str:
    """Bytes for a person: in GB of 10^9, in MB below one."""
    return f"{count / GIGABYTE:.2f} GB" if count >= GIGABYTE else f"{count / 10**6:.0f} MB"


def _fewer_frames(load: Workload, low: MemoryPlan, budget: int) -> str | None:
    guess = int(load.video.frames * min(map(_share_of(budget), low.peaks[2:])))
    # Peaks do not grow evenly: what the first guess misses, half of it may not.
    for frames in dict.fromkeys((guess, guess - 1, load.video.frames // 2, load.video.frames // 4, 1)):
        if 0 < frames < load.video.frames and _fits(_of_frames(load, frames), low, budget):
            return f"--frames {frames}"
    return None


def _smaller(load: Workload, low: MemoryPlan, budget: int) -> str | None:
    unit = 8 * load.preset.autoencoder.downsampling
    share = min(map(_share_of(budget), low.peaks[1:]))
    width, height = (int(side * max(share, 0) ** 0.5) // unit * unit for side in (load.width, load.height))
    if min(width, height) < unit:
        return None
    return (
        f"--size {width}x{height}"
        if _fits(dataclasses.replace(load, width=width, height=height), low, budget)
        else None
    )


def _smallest(load: Workload, low: MemoryPlan, budget: int) -> str | None:
    """The video that needs the least of all, if that fits."""
    unit = 8 * load.preset.autoencoder.downsampling
    least = dataclasses.replace(_of_frames(load, 1), width=unit, height=unit)
    return f"--frames 1 --size {unit}x{unit}" if _fits(least, low, budget) else None


def _of_frames(load: Workload, frames: int) -> Workload:
    chunk = load.video.chunk and min(load.video.chunk, frames)
    return dataclasses.replace(load, video=dataclasses.replace(load.video, frames=frames, chunk=chunk))


def _fits(load: Workload, low: MemoryPlan, budget: int) -> bool:
    return predict(load, low.placement).peak_bytes <= budget


def _share_of(budget: int) -> Callable[[StagePeak], float]:
    """How much of a stage's work fits: what it works with grows with the pixels of all frames."""

    def share(peak: StagePeak) -> float:
        fixed = peak.weight_bytes + peak.fixed_bytes
        return 0.97 * (budget - fixed) / max(1, peak.bytes - fixed)

    return share
