"""Whether the halves of an autoencoder are as we build them, so that they may be taken apart."""

from __future__ import annotations

import torch
from torch import nn

from ..nn.attention import FrameAttention
from ..nn.mix import Mix
from ..nn.resample import Downsample, Upsample
from ..nn.resnet import ResnetBlock, SpatioTemporalResnet, TemporalResnetBlock
from ..nn.untouched import is_untouched
from .autoencoder import (
    Autoencoder,
    Decoder,
    DecoderLevel,
    DecoderMiddle,
    Encoder,
    EncoderLevel,
    EncoderMiddle,
)

# What they consist of; anything else in one is somebody's own, and is called rather than taken apart.
_PLAIN = {
    Decoder, DecoderLevel, DecoderMiddle, Encoder, EncoderLevel, EncoderMiddle, SpatioTemporalResnet, ResnetBlock,
    TemporalResnetBlock, FrameAttention, Downsample, Upsample, Mix, nn.ModuleList, nn.Conv2d, nn.Conv3d, nn.GroupNorm,
    nn.Linear,
}  # fmt: skip


def can_stream(autoencoder: Autoencoder) -> bool:
    """Whether the decoder is as we build it: no hooks, nothing replaced, compiled or quantised, one precision.

    Ask outside of an offload: its hooks are no obstacle.
    """
    modules = list(autoencoder.decoder.modules())
    if "post_quant_conv" in autoencoder._modules:
        modules.append(autoencoder.post_quant_conv)
    return _are_plain(autoencoder, modules)


def can_stream_encoder(autoencoder: Autoencoder) -> bool:
    """The same of the encoder."""
    return _are_plain(autoencoder, [*autoencoder.encoder.modules(), autoencoder.quant_conv])


def _are_plain(autoencoder: Autoencoder, modules: list[nn.Module]) -> bool:
    parameters = [parameter for module in modules for parameter in module.parameters(recurse=False)]
    is_ours = all(type(module) in _PLAIN for module in modules) and all(type(p) is nn.Parameter for p in parameters)
    dtypes = {parameter.dtype for parameter in parameters}
    # In float16 the CPU lacks some of the kernels.
    is_slow = any(p.dtype == torch.float16 and p.device.type == "cpu" for p in parameters)
    is_one = len(dtypes) == 1 and dtypes <= {torch.float32, torch.float64, torch.bfloat16, torch.float16}
    return is_ours and is_one and not is_slow and all(is_untouched(module) for module in (*modules, autoencoder))
