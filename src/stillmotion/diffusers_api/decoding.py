"""How the pipeline decodes: our own autoencoder exactly, any other by calling it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from ..errors import UsageError
from ..events import Watch
from ..models.autoencoder import decode_in_chunks
from ..models.streamable import can_stream
from ..models.streaming import decode_streamed
from .generation import Component, weights_of
from .networks import AutoencoderKLTemporalDecoder

Chunked = Literal["exact", "independent"]
# Takes scaled latents, frames at once and a Watch; gives frames near [-1, 1] in float32.
FrameDecoder = Callable[[Tensor, int, Watch], Tensor]


def frame_decoder(autoencoder: Component, chunked: Chunked) -> FrameDecoder:
    """How this autoencoder is to decode: exactly whatever the chunk, or each chunk for itself.

    Only our own can be exact, and only as we built it; anything else is called. Raises UsageError for another word.
    """
    if chunked not in get_args(Chunked):
        raise UsageError(f"chunked is {chunked!r}; expected {' or '.join(get_args(Chunked))}.")
    scale, dtype = autoencoder.config.scaling_factor, weights_of(autoencoder).dtype
    is_temporal = "num_frames" in inspect.signature(autoencoder.decode).parameters
    is_exact = chunked == "exact" and _is_ours(autoencoder)

    def call(part: Float[Tensor, "1 t c h w"]) -> Float[Tensor, "1 t c2 h2 w2"]:
        known = {"num_frames": part.shape[1]} if is_temporal else {}
        return autoencoder.decode(part[0], **known).sample.float()[None]

    def decode(latents: Tensor, frames_at_once: int, watch: Watch) -> Tensor:
        unscaled = (latents / scale).to(dtype)
        if is_exact:
            return decode_streamed(autoencoder, unscaled, frames_at_once, watch=watch).float()
        return decode_in_chunks(call, unscaled, frames_at_once, watch)

    return decode


def _is_ours(autoencoder: Component) -> bool:
    return type(autoencoder) is AutoencoderKLTemporalDecoder and can_stream(autoencoder)
