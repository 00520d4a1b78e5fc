"""Train the embedded model and export it as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from ..checkpoints.load import load as load_model
from ..checkpoints.load import locate, save
from ..config import checked, config, load
from ..events import Watch, unwatched
from ..files import atomic_path
from ..presets import TINY
from ..training.config import TinyTraining
from ..training.tiny import assemble, train_tiny

BUCKETS = "motion_buckets.json"  # how the rendered scenes' motion became their labels, which every model of them shares
# Of tensors in one file: the repository's own limit for a file is 16 MiB, and the file's header comes on top.
MAX_SHARD_BYTES = 15 * 1024**2


@config
class TrainTinySettings:
    """Train the embedded model from rendered scenes; started again, it goes on where it stopped."""

    folder: Annotated[Path, Field(description="Where the resumable state of the trainings lies.")]
    init: Annotated[
        str | None,
        Field(description="Train this model's U-Net and image encoder further (tiny, a folder), and keep the rest."),
    ] = None
    export: Annotated[Path | None, Field(description="Write the averaged weights to this folder at the end.")] = None
    config: Annotated[Path | None, Field(description="A YAML file of settings that differ from the usual.")] = None
    only_export: Annotated[bool, Field(description="Export what is there, without training.")] = False
    json: Annotated[bool, Field(description="Print one JSON object instead of the path.")] = False


def train_and_export(settings: TrainTinySettings, watch: Watch = unwatched) -> Path | None:
    """Train, then write the model; returns where it lies. Raises TrainingError, ConfigError, CheckpointError."""
    settings = checked(settings)
    cfg = load(TinyTraining, [settings.config] if settings.config else [])
    start = (
        load_model(settings.init, dtype=torch.float32, with_image_decoder=True) if settings.init is not None else None
    )
    if not settings.only_export:
        train_tiny(cfg, TINY, settings.folder, watch, start)
    if settings.export is None:
        return None
    buckets = (
        locate("tiny", ()) / BUCKETS
    ).read_bytes()  # before the package's own folder is replaced, if that is what is asked
    components, preset = assemble(cfg, TINY, settings.folder, start)
    save(components, preset, settings.export, "diffusers", dtype=torch.float16, max_shard_bytes=MAX_SHARD_BYTES)
    with atomic_path(settings.export / BUCKETS) as temporary:
        temporary.write_bytes(buckets)
    return settings.export
