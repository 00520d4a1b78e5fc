"""Rewrite a checkpoint in the other layout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..checkpoints.load import check_single_name, load, save
from ..config import checked, config
from ..errors import UsageError
from ..events import Watch, unwatched
from ..files import check_writable
from ..placement import DTYPES


@config
class ConvertSettings:
    """Turn a checkpoint of one layout into the other, or into another precision."""

    source: Annotated[str, Field(description="A preset, a diffusers folder, an sgm .safetensors file, or a hub id.")]
    target: Annotated[Path, Field(description="The folder or the .safetensors file to write.")]
    to: Annotated[Literal["diffusers", "sgm"], Field(description="The layout to write.")]
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, Field(description="Precision to store; by default as it is.")
    ] = None
    variant: Annotated[str | None, Field(description="Which weights of a folder to read, such as fp16.")] = None
    config: Annotated[
        str | None,
        Field(description="For a .safetensors of unknown name: a preset, a folder, or the original's YAML or JSON."),
    ] = None
    json: Annotated[bool, Field(description="Print one JSON object instead of the path.")] = False


def convert(settings: ConvertSettings, watch: Watch = unwatched) -> Path:
    """Write the checkpoint and return where it lies; what exists is never overwritten."""
    settings = checked(settings)
    if os.path.exists(settings.target):
        raise UsageError(f"{settings.target} already exists; expected a free name.")
    if settings.to == "sgm":
        check_single_name(settings.target)
    check_writable(settings.target.parent)
    dtype = DTYPES[settings.dtype] if settings.dtype else None
    loaded = load(
        settings.source,
        dtype=dtype,
        variant=settings.variant,
        config=settings.config,
        with_image_decoder=True,
        watch=watch,
    )
    save(loaded.components, loaded.preset, settings.target, settings.to, dtype=dtype, overwrite=False)
    return settings.target
