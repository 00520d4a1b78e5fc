"""The U-Net and the autoencoder under diffusers' names, arguments and calls.

Their calls are not those of the networks that they extend, so that they fit our other pipelines no more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..checkpoints.diffusers import VERSION, autoencoder_config, unet_config, write_json
from ..errors import CheckpointError, ConfigError, UsageError
from ..hub import Access
from ..models.autoencoder import Autoencoder, AutoencoderConfig, Moments
from ..models.unet import UNet, UNetConfig, set_forward_chunking
from ..nn.transformer import TemporalTransformerBlock
from . import pretrained
from .generation import Component, weights_of
from .records import Config, Output, arguments_of

NormEps = Literal["original", "diffusers"]


@dataclasses.dataclass
class UNetSpatioTemporalConditionOutput(Output):
    """The prediction, one for each frame of the input."""

    sample: Float[Tensor, "b t c h w"]


@dataclasses.dataclass
class AutoencoderKLOutput(Output):
    """The distribution of an image's latents."""

    latent_dist: DiagonalGaussianDistribution


@dataclasses.dataclass
class DecoderOutput(Output):
    """Decoded frames, near [-1, 1]."""

    sample: Float[Tensor, "n c h w"]


class DiagonalGaussianDistribution:
    """What the encoder says of each latent, without a frame axis: rows of images."""

    def __init__(self, moments: Moments) -> None:
        self.mean = moments.mean.flatten(0, 1)
        self.logvar = moments.logvar.flatten(0, 1)
        self.std = torch.exp(0.5 * self.logvar)
        self.var = torch.exp(self.logvar)

    def mode(self) -> Float[Tensor, "n c h w"]:
        """The likeliest latents, which are the mean."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "n c h w"]:
        """Latents drawn on the generator's device, or on the mean's where there is none."""
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype)
        return self.mean + self.std * noise.to(self.mean.device)

    def kl(self) -> Float[Tensor, " n"]:
        """Divergence from the unit Gaussian in nats, summed over each image's latents."""
        return 0.5 * (self.mean.square() + self.var - 1 - self.logvar).flatten(1).sum(1)


def _device(network: nn.Module) -> torch.device:
    """Where the weights are."""
    return weights_of(network).device


def _dtype(network: nn.Module) -> torch.dtype:
    """The precision of the weights."""
    return weights_of(network).dtype


def _num_parameters(self: nn.Module, only_trainable: bool = False) -> int:
    """How many numbers the network consists of."""
    return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)


def _save_pretrained(
    self: Component,
    save_directory: str | Path,
    is_main_process: bool = True,
    save_function: object = None,
    safe_serialization: bool = True,
    variant: str | None = None,
    max_shard_size: int | str = pretrained.MAX_SHARD_SIZE,
    push_to_hub: bool = False,
) -> None:
    """Write config.json and the weights, over older ones; diffusers and we load them.

    is_main_process: False writes nothing. max_shard_size: the most bytes of one file, also as in "5GB".
    Raises UsageError for a pickle, another `save_function` or an upload, StillmotionError where the disk refuses.
    """
    pretrained.check_saving(safe_serialization, save_function, push_to_hub)
    most = pretrained.shard_bytes(max_shard_size)
    if is_main_process:
        pretrained.write_network(self, Path(save_directory), pretrained.STEM, variant, most)
        write_json(Path(save_directory) / "config.json", self.config)


class _Face(nn.Module):
    """What both networks have beside their own: configurations alone, and switches that change nothing here."""

    config: Config

    @classmethod
    def load_config(
        cls, pretrained_model_name_or_path: str | Path, *, subfolder: str | None = None, revision: str | None = None
    ) -> dict[str, Any]:
        """The configuration in a model's folder, for from_config. Raises CheckpointError or HubError."""
        place = pretrained.part_folder(pretrained_model_name_or_path, subfolder, ["config.json"], revision, Access())
        return pretrained.read_config(place, cls.__name__)

    def save_config(self, save_directory: str | Path, push_to_hub: bool = False) -> None:
        """Write config.json alone."""
        pretrained.check_saving(push_to_hub=push_to_hub)
        write_json(Path(save_directory) / "config.json", self.config)

    @property
    def attn_processors(self) -> dict[str, object]:
        """None: attention is always PyTorch's own."""
        return {}

    def set_attn_processor(self, processor: object) -> None:
        """Accepted, and changes nothing: attention is always PyTorch's own."""

    def set_default_attn_processor(self) -> None:
        """Accepted, and changes nothing."""

    def enable_xformers_memory_efficient_attention(self, attention_op: object = None) -> None:
        """Accepted, and changes nothing: PyTorch's own attention needs no more memory."""

    def disable_xformers_memory_efficient_attention(self) -> None:
        """Accepted, and changes nothing."""


class UNetSpatioTemporalConditionModel(UNet, _Face):
    """Our U-Net, called as diffusers calls its own.

    `norm_eps` is ours: "original" (the default) has the epsilons that the released weights were trained with,
    "diffusers" those of diffusers. Arguments may be tuples, one entry a level, where diffusers takes them.
    Raises UsageError for a shape that cannot be built; a tuple of tuples of transformer depths is one.
    """

    def __init__(
        self,
        sample_size: int | None = None,
        in_channels: int = 8,
        out_channels: int = 4,
        down_block_types: Sequence[str] = (
            "CrossAttnDownBlockSpatioTemporal",
            "CrossAttnDownBlockSpatioTemporal",
            "CrossAttnDownBlockSpatioTemporal",
            "DownBlockSpatioTemporal",
        ),
        up_block_types: Sequence[str] = (
            "UpBlockSpatioTemporal",
            "CrossAttnUpBlockSpatioTemporal",
            "CrossAttnUpBlockSpatioTemporal",
            "CrossAttnUpBlockSpatioTemporal",
        ),
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        addition_time_embed_dim: int = 256,
        projection_class_embeddings_input_dim: int = 768,
        layers_per_block: int | Sequence[int] = 2,
        cross_attention_dim: int | Sequence[int] = 1024,
        transformer_layers_per_block: int | Sequence[int] = 1,
        num_attention_heads: int | Sequence[int] = (5, 10, 20, 20),
        num_frames: int = 25,
        norm_eps: NormEps = "original",
    ) -> None:
        document = {
            "_class_name": "UNetSpatioTemporalConditionModel",
            "_diffusers_version": VERSION,
            "sample_size": sample_size,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "down_block_types": down_block_types,
            "up_block_types": up_block_types,
            "block_out_channels": block_out_channels,
            "addition_time_embed_dim": addition_time_embed_dim,
            "projection_class_embeddings_input_dim": projection_class_embeddings_input_dim,
            "layers_per_block": layers_per_block,
            "cross_attention_dim": cross_attention_dim,
            "transformer_layers_per_block": transformer_layers_per_block,
            "num_attention_heads": num_attention_heads,
            "num_frames": num_frames,
        }
        super().__init__(_unet_shape(document, norm_eps))
        self.config = Config(document if norm_eps == "original" else document | {"norm_eps": norm_eps})

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **changes: Any) -> UNetSpatioTemporalConditionModel:
        """One with fresh weights of this configuration; `changes` are constructor arguments that replace its own."""
        return cls(**arguments_of(cls, config, changes))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        subfolder: str | None = None,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        variant: str | None = None,
        revision: str | None = None,
        use_safetensors: bool | None = None,
        low_cpu_mem_usage: bool = True,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool | None = None,
        force_download: bool = False,
        norm_eps: NormEps | None = None,
    ) -> UNetSpatioTemporalConditionModel:
        """The U-Net of a model's folder, preset or hub repository (with `subfolder="unet"`), or of its own folder.

        In eval mode, in float32 unless `torch_dtype` or `dtype` says otherwise. `low_cpu_mem_usage` changes nothing:
        weights never exist twice. cache_dir, token, local_files_only, force_download: of the hub's client. Raises
        UsageError, CheckpointError or HubError.
        """
        pretrained.check_loading(use_safetensors)
        access = Access(cache_dir, token, bool(local_files_only), force_download)
        files = pretrained.network_files(variant)
        place = pretrained.part_folder(pretrained_model_name_or_path, subfolder, files, revision, access)
        changes = {} if norm_eps is None else {"norm_eps": norm_eps}
        with torch.device("meta"):
            network = cls.from_config(pretrained.read_config(place, "UNetSpatioTemporalConditionModel"), **changes)
        return pretrained.filled(network, place, variant, pretrained.chosen_dtype(torch_dtype, dtype))

    save_pretrained = _save_pretrained
    num_parameters = _num_parameters
    device = property(_device)
    dtype = property(_dtype)

    def enable_gradient_checkpointing(self) -> None:
        """Compute activations anew in the backward pass rather than keep them."""
        self.gradient_checkpointing = True

    def disable_gradient_checkpointing(self) -> None:
        """Keep activations for the backward pass."""
        self.gradient_checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether activations are computed anew in the backward pass."""
        return self.gradient_checkpointing

    def enable_forward_chunking(self, chunk_size: int | None = None, dim: int = 0) -> None:
        """Bound the memory of every feed-forward: `chunk_size` rows (dim 0) or tokens (dim 1) at a time, 1 by default.

        Blocks across frames always take `chunk_size` frames at a time, whatever `dim`. The size need not divide
        anything, and the result does not change. Raises UsageError.
        """
        self._set_chunking(1 if chunk_size is None else chunk_size, dim)

    def disable_forward_chunking(self) -> None:
        """Run every feed-forward at once."""
        self._set_chunking(None, 0)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        sample: Float[Tensor, "b t c h w"],
        timestep: Tensor | float | int,
        encoder_hidden_states: Float[Tensor, "b n d"],
        added_time_ids: Float[Tensor, "b k"],
        return_dict: bool = True,
    ) -> UNetSpatioTemporalConditionOutput | tuple[Float[Tensor, "b t c2 h w"]]:
        """Predict from scaled noisy latents with the image latents behind them on the channel axis.

        timestep: what the network reads of the noise level, 0.25 ln sigma; one number, or one a video.
        added_time_ids: fps - 1, motion bucket, noise augmentation.
        """
        c_noise = torch.as_tensor(timestep, device=sample.device).float().reshape(-1).expand(len(sample))
        predicted = super().forward(sample, c_noise, encoder_hidden_states, added_time_ids)
        return UNetSpatioTemporalConditionOutput(sample=predicted) if return_dict else (predicted,)

    def _set_chunking(self, chunk_size: int | None, dim: int) -> None:
        set_forward_chunking(self, chunk_size, dim)
        for module in self.modules():
            if isinstance(module, TemporalTransformerBlock):  # its rows are pixels: far too many to take one by one
                set_forward_chunking(module, chunk_size, 1)


class AutoencoderKLTemporalDecoder(Autoencoder, _Face):
    """Our autoencoder with the temporal decoder, called as diffusers calls its own: on rows of frames, `n c h w`.

    Raises UsageError for a shape that cannot be built.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        down_block_types: Sequence[str] = ("DownEncoderBlock2D",),
        block_out_channels: Sequence[int] = (64,),
        layers_per_block: int = 1,
        latent_channels: int = 4,
        sample_size: int = 32,
        scaling_factor: float = 0.18215,
        force_upcast: bool = True,
    ) -> None:
        document = {
            "_class_name": "AutoencoderKLTemporalDecoder",
            "_diffusers_version": VERSION,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "down_block_types": down_block_types,
            "block_out_channels": block_out_channels,
            "layers_per_block": layers_per_block,
            "latent_channels": latent_channels,
            "sample_size": sample_size,
            "scaling_factor": scaling_factor,
            "force_upcast": force_upcast,
        }
        super().__init__(_autoencoder_shape(document))
        self.config = Config(document)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **changes: Any) -> AutoencoderKLTemporalDecoder:
        """One with fresh weights of this configuration; `changes` are constructor arguments that replace its own."""
        return cls(**arguments_of(cls, config, changes))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        subfolder: str | None = None,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        variant: str | None = None,
        revision: str | None = None,
        use_safetensors: bool | None = None,
        low_cpu_mem_usage: bool = True,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool | None = None,
        force_download: bool = False,
    ) -> AutoencoderKLTemporalDecoder:
        """The autoencoder of a model's folder (`subfolder="vae"`), or of its own folder; as the U-Net's."""
        pretrained.check_loading(use_safetensors)
        access = Access(cache_dir, token, bool(local_files_only), force_download)
        files = pretrained.network_files(variant)
        place = pretrained.part_folder(pretrained_model_name_or_path, subfolder, files, revision, access)
        with torch.device("meta"):
            network = cls.from_config(pretrained.read_config(place, "AutoencoderKLTemporalDecoder"))
        return pretrained.filled(network, place, variant, pretrained.chosen_dtype(torch_dtype, dtype))

    save_pretrained = _save_pretrained
    num_parameters = _num_parameters
    device = property(_device)
    dtype = property(_dtype)

    def encode(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "n c h w"], return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """The distribution of the unscaled latents of images in [-1, 1]."""
        latent_dist = DiagonalGaussianDistribution(super().encode(x[:, None]))
        return AutoencoderKLOutput(latent_dist=latent_dist) if return_dict else (latent_dist,)

    def decode(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, z: Float[Tensor, "n c h w"], num_frames: int, return_dict: bool = True
    ) -> DecoderOutput | tuple[Float[Tensor, "n c2 h2 w2"]]:
        """Frames of unscaled latents, of which each `num_frames` in a row are one video.

        Raises UsageError where they do not divide the rows.
        """
        if num_frames < 1 or len(z) % num_frames:
            raise UsageError(f"num_frames is {num_frames} for {len(z)} latents; expected a number that divides them.")
        frames = super().decode(z.unflatten(0, (-1, num_frames))).flatten(0, 1)
        return DecoderOutput(sample=frames) if return_dict else (frames,)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        sample: Float[Tensor, "n c h w"],
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
        num_frames: int = 1,
    ) -> DecoderOutput | tuple[Float[Tensor, "n c h w"]]:
        """Reconstruct frames in [-1, 1] through the mean of their latents, or through a draw of them."""
        posterior = self.encode(sample, return_dict=False)[0]
        latents = posterior.sample(generator) if sample_posterior else posterior.mode()
        return self.decode(latents, num_frames, return_dict)


def as_unet(network: UNet, norm_eps: NormEps, document: Mapping[str, Any]) -> UNetSpatioTemporalConditionModel:
    """The same weights behind diffusers' face; `document` is the network's diffusers configuration."""
    with torch.device("meta"):
        face = UNetSpatioTemporalConditionModel.from_config(document, norm_eps=norm_eps)
    face.load_state_dict(network.state_dict(), assign=True)
    return face.eval()


def as_autoencoder(network: Autoencoder, document: Mapping[str, Any]) -> AutoencoderKLTemporalDecoder:
    """The same weights behind diffusers' face; `document` is the network's diffusers configuration.

    Raises UsageError for a decoder that works frame by frame.
    """
    if network.cfg.decoder != "temporal":
        raise UsageError("the checkpoint's decoder works frame by frame; expected one with the temporal decoder.")
    with torch.device("meta"):
        face = AutoencoderKLTemporalDecoder.from_config(document)
    face.load_state_dict(network.state_dict(), assign=True)
    return face.eval()


def _unet_shape(document: Mapping[str, Any], norm_eps: NormEps) -> UNetConfig:
    blocks = len(document["down_block_types"]), len(document["up_block_types"])
    levels = len(document["block_out_channels"])
    if blocks != (levels, levels):
        raise UsageError(
            f"there are {levels} block_out_channels, {blocks[0]} down_block_types and {blocks[1]} up_block_types; "
            "expected one of each a level."
        )
    if norm_eps not in ("original", "diffusers"):
        raise UsageError(f"norm_eps is {norm_eps!r}; expected original or diffusers.")
    try:
        return dataclasses.replace(unet_config(document, Path("the U-Net")), norm_eps=norm_eps)
    except (CheckpointError, ConfigError) as error:
        raise UsageError(str(error)) from None


def _autoencoder_shape(document: Mapping[str, Any]) -> AutoencoderConfig:
    if document["in_channels"] != document["out_channels"]:
        raise UsageError(
            f"in_channels is {document['in_channels']} and out_channels {document['out_channels']}; expected the same."
        )
    if len(document["down_block_types"]) != len(document["block_out_channels"]):
        raise UsageError(
            f"there are {len(document['down_block_types'])} down_block_types and "
            f"{len(document['block_out_channels'])} block_out_channels; expected one of each a level."
        )
    try:
        return autoencoder_config(document, Path("the autoencoder"))
    except (CheckpointError, ConfigError) as error:
        raise UsageError(str(error)) from None
