"""StableVideoDiffusionPipeline with diffusers' arguments, order of draws and outputs, over our sampler."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ..checkpoints import diffusers as layout
from ..checkpoints.load import Loaded, load, single_file
from ..conditioning import Condition, micro_conditions
from ..config import to_tree
from ..diffusion.samplers import Euler, sample
from ..errors import Cancelled, UsageError
from ..pipelines.image_to_video import start_scale
from ..placement import Placement, resolve
from ..presets import PRESETS, Preset
from . import offload, pretrained
from .generation import (
    Component,
    Generators,
    clip_input,
    denoiser,
    draw_noise,
    guidance_ramp,
    is_guided,
    mean_latents,
    weights_of,
)
from .media import Images, Picture, as_output, pictures, stretched, to_signed
from .networks import NormEps, as_autoencoder, as_unet
from .records import Config, Output
from .request import Request, StepCallback, check_request, selected
from .scheduler import FILE as SCHEDULER_FILE
from .scheduler import EulerDiscreteScheduler

logger = logging.getLogger(__name__)

SIZE_UNIT = 8  # pixels; diffusers refuses other sizes whatever the autoencoder
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
COMPONENTS = ("vae", "image_encoder", "unet", "scheduler", "feature_extractor")


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
        self._offload: tuple[str, torch.device] | None = None
        self._interrupt = False
        self._guidance_scale: float | Tensor = 1.0
        self._num_timesteps = 0

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
        norm_eps: NormEps | None = None,
        vae: Component = None,
        image_encoder: Component = None,
        unet: Component = None,
        scheduler: Component = None,
        feature_extractor: Component = None,
    ) -> StableVideoDiffusionPipeline:
        """The pipeline of a diffusers folder, a hub repository, a preset (`tiny`, `svd-xt`) or a single file.

        Weights become float32 unless `torch_dtype` or `dtype` says otherwise. A component that is given replaces the
        folder's. norm_eps: the epsilons of the U-Net's norms, "original" or "diffusers"; None is what was saved, or
        the original's. device_map: a device to move everything to. `low_cpu_mem_usage` changes nothing: weights never
        exist twice. Raises UsageError, CheckpointError or HubError.
        """
        pretrained.check_loading(use_safetensors)
        wanted = pretrained.chosen_dtype(torch_dtype, dtype)
        if Path(pretrained_model_name_or_path).is_file():
            made = cls.from_single_file(pretrained_model_name_or_path, dtype=wanted, norm_eps=norm_eps)
        else:
            folder = pretrained.model_folder(pretrained_model_name_or_path, revision, layout.patterns(variant, False))
            loaded = load(folder, dtype=wanted, variant=variant)
            preset = PRESETS.get(str(pretrained_model_name_or_path), loaded.preset)
            made = cls._of(Loaded(loaded.components, preset), folder, norm_eps)
        given = dict(zip(COMPONENTS, (vae, image_encoder, unet, scheduler, feature_extractor), strict=True))
        for name, component in given.items():
            if component is not None:
                setattr(made, name, component)
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
        return cls._of(single_file(Path(pretrained_model_link_or_path), config, dtype=wanted), None, norm_eps)

    @classmethod
    def _of(cls, loaded: Loaded, folder: Path | None, norm_eps: NormEps | None) -> StableVideoDiffusionPipeline:
        """Our networks behind diffusers' faces, with the scheduler and the feature extractor of `folder`."""
        components, preset = loaded.components, loaded.preset
        settings = layout.SCHEDULER | {"sigma_min": preset.defaults.sigma_min, "sigma_max": preset.defaults.sigma_max}
        if folder is not None and (folder / "scheduler" / SCHEDULER_FILE).exists():
            settings = pretrained.read_document(folder / "scheduler" / SCHEDULER_FILE)
        extractor = layout.FEATURE_EXTRACTOR
        if folder is not None and (folder / "feature_extractor" / "preprocessor_config.json").exists():
            extractor = pretrained.read_document(folder / "feature_extractor" / "preprocessor_config.json")
        saved = {} if folder is None else pretrained.read_document(folder / "unet" / "config.json")
        eps: NormEps = saved.get("norm_eps", "original") if norm_eps is None else norm_eps
        made = cls(
            vae=as_autoencoder(components.autoencoder, layout.autoencoder_document(components.autoencoder.cfg)),
            image_encoder=components.image_encoder,
            unet=as_unet(components.unet, eps, layout.unet_document(components.unet.cfg)),
            scheduler=EulerDiscreteScheduler.from_config(settings),
            feature_extractor=transformers.CLIPImageProcessor.from_dict(dict(extractor)),
        )
        made._preset = preset
        return made

    def save_pretrained(
        self, save_directory: str | Path, safe_serialization: bool = True, variant: str | None = None
    ) -> None:
        """Write the diffusers folder, each file whole or not at all, beside what else is there.

        Compiled networks are saved as what they were made of. Raises UsageError or StillmotionError.
        """
        pretrained.check_saving(safe_serialization)
        folder = Path(save_directory)
        unet, vae, tower = (_uncompiled(network) for network in (self.unet, self.vae, self.image_encoder))
        unet.save_pretrained(folder / "unet", variant=variant)
        vae.save_pretrained(folder / "vae", variant=variant)
        stem = f"model.{variant}" if variant else "model"
        pretrained.write_weights(tower, folder / "image_encoder" / f"{stem}.safetensors")
        shape = layout.image_encoder_config(tower.config.to_dict(), Path("the image encoder"))
        tower_document = layout.image_encoder_document(shape, tower.dtype)
        pretrained.write_document(folder / "image_encoder" / "config.json", tower_document)
        self.scheduler.save_pretrained(folder / "scheduler")
        if self.feature_extractor is not None:
            self.feature_extractor.save_pretrained(folder / "feature_extractor")
        if self._preset is not None:
            ours = {"name": self._preset.name, "defaults": to_tree(self._preset.defaults)}
            pretrained.write_document(folder / layout.OURS, ours)
        pretrained.write_document(folder / "model_index.json", self.config)

    @property
    def components(self) -> dict[str, Any]:
        """Everything that the constructor takes, to make another pipeline of the same weights."""
        return {name: getattr(self, name) for name in COMPONENTS}

    @property
    def config(self) -> Config:
        """The index of the diffusers folder: library and class of each component."""
        index: dict[str, Any] = {"_class_name": layout.PIPELINE, "_diffusers_version": layout.VERSION}
        for name, component in self.components.items():
            of_transformers = name in ("image_encoder", "feature_extractor")
            kind = None if component is None else type(_uncompiled(component)).__name__
            index[name] = [None if kind is None else "transformers" if of_transformers else "diffusers", kind]
        if self.feature_extractor is not None:  # transformers' name for it varies with what else is installed
            index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
        return Config(index)

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
            device = resolve(Placement(device=str(device), dtype="float32")).device
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

    def progress_bar(self, total: int) -> tqdm:
        """A bar of `total` steps with the settings of `set_progress_bar_config`."""
        return tqdm(total=total, **self._progress)

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
        decode_chunk_size: frames of one video that are decoded together; None decodes all together.
        generator: one for the whole batch, or one a video, of which an image's first also draws its noise. On the CPU
        it draws the same for any device.
        latents: unit noise to start from.
        output_type: pil, np, pt, or latent (scaled latents in the model's precision).
        callback_on_step_end: called behind each step with the pipeline, the step, its timestep and {"latents": ...};
        what it returns under "latents" replaces them.
        return_dict: False gives a tuple of one.
        Raises UsageError before any work, Cancelled behind `interrupt`, MediaError where a video came out as NaN.
        """
        self._interrupt = False
        if output_type not in OUTPUT_TYPES:
            raise UsageError(f"output_type is {output_type!r}; expected one of {', '.join(OUTPUT_TYPES)}.")
        unknown = [name for name in callback_on_step_end_tensor_inputs if name not in self._callback_tensor_inputs]
        if unknown:
            raise UsageError(f"callback_on_step_end_tensor_inputs has {', '.join(unknown)}; expected latents.")
        count = self.unet.config.num_frames if num_frames is None else num_frames
        request = Request(
            pictures=pictures(image),
            height=self._size("height", height),
            width=self._size("width", width),
            frames=count,
            steps=num_inference_steps,
            sigmas=None if sigmas is None else [float(sigma) for sigma in sigmas],
            numbers=(fps, motion_bucket_id, noise_aug_strength),
            chunk=count if decode_chunk_size is None else decode_chunk_size,
            videos_per_image=1 if num_videos_per_prompt is None else num_videos_per_prompt,
            generator=generator,
            latents=latents,
            callback=selected(callback_on_step_end, callback_on_step_end_tensor_inputs),
        )
        self._check(request)
        self._guidance_scale = guidance_ramp(min_guidance_scale, max_guidance_scale, count).to(self._execution_device)
        made = self._generate(request)
        frames = made if output_type == "latent" else as_output(self._decode(made, request.chunk), output_type)
        return StableVideoDiffusionPipelineOutput(frames=frames) if return_dict else (frames,)

    def decode_latents(
        self, latents: Float[Tensor, "b t c h w"], num_frames: int, decode_chunk_size: int = 14
    ) -> Float[Tensor, "b c2 t h2 w2"]:
        """Frames near [-1, 1] of scaled latents, in float32; chunks never reach over the end of a video."""
        if latents.shape[1] != num_frames or decode_chunk_size < 1:
            raise UsageError(
                f"num_frames is {num_frames} and decode_chunk_size {decode_chunk_size} for {latents.shape[1]} frames; "
                "expected their number, and at least 1."
            )
        return self._decode(latents, decode_chunk_size).transpose(1, 2)

    @property
    def _execution_device(self) -> torch.device:
        return self.device if self._offload is None else self._offload[1]

    def _enable_offload(self, kind: str, gpu_id: int | None, device: str | torch.device | None) -> None:
        target = torch.device(device) if device is not None else offload.accelerator()
        if gpu_id is not None and target.type != "cpu":
            target = torch.device(target.type, gpu_id)
        target = torch.device(resolve(Placement(device=str(target), dtype="float32")).device)
        if target.type == "cpu":
            logger.info("There is no GPU here: offload keeps every network where it is.")
        self.to("cpu")
        self._offload = None if target.type == "cpu" else (kind, target)

    def _use(self, network: Component) -> contextlib.AbstractContextManager[None]:
        if self._offload is None:
            return contextlib.nullcontext()
        kind, device = self._offload
        return offload.visiting(network, device) if kind == "model" else offload.layer_by_layer(network, device)

    def _size(self, name: str, value: int | None) -> int:
        unit = math.lcm(SIZE_UNIT, self.vae_scale_factor)
        if value is None and self.unet.config.sample_size is None:
            raise UsageError(f"{name} is None, and the U-Net has no sample_size; expected a number of pixels.")
        pixels = self.unet.config.sample_size * self.vae_scale_factor if value is None else value
        if pixels < unit or pixels % unit:
            raise UsageError(f"{name} is {pixels}; expected a multiple of {unit} pixels.")
        return pixels

    def _check(self, request: Request) -> None:
        check_request(request, self._latents_shape(request))
        config = self.unet.config
        if config.projection_class_embeddings_input_dim != 3 * config.addition_time_embed_dim:
            raise UsageError("the U-Net reads another number of conditions than three; expected fps, motion and noise.")
        prediction = self.scheduler.config.get("prediction_type", "v_prediction")
        if prediction != "v_prediction":
            raise UsageError(f"the scheduler's prediction_type is {prediction}; expected v_prediction.")

    def _latents_shape(self, request: Request) -> tuple[int, ...]:
        channels = self.unet.config.in_channels // 2  # the other half are the image's
        size = request.height // self.vae_scale_factor, request.width // self.vae_scale_factor
        return (request.videos, request.frames, channels, *size)

    def _generate(self, request: Request) -> Float[Tensor, "b t c h w"]:
        """Scaled latents. The draws: each image's noise, also where its strength is 0, then the latents'."""
        condition = self._condition(request)
        levels = self._levels(request)
        dtype = condition.context.dtype
        if request.latents is None:
            noise = draw_noise(self._latents_shape(request), request.generator, self._execution_device, dtype)
        else:
            noise = request.latents.to(self._execution_device)
        start = noise.float() * start_scale(levels).to(noise.device)
        return self._sample(condition, start, levels, request.callback).to(dtype)

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
        if request.sigmas is None:
            self.scheduler.set_timesteps(request.steps, device=self._execution_device)
        else:
            self.scheduler.set_timesteps(sigmas=request.sigmas, device=self._execution_device)
        return self.scheduler.sigmas.float().cpu()

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
                replaced = (callback(self, step, levels[step].log() / 4, shown) or {}).get("latents", x)
                x = x if torch.equal(replaced, x.to(replaced.dtype)) else replaced.to(x)
            self._stop_if_asked(f"step {step + 1} of {len(levels) - 1}")
            return x

        def no_noise() -> Tensor:
            raise AssertionError("Euler's method without churn draws no noise")

        with self._use(self.unet), self.progress_bar(total=len(levels) - 1) as bar:
            denoise = denoiser(self.unet, condition, lambda: self._guidance_scale)
            return sample(Euler(), denoise, start, levels, no_noise, after_step)

    def _decode(self, latents: Float[Tensor, "b t c h w"], chunk: int) -> Float[Tensor, "b t c2 h2 w2"]:
        unscaled = (latents / self.vae.config.scaling_factor).to(weights_of(self.vae).dtype)
        is_temporal = "num_frames" in inspect.signature(self.vae.decode).parameters
        videos = []
        with self._use(self.vae):
            for video in unscaled.to(self._execution_device):
                parts = []
                for rows in video.split(chunk):
                    decoded = self.vae.decode(rows, num_frames=len(rows)) if is_temporal else self.vae.decode(rows)
                    parts.append(decoded.sample.float())
                    self._stop_if_asked("a chunk of the decoding")
                videos.append(torch.cat(parts))
        return torch.stack(videos)

    def _stop_if_asked(self, done: str) -> None:
        if self._interrupt:
            raise Cancelled(f"the generation was stopped behind {done}; no video was made.")


def _uncompiled(component: Component) -> Component:
    """What torch.compile was given, or the component itself."""
    return component._orig_mod if isinstance(component, torch._dynamo.OptimizedModule) else component
