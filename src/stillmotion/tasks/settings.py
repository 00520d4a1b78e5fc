"""The one schema of a generation: Python arguments, command-line options, YAML and recipes all are these fields."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field

from ..config import config
from ..diffusion.guidance import Constant, Guider, Linear, Trapezoid, Triangle, Unguided
from ..diffusion.samplers import Sampler
from ..diffusion.sigmas import Karras, Schedule
from ..errors import UsageError
from ..media.fitting import Fit
from ..media.formats import CodecName, Encoding, FormatName, format_of
from ..pipelines.image_to_video import VideoSettings
from ..placement import CompileWish, DType, Offload
from ..presets import Preset


def _numbers(value: Any, separator: str, number: type) -> Any:
    """Read `A{separator}B` as two numbers; what is no text goes on to the usual check."""
    if not isinstance(value, str):
        return value
    parts = value.lower().split(separator)
    if len(parts) != 2:
        raise UsageError(f"got {value!r}; expected two numbers joined by {separator!r}.")
    try:
        return tuple(number(part) for part in parts)
    except ValueError:
        raise UsageError(f"got {value!r}; expected two numbers joined by {separator!r}.") from None


def _size(value: Any) -> Any:
    return value if value == "auto" else _numbers(value, "x", int)


def _kind(value: Any) -> Any:
    """A bare name stands for the kind with its own defaults."""
    return {"kind": value} if isinstance(value, str) else value


def _schedule(value: Any) -> Any:
    """A bare name, or a list of levels joined by commas."""
    if isinstance(value, str) and any(c.isdigit() for c in value):
        return {"kind": "levels", "values": value.split(",")}
    return _kind(value)


UNITS = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40
}  # fmt: skip


def _memory(value: Any) -> Any:
    """Read `7.5GB` as bytes; a unit is needed, since 8 alone could be anything."""
    if not isinstance(value, str) or value in ("auto", "recipe"):
        return value
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?([a-zA-Z]+)", value.strip(), re.ASCII)
    unit = next((size for name, size in UNITS.items() if match and name.lower() == match[2].lower()), None)
    if match is None or unit is None:
        raise UsageError(f"got {value!r}; expected a size such as 8GB, 900MB or 7.5GiB, auto, or recipe.")
    return int(float(match[1]) * unit)


T = TypeVar("T")
Memory = Annotated[
    Annotated[int, Field(ge=1, strict=True)] | Literal["auto", "recipe"] | None, BeforeValidator(_memory)
]
Size = Annotated[tuple[int, int] | Literal["auto"], BeforeValidator(_size)]
GuidanceRange = Annotated[tuple[float, float], BeforeValidator(lambda value: _numbers(value, ":", float))]
Point = Annotated[tuple[float, float], BeforeValidator(lambda value: _numbers(value, ",", float))]
GuiderName = Literal["linear", "constant", "triangle", "trapezoid", "none"]


@config
class GenerateSettings:
    """Animate images. Where a field is empty, the recipe's value holds, or without one the model's own default."""

    image: Annotated[
        str | None,
        Field(description="An image, a folder of images, a pattern such as 'photos/*.jpg', or with --at videos."),
    ] = None
    output: Annotated[Path | None, Field(description="The file to write, or a folder for several.")] = None
    recipe: Annotated[
        Path | None, Field(description="Start from the recipe of this video or .json; what is given here wins.")
    ] = None
    model: Annotated[
        str | None,
        Field(
            description="tiny (the default), svd, svd-xt, svd-xt-1.1, a diffusers folder, an sgm .safetensors file, "
            "or a hub id."
        ),
    ] = None
    config: Annotated[
        str | None,
        Field(description="For a .safetensors of unknown name: a preset, a folder, or the original's YAML or JSON."),
    ] = None
    variant: Annotated[str | None, Field(description="Which weights of a folder to read, such as fp16.")] = None
    frames: Annotated[int | None, Field(description="Number of frames.")] = None
    steps: Annotated[int | None, Field(description="Denoising steps.")] = None
    size: Annotated[
        Size | None,
        Field(
            title="WxH|auto",
            description="Width and height as 1024x576, or auto: the trained size whose shape is nearest.",
        ),
    ] = None
    fit: Annotated[Fit | None, Field(description="How the image becomes that size.")] = None
    focus: Annotated[
        Point | None,
        Field(title="X,Y", description="What a crop keeps in the middle, as X,Y from 0,0 (top left) to 1,1."),
    ] = None
    pad_colour: Annotated[
        str | None, Field(description="Pad with this colour (a name or #rrggbb) instead of a blurred copy.")
    ] = None
    background: Annotated[str | None, Field(description="The colour behind transparency, by default white.")] = None
    at: Annotated[
        float | None, Field(description="Take the frame at this second of a video.", ge=0, allow_inf_nan=False)
    ] = None
    fps: Annotated[float | None, Field(description="True rate of the motion, which the model is told.")] = None
    motion: Annotated[
        float | None, Field(description="Motion bucket: how much moves, 0 to 255, 127 in the middle.")
    ] = None
    noise_aug: Annotated[
        float | None, Field(description="Noise on the image before it is encoded; more frees the motion.")
    ] = None
    seed: Annotated[
        int | None, Field(description="Seed of the first video, by default 0; the next ones count up.", ge=0, lt=2**63)
    ] = None
    guidance: Annotated[
        GuidanceRange | None,
        Field(title="MIN:MAX", description="Guidance of the least and of the most guided frame, as 1:2.5."),
    ] = None
    guider: Annotated[GuiderName | None, Field(description="How guidance runs over the frames, by default linear.")] = (
        None
    )
    sampler: Annotated[
        Sampler | None, BeforeValidator(_kind), Field(description="The solver, by default the model's own.")
    ] = None
    sigmas: Annotated[
        Schedule | None,
        BeforeValidator(_schedule),
        Field(description="karras, ays, ddpm, or falling levels by commas."),
    ] = None
    decoder: Annotated[
        Literal["temporal", "image"] | None, Field(description="Decode across frames, or each frame alone.")
    ] = None
    chunk: Annotated[
        int | None, Field(description="Frames decoded at once; fewer need less memory and give the same pixels.")
    ] = None
    chunked: Annotated[
        Literal["exact", "independent"] | None,
        Field(description="Decode as if all frames were together (exact), or each chunk for itself as others do."),
    ] = None
    dtype: Annotated[DType, Field(description="Precision of the networks.")] = "auto"
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:1, mps.")] = "auto"
    offload: Annotated[Offload, Field(description="What waits in main memory while it is not needed.")] = "none"
    compile: Annotated[
        CompileWish,
        Field(description="Compile each kind of block once; auto does so for long runs on CUDA."),
    ] = "auto"
    memory: Annotated[
        Memory,
        Field(
            title="SIZE|auto",
            description="Stay within 8GB, 900MB, ... or what is free (auto), or run as the recipe says (recipe).",
        ),
    ] = None
    play_fps: Annotated[
        float | None,
        Field(description="How fast the file plays; by default at the true rate.", gt=0, le=1000, allow_inf_nan=False),
    ] = None
    format: Annotated[
        FormatName | None, Field(description="The kind of file where no file name says it; png is a folder.")
    ] = None
    codec: Annotated[CodecName | None, Field(description="The codec inside mp4, webm, mov or mkv.")] = None
    quality: Annotated[int | None, Field(description="1 (small) to 100 (near lossless), by default 95.")] = None
    loop: Annotated[
        int | None, Field(description="How often an animation plays, 0 for ever; videos repeat their frames.")
    ] = None
    ping_pong: Annotated[bool | None, Field(description="Play forwards, then backwards.")] = None
    count: Annotated[int, Field(description="Videos of each image, with seeds that count up.", ge=1, le=10_000)] = 1
    avoid_still: Annotated[
        int, Field(description="Try up to this many other seeds where nothing moves.", ge=0, le=100)
    ] = 0
    resume: Annotated[bool, Field(description="Skip videos that an earlier run made of the same request.")] = False
    force: Annotated[bool, Field(description="Replace the output file if it exists.")] = False
    private: Annotated[bool, Field(description="Leave the image out of the recipe; repeating then needs it.")] = False
    preview: Annotated[
        Path | None,
        Field(title="FILE", description="Show in this .gif, .webp or .png how the video comes along."),
    ] = None
    preview_every: Annotated[
        int | None,
        Field(description="Steps from one preview to the next; by default as often as costs 1 % of the time.", ge=1),
    ] = None
    dry_run: Annotated[bool, Field(description="Print the plan and the expected time, and stop.")] = False
    json: Annotated[bool, Field(description="Print one JSON object a video instead of text.")] = False


def video_settings(settings: GenerateSettings, preset: Preset, base: VideoSettings | None = None) -> VideoSettings:
    """The generation that these settings ask of a model; empty places take `base`, or else the model's defaults."""
    base = base or own_video_settings(preset)
    return VideoSettings(
        frames=given(settings.frames, base.frames),
        steps=given(settings.steps, base.steps),
        guider=_guider(settings, base.guider, preset),
        sampler=given(settings.sampler, base.sampler),
        sigmas=given(settings.sigmas, base.sigmas),
        fps=given(settings.fps, base.fps),
        motion_bucket=given(settings.motion, base.motion_bucket),
        noise_aug=given(settings.noise_aug, base.noise_aug),
        decoder=given(settings.decoder, base.decoder),
        chunk=given(settings.chunk, base.chunk),
        chunked=given(settings.chunked, base.chunked),
    )


def own_video_settings(preset: Preset) -> VideoSettings:
    """What a model uses where nobody says anything."""
    own = preset.defaults
    return VideoSettings(
        frames=own.frames,
        steps=own.steps,
        guider=Linear(low=own.guidance[0], high=own.guidance[1]),
        sampler=own.sampler,
        sigmas=Karras(sigma_min=own.sigma_min, sigma_max=own.sigma_max, rho=own.rho),
        fps=own.fps,
        motion_bucket=own.motion_bucket,
        noise_aug=own.noise_aug,
        decoder=preset.autoencoder.decoder,
    )


def encoding_of(settings: GenerateSettings, file: Path | None, base: Encoding | None = None) -> Encoding:
    """How the video is to be written, its format settled; empty places take `base`.

    `file` is the one that was named, whose suffix chooses the format where `settings` do not. A new format drops the
    codec of the old one. Raises UsageError for a suffix that is unknown or contradicts the format.
    """
    base = base or Encoding()
    wanted = Encoding(format=settings.format, codec=settings.codec)
    chosen = base.format if file is None and wanted == Encoding() and base.format else format_of(file, wanted).name
    return Encoding(
        format=chosen,
        codec=given(settings.codec, base.codec if chosen == base.format else None),
        quality=given(settings.quality, base.quality),
        loop=given(settings.loop, base.loop),
        ping_pong=given(settings.ping_pong, base.ping_pong),
    )


def read_change(text: str, option: str, fixed: Sequence[str] = ()) -> tuple[str, str]:
    """Read `name=value` for a field of GenerateSettings that is not `fixed`. Raises UsageError, naming `option`."""
    name, separator, value = text.partition("=")
    name = name.strip().replace("-", "_")
    known = [field.name for field in dataclasses.fields(GenerateSettings) if field.name not in fixed]
    if not separator or name not in known:
        raise UsageError(f"{option} got {text!r}; expected NAME=VALUE with one of {', '.join(known)}.")
    return name, value


def given(value: T | None, default: T) -> T:
    """The value, or the default where there is none; a zero is a value."""
    return default if value is None else value


def _guider(settings: GenerateSettings, base: Guider, preset: Preset) -> Guider:
    if settings.guider is None and settings.guidance is None:
        return base
    low, high = settings.guidance or _range_of(base) or preset.defaults.guidance
    name = settings.guider or base.kind
    if name == "linear":
        return Linear(low=low, high=high)
    if name == "triangle":
        return Triangle(low=low, high=high)
    if name == "trapezoid":
        return Trapezoid(low=low, high=high)
    return Constant(scale=high) if name == "constant" else Unguided()


def _range_of(guider: Guider) -> tuple[float, float] | None:
    """The least and the most guidance of a guider, where it has both."""
    return (guider.low, guider.high) if isinstance(guider, Linear | Triangle | Trapezoid) else None
