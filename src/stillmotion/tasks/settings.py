"""The one schema of a generation: Python arguments, command-line options and YAML all are these fields."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field

from ..config import config
from ..diffusion.guidance import Constant, Guider, Linear, Trapezoid, Triangle, Unguided
from ..diffusion.samplers import Euler, Sampler
from ..diffusion.sigmas import Karras, Schedule
from ..errors import UsageError
from ..pipelines.image_to_video import VideoSettings
from ..placement import DType, Offload
from ..presets import Preset


def _pair(separator: str, number: type) -> BeforeValidator:
    """Read `A{separator}B` as two numbers; anything else goes on to the usual check."""

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = value.lower().split(separator)
        if len(parts) != 2:
            raise UsageError(f"got {value!r}; expected two numbers joined by {separator!r}.")
        try:
            return tuple(number(part) for part in parts)
        except ValueError:
            raise UsageError(f"got {value!r}; expected two numbers joined by {separator!r}.") from None

    return BeforeValidator(read)


def _kind(value: Any) -> Any:
    """A bare name stands for the kind with its own defaults."""
    return {"kind": value} if isinstance(value, str) else value


def _schedule(value: Any) -> Any:
    """A bare name, or a list of levels joined by commas."""
    if isinstance(value, str) and any(c.isdigit() for c in value):
        return {"kind": "levels", "values": [part for part in value.split(",") if part.strip()]}
    return _kind(value)


T = TypeVar("T")
Size = Annotated[tuple[int, int], _pair("x", int)]
GuidanceRange = Annotated[tuple[float, float], _pair(":", float)]
GuiderName = Literal["linear", "constant", "triangle", "trapezoid", "none"]


@config
class GenerateSettings:
    """Animate images. Where a field is empty, the model's own default holds."""

    image: Annotated[str, Field(description="An image, a folder of images, or a pattern such as 'photos/*.jpg'.")]
    output: Annotated[Path | None, Field(description="The mp4 to write, or a folder for several.")] = None
    model: Annotated[
        str,
        Field(description="tiny, svd, svd-xt, svd-xt-1.1, a diffusers folder, an sgm .safetensors file, or a hub id."),
    ] = "tiny"
    config: Annotated[
        str | None,
        Field(description="For a .safetensors of unknown name: a preset, a folder, or the original's YAML or JSON."),
    ] = None
    variant: Annotated[str | None, Field(description="Which weights of a folder to read, such as fp16.")] = None
    frames: Annotated[int | None, Field(description="Number of frames.")] = None
    steps: Annotated[int | None, Field(description="Denoising steps.")] = None
    size: Annotated[Size | None, Field(description="Width and height of the video, as 1024x576.")] = None
    fit: Annotated[Literal["crop", "pad", "stretch"] | None, Field(description="How the image becomes that size.")] = (
        None
    )
    fps: Annotated[float | None, Field(description="True rate of the motion, which the model is told.")] = None
    motion: Annotated[
        float | None, Field(description="Motion bucket: how much moves, 0 to 255, 127 in the middle.")
    ] = None
    noise_aug: Annotated[
        float | None, Field(description="Noise on the image before it is encoded; more frees the motion.")
    ] = None
    seed: Annotated[int, Field(description="Seed of the first video; the next ones count up.", ge=0, lt=2**63)] = 0
    guidance: Annotated[
        GuidanceRange | None, Field(description="Guidance of the least and of the most guided frame, as 1:2.5.")
    ] = None
    guider: Annotated[GuiderName, Field(description="How guidance runs over the frames.")] = "linear"
    sampler: Annotated[Sampler, BeforeValidator(_kind), Field(description="The solver.")] = Euler()
    sigmas: Annotated[
        Schedule | None,
        BeforeValidator(_schedule),
        Field(description="karras, ays, ddpm, or falling levels by commas."),
    ] = None
    decoder: Annotated[
        Literal["temporal", "image"] | None, Field(description="Decode across frames, or each frame alone.")
    ] = None
    chunk: Annotated[
        int | None, Field(description="Frames decoded at once; fewer need less memory and change the pixels.")
    ] = None
    dtype: Annotated[DType, Field(description="Precision of the networks.")] = "auto"
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:1, mps.")] = "auto"
    offload: Annotated[Offload, Field(description="What waits in main memory while it is not needed.")] = "none"
    play_fps: Annotated[
        float | None,
        Field(description="How fast the file plays; by default at the true rate.", gt=0, le=1000, allow_inf_nan=False),
    ] = None
    count: Annotated[int, Field(description="Videos of each image, with seeds that count up.", ge=1, le=10_000)] = 1
    dry_run: Annotated[bool, Field(description="Print the plan and the expected time, and stop.")] = False


def video_settings(settings: GenerateSettings, preset: Preset) -> VideoSettings:
    """The generation that these settings ask of a model, with its defaults in the empty places."""
    own = preset.defaults
    low, high = settings.guidance or own.guidance
    karras = Karras(sigma_min=own.sigma_min, sigma_max=own.sigma_max, rho=own.rho)
    return VideoSettings(
        frames=_given(settings.frames, own.frames),
        steps=_given(settings.steps, own.steps),
        guider=_guider(settings.guider, low, high),
        sampler=settings.sampler,
        sigmas=settings.sigmas or karras,
        fps=_given(settings.fps, own.fps),
        motion_bucket=_given(settings.motion, own.motion_bucket),
        noise_aug=_given(settings.noise_aug, own.noise_aug),
        decoder=settings.decoder or preset.autoencoder.decoder,
        chunk=settings.chunk,
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _guider(name: GuiderName, low: float, high: float) -> Guider:
    if name == "linear":
        return Linear(low=low, high=high)
    if name == "triangle":
        return Triangle(low=low, high=high)
    if name == "trapezoid":
        return Trapezoid(low=low, high=high)
    return Constant(scale=high) if name == "constant" else Unguided()
