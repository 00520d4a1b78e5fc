"""One number for the weights of a model: the same for every layout, every sharding and every place in memory."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..models.components import Components
from .diffusers import decoder_only
from .store import NAMES

# More threads than this wait for memory, not for the processor.
MAX_THREADS = 8


def tensors_sha256(named: Iterable[tuple[str, Tensor]]) -> str:
    """The sha256 of named tensors, as 64 hexadecimal digits.

    One tensor's digest is the sha256 of the line `["name","F16",[2,3]]\\n` (JSON in ASCII, with the type's name in a
    safetensors file and the shape) and of its numbers, row by row, low byte first. The result is the sha256 of these
    digests, 32 bytes each, in the order of the names. So it depends on names, types, shapes and bits alone: not on the
    order in which they come, nor on strides, devices or files. Tensors are read one by one in a few threads, and only
    those that are not contiguous in main memory are copied meanwhile.

    Raises CheckpointError where a name occurs twice, or a tensor has no numbers or a type that no file holds.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in named:
        if name in tensors:
            raise CheckpointError(f"the tensor {name} occurs twice; expected each name once.")
        _check(name, tensor)
        tensors[name] = tensor
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        digests = pool.map(lambda name: _digest(name, tensors[name]), sorted(tensors))
        return hashlib.sha256(b"".join(digests)).hexdigest()


def components_sha256(components: Components, with_image_decoder: bool = False) -> str:
    """`tensors_sha256` of a model's networks under the names of the diffusers layout: unet.…, vae.…, image_encoder.….

    The weights count as they are now: in another precision they have another hash. The frame-wise decoder
    (image_decoder.decoder.…, image_decoder.post_quant_conv.…) is left out unless it is asked for, because a model is
    the same with and without it beside; ask for it where it decodes the frames.
    Raises CheckpointError where the image decoder is asked for and absent.
    """
    return tensors_sha256(named_tensors(components, with_image_decoder))


def named_tensors(components: Components, with_image_decoder: bool = False) -> Iterator[tuple[str, Tensor]]:
    """The tensors that `components_sha256` counts, by name."""
    networks = {
        "unet": components.unet,
        "vae": components.autoencoder,
        "image_encoder": components.image_encoder,
    }
    if with_image_decoder:
        if components.image_decoder is None:
            raise CheckpointError("the model has no image decoder; expected one loaded with it.")
        networks["image_decoder"] = decoder_only(components.image_decoder)
    for prefix, network in networks.items():
        for name, tensor in network.state_dict().items():
            yield f"{prefix}.{name}", tensor


def _check(name: str, tensor: Tensor) -> None:
    if tensor.is_meta or tensor.layout != torch.strided:
        kind = "meta" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
        raise CheckpointError(f"the tensor {name} is a {kind} tensor; expected one that holds its numbers.")
    if tensor.dtype not in NAMES:
        raise CheckpointError(
            f"the tensor {name} is of type {tensor.dtype}; expected one of {', '.join(NAMES.values())}."
        )


def _digest(name: str, tensor: Tensor) -> bytes:
    described = json.dumps([name, NAMES[tensor.dtype], list(tensor.shape)], separators=(",", ":"))
    digest = hashlib.sha256(described.encode("ascii") + b"\n")
    stored = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    if sys.byteorder == "big":
        stored = stored.reshape(-1, tensor.dtype.itemsize).flip(-1).contiguous()
    digest.update(stored.numpy().data)
    return digest.digest()
