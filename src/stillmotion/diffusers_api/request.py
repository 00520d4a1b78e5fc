"""The arguments of one call of the pipeline, and what is refused before any work starts."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsFloat, SupportsIndex

import torch
from torch import Tensor

from ..errors import UsageError
from ..pipelines.image_to_video import MAX_FRAMES
from .generation import Generators
from .media import Picture

# Called with the pipeline, the step's index, what the network read of its noise level, and the tensors asked for.
StepCallback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]


def whole(name: str, value: Any) -> int:
    """An argument as a whole number. Raises UsageError for what is none, also for 2.0 and True."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise UsageError(f"{name} is {value!r}; expected a whole number.")
    return operator.index(value)


def real(name: str, value: Any) -> float:
    """An argument as a number. Raises UsageError for what is none, also for True and for a text."""
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise UsageError(f"{name} is {value!r}; expected a number.")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # such as a tensor of several
        raise UsageError(f"{name} is {value!r}; expected a number.") from None


def check_tensors(generator: Any, latents: Any) -> None:
    """Raise UsageError for a generator or latents of another kind than a call takes."""
    each = generator if isinstance(generator, list) else [generator]
    wrong = [one for one in each if one is not None and not isinstance(one, torch.Generator)]
    if wrong:
        kind = type(wrong[0]).__name__
        raise UsageError(f"generator is a {kind}; expected a torch.Generator, a list of them, or None.")
    if latents is not None and not (isinstance(latents, Tensor) and latents.is_floating_point()):
        kind = latents.dtype if isinstance(latents, Tensor) else type(latents).__name__
        raise UsageError(f"latents are of {kind}; expected a floating-point tensor.")


def check_callback(callback: Any, names: Any, known: Sequence[str]) -> None:
    """Raise UsageError for a callback that cannot be called, or that asks for tensors that there are not."""
    if callback is not None and not callable(callback):
        raise UsageError(f"callback_on_step_end is a {type(callback).__name__}; expected a function.")
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise UsageError(f"callback_on_step_end_tensor_inputs is {names!r}; expected a list of names.")
    unknown = [str(name) for name in names if name not in known]
    if unknown:
        raise UsageError(f"callback_on_step_end_tensor_inputs has {', '.join(unknown)}; expected {', '.join(known)}.")


def latents_of(returned: Any, shown: Tensor) -> Tensor | None:
    """The latents that a callback gave back, or None. Raises UsageError for what could not go on."""
    if returned is None:
        return None
    if not isinstance(returned, Mapping):
        kind = type(returned).__name__
        raise UsageError(
            f"callback_on_step_end gave back a {kind}; expected a dict such as its last argument, or None."
        )
    latents = returned.get("latents")
    if latents is None:
        return None
    if not isinstance(latents, Tensor) or latents.shape != shown.shape:
        given = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise UsageError(
            f"callback_on_step_end gave back latents of {given}; expected a tensor of {tuple(shown.shape)}."
        )
    return latents


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """The checked arguments of one call."""

    pictures: list[Picture]
    height: int
    width: int
    frames: int
    steps: int
    sigmas: list[float] | None
    numbers: tuple[float, float, float]  # fps, motion bucket, noise augmentation
    chunk: int
    videos_per_image: int
    generator: Generators
    latents: Tensor | None
    callback: StepCallback | None

    @property
    def videos(self) -> int:
        """How many videos come out."""
        return len(self.pictures) * self.videos_per_image


def check_request(request: Request, latents_shape: tuple[int, ...]) -> None:
    """Raise UsageError for numbers out of range, and for generators or latents that do not fit the videos."""
    if not 1 <= request.frames <= MAX_FRAMES:
        raise UsageError(f"num_frames is {request.frames}; expected 1 to {MAX_FRAMES}.")
    counts = {"decode_chunk_size": request.chunk, "num_videos_per_prompt": request.videos_per_image}
    if request.sigmas is None:
        counts["num_inference_steps"] = request.steps
    for name, count in counts.items():
        if count < 1:
            raise UsageError(f"{name} is {count}; expected at least 1.")
    for name, value in zip(("fps", "motion_bucket_id", "noise_aug_strength"), request.numbers, strict=True):
        if not math.isfinite(value):
            raise UsageError(f"{name} is {value}; expected a finite number.")
    if isinstance(request.generator, list) and len(request.generator) != request.videos:
        given = len(request.generator)
        raise UsageError(f"there are {given} generators for {request.videos} videos; expected one a video.")
    if request.latents is not None and tuple(request.latents.shape) != latents_shape:
        raise UsageError(f"the latents have the shape {tuple(request.latents.shape)}; expected {latents_shape}.")


def check_components(unet: Any, scheduler: Any) -> None:
    """Raise UsageError for the configuration of a U-Net or of a scheduler that is made for another kind of model."""
    if unet.projection_class_embeddings_input_dim != 3 * unet.addition_time_embed_dim:
        raise UsageError("the U-Net reads another number of conditions than three; expected fps, motion and noise.")
    prediction = scheduler.get("prediction_type", "v_prediction")
    if prediction != "v_prediction":
        raise UsageError(f"the scheduler's prediction_type is {prediction}; expected v_prediction.")


def selected(callback: StepCallback | None, names: Sequence[str]) -> StepCallback | None:
    """The callback, given nothing but the tensors of these names."""
    if callback is None:
        return None
    return lambda pipe, step, timestep, shown: callback(pipe, step, timestep, {name: shown[name] for name in names})
