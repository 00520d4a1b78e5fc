"""StableVideoDiffusionPipeline with diffusers' arguments, order of draws and outputs, over our sampler."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ..checkpoints import diffusers as layout
from ..checkpoints.load import folder_preset, is_single_file, locate, single_file
from ..conditioning import Condition, micro_conditions
from ..diffusion.samplers import Euler, check_levels, sample
from ..errors import Cancelled, UsageError
from ..events import Progress
from ..hub import Access
from ..pipelines.image_to_video import start_scale
from ..pipelines.preview import Preview, preview_of
from ..presets import Preset
from . import pretrained
from .decoding import Chunked, frame_decoder
from .folder import COMPONENTS, NETWORKS, components_of, has_every_shape, index_of, read_components, write_components
from .generation import (
    Component,
    Generators,
    check_generators,
    clip_input,
    denoiser,
    draw_noise,
    guidance_ramp,
    is_guided,
    mean_latents,
    weights_of,
)
from .media import Images, Picture, as_output, pictures, stretched, to_signed
from .memory import out_of_memory, savings_left, within_memory
from .networks import NormEps
from .offload import Kind, Offload, device_of, offload_to
from .records import Config, Output
from .request import (
    Request,
    StepCallback,
    check_callback,
    check_components,
    check_request,
    check_tensors,
    latents_of,
    real,
    selected,
    whole,
)
from .scheduler import EulerDiscreteScheduler, levels_of_other

SIZE_UNIT = 8  # pixels; diffusers refuses other sizes whatever the autoencoder
Result = TypeVar("Result")
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclasses.dataclass
class StableVideoDiffusionPipelineOutput(Output):
    """The videos: lists of PIL images, an array `b t h w c` or a tensor `b t c h w` in [0, 1], or scaled latents."""

    frames: list[list[Image.Image]] | np.ndarray | Tensor


class StableVideoDiffusionPipeline:
    """Makes videos of still images. The components are ours, or others that are called in the same way.

    vae: an AutoencoderKLTemporalDecoder, or an autoencoder whose `decode` takes no num_frames.
    image_encoder: transformers' CLIPVisionModelWithProjection. unet: a UNetSpatioTemporalConditionModel.
    scheduler: an EulerDiscreteScheduler. feature_extractor: transformers' CLIPImageProcessor, or None for CLIP's own.
    Of `scheduler` only the noise levels are read: the sampler is Euler's, the prediction SVD's velocity.
    Not safe to call from two threads at once; `interrupt` is.
    """

    model_cpu_offload_seq = "image_encoder->unet->vae"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        vae: Component,
        image_encoder: Component,
        unet: Component,
        scheduler: Component,
        feature_extractor: Component,
    ) -> None:
        self.vae = vae
        self.image_encoder = image_encoder
        self.unet = unet
        self.scheduler = scheduler
        self.feature_extractor = feature_extractor
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self._preset: Preset | None = None
        self._progress: dict[str, Any] = {}
        self._offload: Offload | None = None
        self._interrupt = False
        self._guidance_scale: float | Tensor = 1.0
        self._num_timesteps = 0
        self._preview: Preview | None = None
        # "exact": decode_chunk_size changes no pixel. "independent": each chunk for itself, as diffusers decodes.
        self.chunked: Chunked = "exact"

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        variant: str | None = None,
        revision: str | None = None,
        use_safetensors: bool | None = None,
        low_cpu_mem_usage: bool = True,
        device_map: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool | None = None,
        force_download: bool = False,
        norm_eps: NormEps | None = None,
        vae: Component = None,
        image_encoder: Component = None,
        unet: Component = None,
        scheduler: Component = None,
        feature_extractor: Component = None,
        **ignored: Any,
    ) -> StableVideoDiffusionPipeline:
        """The pipeline of a diffusers folder, a hub repository, a preset (`tiny`, `svd-xt`) or a single file.

        Weights become float32 unless `torch_dtype` or `dtype` says otherwise. A component that is given takes the
        place of the folder's, which is neither fetched nor read. norm_eps: the epsilons of the U-Net's norms,
        "original" or "diffusers"; None is what was saved, or the original's. device_map: a device to move everything
        to. cache_dir, token, local_files_only, force_download: of the hub's client. `low_cpu_mem_usage` changes
        nothing: weights never exist twice. Other arguments are named in one warning, as diffusers does, and ignored.
        Raises UsageError, CheckpointError or HubError.
        """
        pretrained.check_loading(use_safetensors)
        pretrained.warn_of(ignored)
        if device_map in ("auto", "balanced"):
            raise UsageError(f"device_map is {device_map!r}; expected one device, such as cuda, for a whole model.")
        wanted, source = pretrained.chosen_dtype(torch_dtype, dtype), pretrained_model_name_or_path
        each = zip(COMPONENTS, (vae, image_encoder, unet, scheduler, feature_extractor), strict=True)
        given = {name: component for name, component in each if component is not None}
        if is_single_file(source):
            loaded = single_file(Path(source), dtype=wanted)
            made = cls._of(components_of(loaded, norm_eps) | given, loaded.preset)
        else:
            access = Access(cache_dir, token, bool(local_files_only), force_download)
            needed = [name for name in NETWORKS if name not in given]
            folder = locate(source, layout.patterns(variant, needed), revision, access)
            preset = folder_preset(source, folder) if not given or has_every_shape(folder) else None
            made = cls._of(read_components(folder, given, preset, variant, wanted, norm_eps), preset)
        return made if device_map is None else made.to(device_map)

    @classmethod
    def from_single_file(
        cls,
        pretrained_model_link_or_path: str | Path,
        config: Preset | str | Path | None = None,
        *,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        norm_eps: NormEps | None = None,
    ) -> StableVideoDiffusionPipeline:
        """The pipeline of the original's single .safetensors file.

        config: what tensors do not tell (heads, frames): a preset or its name, a diffusers folder, the original's YAML
        or its JSON; not needed where the file has a released name. Raises UsageError or CheckpointError.
        """
        wanted = pretrained.chosen_dtype(torch_dtype, dtype)
        if str(pretrained_model_link_or_path).startswith(("http://", "https://")):
            raise UsageError(f"{pretrained_model_link_or_path} is an address; expected a file: download it first.")
        loaded = single_file(Path(pretrained_model_link_or_path), config, dtype=wanted)
        return cls._of(components_of(loaded, norm_eps), loaded.preset)

    @classmethod
    def _of(cls, components: Mapping[str, Component], preset: Preset | None) -> StableVideoDiffusionPipeline:
        made = cls(**components)
        made._preset = preset
        return made

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
    ) -> None:
        """Write the diffusers folder, each file whole or not at all, beside what else is there.

        max_shard_size: the most bytes of one file of weights, also as in "5GB". Compiled networks are saved as what
        they were made of. Raises UsageError or StillmotionError.
        """
        pretrained.check_saving(safe_serialization, push_to_hub=push_to_hub)
        write_components(Path(save_directory), self.components, self._preset, variant, max_shard_size)

    @property
    def components(self) -> dict[str, Any]:
        """Everything that the constructor takes, to make another pipeline of the same weights."""
        return {name: getattr(self, name) for name in COMPONENTS}

    @property
    def config(self) -> Config:
        """The index of the diffusers folder: library and class of each component."""
        return index_of(self.components)

    @property
    def device(self) -> torch.device:
        """Where the U-Net's weights are."""
        return weights_of(self.unet).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the U-Net's weights."""
        return weights_of(self.unet).dtype

    def to(
        self,
        *targets: str | torch.device | torch.dtype | None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        silence_dtype_warnings: bool = False,
    ) -> StableVideoDiffusionPipeline:
        """Move every network, or change its precision, in place. Ends an offload. Raises UsageError for no device."""
        for target in targets:
            if isinstance(target, torch.dtype):
                dtype = target
            elif target is not None:
                device = target
        if device is not None:
            device = device_of(device)
            self._offload = None
        for network in (self.vae, self.image_encoder, self.unet):
            network.to(device=device, dtype=dtype)
        return self

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: str | torch.device | None = None) -> None:
        """Keep the networks in main memory, and bring each to the GPU only while it works.

        On a machine without a GPU everything stays where it is. Raises UsageError for a device that it lacks.
        """
        self._enable_offload("model", gpu_id, device)

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: str | torch.device | None = None
    ) -> None:
        """The same for each layer: least memory, and slow."""
        self._enable_offload("sequential", gpu_id, device)

    def remove_all_hooks(self) -> None:
        """End an offload; the networks stay in main memory."""
        self._offload = None

    def maybe_free_model_hooks(self) -> None:
        """Accepted, and changes nothing: an offloaded network leaves the device as soon as it has worked."""

    def enable_xformers_memory_efficient_attention(self, attention_op: object = None) -> None:
        """Accepted, and changes nothing: attention is always PyTorch's own, which needs no more memory."""

    def disable_xformers_memory_efficient_attention(self) -> None:
        """Accepted, and changes nothing."""

    def enable_attention_slicing(self, slice_size: str | int | None = "auto") -> None:
        """Accepted, and changes nothing: PyTorch's attention never holds the whole matrix that slices would spare."""

    def disable_attention_slicing(self) -> None:
        """Accepted, and changes nothing."""

    def set_progress_bar_config(self, **settings: Any) -> None:
        """Settings of tqdm's bar, as in `disable=True`."""
        self._progress = settings

    def progress_bar(self, iterable: Iterable[Any] | None = None, total: int | None = None) -> tqdm:
        """A bar over `iterable`, or of `total` steps, with the settings of `set_progress_bar_config`."""
        return tqdm(iterable, total=total, **self._progress)

    def interrupt(self) -> None:
        """Stop the running call behind its current step: it raises errors.Cancelled. From a callback or any thread.

        `pipe._interrupt = True` does the same.
        """
        self._interrupt = True

    @property
    def guidance_scale(self) -> float | Tensor:
        """The scale of each frame, `1 t 1 1 1`; a callback may set `_guidance_scale` for the steps that are left."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the unconditional branch runs: where some frame's scale is above 1."""
        return is_guided(self._guidance_scale)

    @property
    def num_timesteps(self) -> int:
        """How many steps the running call takes."""
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        image: Images,
        height: int | None = 576,
        width: int | None = 1024,
        num_frames: int | None = None,
        num_inference_steps: int = 25,
        sigmas: Sequence[float] | None = None,
        min_guidance_scale: float = 1.0,
        max_guidance_scale: float = 3.0,
        fps: float = 7,
        motion_bucket_id: float = 127,
        noise_aug_strength: float = 0.02,
        decode_chunk_size: int | None = None,
        num_videos_per_prompt: int | None = 1,
        generator: Generators = None,
        latents: Float[Tensor, "b t c h w"] | None = None,
        output_type: str | None = "pil",
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = True,
    ) -> StableVideoDiffusionPipelineOutput | tuple[Any]:
        """Videos of one image or of several: those of the first image first.

        image: any size and kind; it is stretched to `height` x `width`, multiples of 8 pixels (None: the U-Net's own
        size). Tensors and float arrays are in [0, 1].
        sigmas: noise levels in place of num_inference_steps, taken as they are: n + 1 levels are n steps, and only a
        list that ends with 0 ends without noise.
        min_guidance_scale, max_guidance_scale: of the first and of the last frame.
        fps: the true rate of the motion, which the network gets less one; a file's rate is export_to_video's.
        decode_chunk_size: frames of one video that are decoded together; None decodes all together. Fewer need less
        memory and give the same pixels, unless `chunked` is "independent" or the autoencoder is not our own.
        generator: one for the whole batch, or one a video, of which an image's first also draws its noise. On the CPU
        it draws the same for any device.
        latents: unit noise to start from.
        output_type: pil, np, pt, or latent (scaled latents in the model's precision).
        callback_on_step_end: called behind each step with the pipeline, the step, its timestep and {"latents": ...};
        what it returns under "latents" replaces them.
        return_dict: False gives a tuple of one.
        Raises UsageError before any work, Cancelled behind `interrupt`, MediaError where a video came out as NaN, and
        StillmotionError where memory runs out, saying which settings need less.
        """
        self._interrupt = False
        if output_type not in OUTPUT_TYPES:
            raise UsageError(f"output_type is {output_type!r}; expected one of {', '.join(OUTPUT_TYPES)}.")
        check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        check_tensors(generator, latents)
        count = self.unet.config.num_frames if num_frames is None else whole("num_frames", num_frames)
        given = (("fps", fps), ("motion_bucket_id", motion_bucket_id), ("noise_aug_strength", noise_aug_strength))
        fps, motion_bucket_id, noise_aug_strength = (real(*each) for each in given)
        ends = real("min_guidance_scale", min_guidance_scale), real("max_guidance_scale", max_guidance_scale)
        request = Request(
            pictures=pictures(image),
            height=self._size("height", height),
            width=self._size("width", width),
            frames=count,
            steps=whole("num_inference_steps", num_inference_steps),
            sigmas=None if sigmas is None else [real("each of sigmas", sigma) for sigma in sigmas],
            numbers=(fps, motion_bucket_id, noise_aug_strength),
            chunk=count if decode_chunk_size is None else whole("decode_chunk_size", decode_chunk_size),
            videos_per_image=1
            if num_videos_per_prompt is None
            else whole("num_videos_per_prompt", num_videos_per_prompt),
            generator=generator,
            latents=latents,
            callback=selected(callback_on_step_end, callback_on_step_end_tensor_inputs),
        )
        levels = self._check(request)
        self._guidance_scale = guidance_ramp(*ends, count).to(self._execution_device)
        made = self._generate(request, levels)
        frames = made if output_type == "latent" else self._output(made, request.chunk, output_type)
        return StableVideoDiffusionPipelineOutput(frames=frames) if return_dict else (frames,)

    def preview(self) -> list[list[Image.Image]]:
        """Each video of the running or last call as the network last guessed it, one small RGB image a frame.

        One pixel a latent pixel: nothing is decoded. Raises UsageError before the first step.
        """
        shown = self._preview and self._preview.newest()
        if shown is None:
            raise UsageError("preview was asked for before any step; expected it in callback_on_step_end or later.")
        return [[Image.fromarray(frame) for frame in frames] for frames in shown]

    def decode_latents(
        self, latents: Float[Tensor, "b t c h w"], num_frames: int, decode_chunk_size: int = 14
    ) -> Float[Tensor, "b c2 t h2 w2"]:
        """Frames near [-1, 1] of scaled latents, in float32; chunks as in a call."""
        if latents.shape[1] != num_frames or decode_chunk_size < 1:
            raise UsageError(
                f"num_frames is {num_frames} and decode_chunk_size {decode_chunk_size} for {latents.shape[1]} frames; "
                "expected their number, and at least 1."
            )
        decoding = functools.partial(self._decode, latents, decode_chunk_size)
        return self._within_memory("decoding", latents.shape, decode_chunk_size, decoding).transpose(1, 2)

    @property
    def _execution_device(self) -> torch.device:
        return self.device if self._offload is None else self._offload.device

    def _enable_offload(self, kind: Kind, gpu_id: int | None, device: str | torch.device | None) -> None:
        offload = offload_to(kind, gpu_id, device)
        self.to("cpu")
        self._offload = offload

    def _use(self, network: Component) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._offload is None else self._offload.use(network)

    def _size(self, name: str, value: int | None) -> int:
        unit = math.lcm(SIZE_UNIT, self.vae_scale_factor)
        if value is None and self.unet.config.sample_size is None:
            raise UsageError(f"{name} is None, and the U-Net has no sample_size; expected a number of pixels.")
        pixels = self.unet.config.sample_size * self.vae_scale_factor if value is None else whole(name, value)
        if pixels < unit or pixels % unit:
            raise UsageError(f"{name} is {pixels}; expected a multiple of {unit} pixels.")
        return pixels

    def _check(self, request: Request) -> Float[Tensor, " n"]:
        """The noise levels of a request, found sound."""
        check_request(request, self._latents_shape(request))
        check_generators(request.generator, self._execution_device)
        frame_decoder(self.vae, self.chunked)
        check_components(self.unet.config, self.scheduler.config)
        levels = self._levels(request)
        check_levels(levels)
        return levels

    def _latents_shape(self, request: Request) -> tuple[int, ...]:
        channels = self.unet.config.in_channels // 2  # the other half are the image's
        size = request.height // self.vae_scale_factor, request.width // self.vae_scale_factor
        return (request.videos, request.frames, channels, *size)

    def _generate(self, request: Request, levels: Float[Tensor, " n"]) -> Float[Tensor, "b t c h w"]:
        """Scaled latents. The draws: each image's noise, also where its strength is 0, then the latents'."""
        shape = self._latents_shape(request)
        condition = self._within_memory("encoding", shape, request.chunk, functools.partial(self._condition, request))
        dtype = condition.context.dtype
        if request.latents is None:
            noise = draw_noise(shape, request.generator, self._execution_device, dtype)
        else:
            noise = request.latents.to(self._execution_device)
        start = noise.float() * start_scale(levels).to(noise.device)
        denoising = functools.partial(self._sample, condition, start, levels, request.callback)
        return self._within_memory("denoising", shape, request.chunk, denoising).to(dtype)

    def _condition(self, request: Request) -> Condition:
        device = self._execution_device
        context = self._embed(request.pictures)
        images = torch.cat([stretched(each, request.height, request.width) for each in request.pictures]).to(device)
        first = request.generator
        if isinstance(first, list):
            first = first[:: request.videos_per_image]  # an image is the same in a batch as with its generators alone
        noise = draw_noise(tuple(images.shape), first, device, images.dtype)
        with self._use(self.vae):
            latents = mean_latents(self.vae, images + request.numbers[2] * noise).to(context.dtype)
        numbers = micro_conditions(*request.numbers, batch=request.videos).to(device)
        times = request.videos_per_image
        self._preview = preview_of(images, latents * self.vae.config.scaling_factor, times)
        return Condition(context.repeat_interleave(times, 0), latents.repeat_interleave(times, 0), numbers)

    def _embed(self, images: list[Picture]) -> Float[Tensor, "b 1 d"]:
        """The CLIP embedding of each image as it was given, at its own size."""
        size = self.image_encoder.config.image_size
        pixels = [
            clip_input(to_signed(image).to(self._execution_device), size, self.feature_extractor) for image in images
        ]
        with self._use(self.image_encoder):
            encoded = self.image_encoder(torch.cat(pixels).to(weights_of(self.image_encoder).dtype))
            return encoded.image_embeds[:, None]

    def _levels(self, request: Request) -> Float[Tensor, " n"]:
        steps: dict[str, Any] = {"num_inference_steps": request.steps}
        asked: dict[str, Any] = steps if request.sigmas is None else {"sigmas": request.sigmas}
        if isinstance(self.scheduler, EulerDiscreteScheduler):
            self.scheduler.set_timesteps(**asked, device=self._execution_device)
            return self.scheduler.sigmas.float().cpu()
        return levels_of_other(self.scheduler, asked, self._execution_device)

    def _sample(
        self,
        condition: Condition,
        start: Float[Tensor, "b t c h w"],
        levels: Float[Tensor, " n"],
        callback: StepCallback | None,
    ) -> Float[Tensor, "b t c h w"]:
        """Euler's method in float32. The callback sees latents in the model's precision."""
        dtype = condition.context.dtype
        self._num_timesteps = len(levels) - 1

        def after_step(step: int, x: Tensor) -> Tensor:
            bar.update()
            if callback is not None:
                shown = {"latents": x.to(dtype)}
                replaced = latents_of(callback(self, step, levels[step].log() / 4, shown), x)
                x = x if replaced is None or torch.equal(replaced, x.to(replaced.dtype)) else replaced.to(x)
            self._stop_if_asked(f"step {step + 1} of {len(levels) - 1}")
            return x

        def no_noise() -> Tensor:
            raise AssertionError("Euler's method without churn draws no noise")

        with self._use(self.unet), self.progress_bar(total=len(levels) - 1) as bar:
            denoise = denoiser(self.unet, condition, lambda: self._guidance_scale)
            denoise = self._preview.remembering(denoise) if self._preview else denoise
            return sample(Euler(), denoise, start, levels, no_noise, after_step)

    def _decode(self, latents: Float[Tensor, "b t c h w"], chunk: int) -> Float[Tensor, "b t c2 h2 w2"]:
        def stop_if_asked(event: Progress) -> None:
            self._stop_if_asked(f"{event.done} of {event.total} decoded frames")

        decode = frame_decoder(self.vae, self.chunked)
        with self._use(self.vae):
            return decode(latents.to(self._execution_device), chunk, stop_if_asked)

    def _output(self, latents: Float[Tensor, "b t c h w"], chunk: int, output_type: str) -> Any:
        def finished() -> Any:
            return as_output(self._decode(latents, chunk), output_type)

        return self._within_memory("decoding", latents.shape, chunk, finished)

    def _within_memory(self, stage: str, shape: Sequence[int], chunk: int, run: Callable[[], Result]) -> Result:
        """What `run` returns, with one sentence where memory runs out; `shape` is that of the latents."""

        def sentence() -> str:
            savings = savings_left(
                stage,
                videos=shape[0],
                chunk=chunk,
                needs_chunk=self.chunked == "independent" or not is_on_cpu,
                offload=None if self._offload is None else self._offload.kind,
                is_on_cpu=is_on_cpu,
                dtype=self.dtype,
            )
            height, width = (side * self.vae_scale_factor for side in shape[-2:])
            videos = f"{shape[0]} videos of " if shape[0] > 1 else ""
            return out_of_memory(stage, f"{videos}{shape[1]} frames of {width}x{height}", savings)

        is_on_cpu = self._execution_device.type == "cpu"
        return within_memory(run, self._execution_device, sentence)

    def _stop_if_asked(self, done: str) -> None:
        if self._interrupt:
            raise Cancelled(f"the generation was stopped behind {done}; no video was made.")
