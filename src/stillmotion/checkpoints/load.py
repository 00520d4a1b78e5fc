"""A preset, a folder, a file or a hub repository to networks ready to run, and back to disk."""

from __future__ import annotations

import dataclasses
import importlib.resources
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from .. import hub
from ..errors import CheckpointError, StillmotionError, UsageError
from ..events import Progress, Watch, unwatched
from ..models.autoencoder import Autoencoder, AutoencoderConfig
from ..models.components import Components
from ..models.image_encoder import build_image_encoder
from ..models.unet import UNet
from ..presets import PRESETS, Preset
from . import diffusers, sgm, sgm_config
from .rules import Place, Rules, listed, their_shape, to_ours
from .store import TensorFile, TensorSet, write

META = torch.device("meta")
HUB_ID = r"[\w-][\w.-]*/[\w-][\w.-]*"
FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".bin", ".yaml", ".json")  # a file that is missing, not a repository


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """A model's networks, and the preset that says their shapes and the model's own defaults."""

    components: Components
    preset: Preset


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One network, still on the meta device, the file's names for its tensors, and what their floats become."""

    network: nn.Module
    rules: Rules
    dtype: torch.dtype | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Differences:
    """Where a checkpoint is not what its networks need, in the checkpoint's own names."""

    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    # Tensors of another shape or type, each with what it is and what was expected.
    wrong: tuple[str, ...] = ()

    def faults(self) -> list[str]:
        """One clause for each kind of difference, with the first few names; empty where all is well."""
        found = []
        if self.missing:
            found.append(f"lacks {len(self.missing)} tensors ({listed(self.missing)})")
        if self.unknown:
            found.append(f"has {len(self.unknown)} tensors that are not known ({listed(self.unknown)})")
        if self.wrong:
            found.append(f"has {len(self.wrong)} tensors of another shape or type ({listed(self.wrong)})")
        return found


def load(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    autoencoder_dtype: torch.dtype | None = None,
    variant: str | None = None,
    config: Preset | str | Path | None = None,
    revision: str | None = None,
    with_image_decoder: bool = False,
    watch: Watch = unwatched,
) -> Loaded:
    """Networks on the CPU, in eval mode and without gradients, from wherever `source` points.

    source: the name of a preset, a diffusers folder, the original's single .safetensors file, or a hub repository
    `owner/name`; `./svd` is the folder where `svd` is the preset.
    dtype: what floating-point weights become; None keeps the stored type. Weights that are kept as stored are views of
    the mapped file: they take memory once they are used, and the file must not be cut meanwhile.
    autoencoder_dtype: the same for the autoencoder and the image decoder, where it is not `dtype`: one that overflows
    in float16 is to be read in float32, before anything was rounded.
    variant: which weights of a folder, as in `fp16`. revision: of the hub repository.
    config: for a single file whose name says nothing, what `single_file` takes.
    with_image_decoder: also the frame-wise decoder, where the checkpoint has one.
    watch: one stage for a file, one for each network of a folder, in tensors.
    Raises UsageError, CheckpointError or HubError.
    """
    types = dtype, autoencoder_dtype or dtype
    if is_single_file(source):
        return _load_file(Path(source), config, types, with_image_decoder, watch)
    _refuse_config(source, config)
    parts = [part for part in diffusers.WEIGHTS if with_image_decoder or part != "image_decoder"]
    folder = locate(source, diffusers.patterns(variant, parts), revision)
    return _load_folder(folder, folder_preset(source, folder), types, variant, with_image_decoder, watch)


def load_network(
    source: str | Path,
    name: str,
    *,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    config: Preset | str | Path | None = None,
    watch: Watch = unwatched,
) -> nn.Module:
    """One network of those that `load` would return, by its name in Components; an image decoder without its encoder.

    For a model that `load` has found whole before: what else the file holds is not looked at.
    Raises what `load` raises.
    """
    part_name = "vae" if name == "autoencoder" else name
    with_image_decoder = name == "image_decoder"
    if is_single_file(source):
        tensors = TensorSet([TensorFile(Path(source))], str(source))
        preset = file_preset(Path(source), config, tensors)
        components, parts, _ = file_parts(preset, tensors, (dtype, dtype), with_image_decoder)
        part = parts[part_name]
    else:
        folder = locate(source, diffusers.patterns(variant, [part_name]))
        image = diffusers.read_image_decoder(folder) if with_image_decoder else None
        components, networks = folder_networks(folder_preset(source, folder), image)
        tensors = diffusers.open_weights(folder / part_name, diffusers.WEIGHTS[part_name], variant)
        part = Part(networks[part_name], diffusers.RULES, dtype)
    _take([part], tensors, watch, f"load {part_name}")
    return components.networks()[name].eval().requires_grad_(False)


def shape_of(source: str | Path, config: Preset | str | Path | None = None, revision: str | None = None) -> Preset:
    """The preset that `load` would return for the same source, without reading weights: headers and JSON files alone.

    A released model on the hub is known without a look at it. Raises what `load` raises.
    """
    if is_single_file(source):
        path = Path(source)
        return file_preset(path, config, TensorSet([TensorFile(path)], str(path)))
    _refuse_config(source, config)
    known = _released(source)
    if known is not None and known.hub_id is not None:
        return known
    return folder_preset(source, locate(source, diffusers.DOCUMENTS, revision))


def stored_dtype(source: str | Path, variant: str | None = None) -> torch.dtype | None:
    """The precision that a model's U-Net has in its file, in which `load` would leave it mapped.

    None where the file is not on this machine, nor in the cache, or cannot be used, or holds several.
    """
    try:
        if is_single_file(source):
            tensors = TensorSet([TensorFile(Path(source))], str(source))
        else:
            patterns = diffusers.patterns(variant, ["unet"])
            folder = locate(source, patterns, access=hub.Access(local_files_only=True))
            tensors = diffusers.open_weights(folder / "unet", diffusers.WEIGHTS["unet"], variant)
    except StillmotionError:
        return None
    types = {entry.dtype for entry in tensors.entries.values()}
    return types.pop() if len(types) == 1 else None


def check_reachable(source: str | Path, revision: str | None = None) -> None:
    """Raise what `load` raises where a source is nowhere: no such folder, or a repository that cannot be had.

    Of a repository the configurations are fetched, some kilobytes, unless they are in the cache; a file is not opened.
    """
    if not is_single_file(source):
        locate(source, diffusers.DOCUMENTS, revision)


def locate(
    source: str | Path, patterns: Sequence[str], revision: str | None = None, access: hub.Access = hub.BY_ENVIRONMENT
) -> Path:
    """The folder of a preset, of a path or of a hub repository; of the last, the files that match are fetched.

    Raises UsageError where it is none of them, CheckpointError where the package lacks it, HubError.
    """
    known = PRESETS.get(source) if isinstance(source, str) else None
    if known is not None and known.hub_id is None:
        folder = Path(str(importlib.resources.files("stillmotion") / "weights" / known.name))
        if not folder.is_dir():
            raise CheckpointError(f"the weights of {source} are missing at {folder}; expected them in the package.")
        return folder
    if known is None and os.path.isdir(source):
        return Path(source)
    repo_id = str(source) if known is None or known.hub_id is None else known.hub_id
    if isinstance(source, Path) or not re.fullmatch(HUB_ID, repo_id) or Path(source).suffix in FILE_SUFFIXES:
        reason = "it is a file" if os.path.isfile(source) else "there is no such file or folder"
        raise UsageError(
            f"{source} is no model: {reason}; expected a folder, a single .safetensors file, a hub repository "
            f"owner/name, or a preset: {', '.join(PRESETS)}."
        )
    return hub.fetch(repo_id, revision=revision, patterns=patterns, access=access)


def folder_preset(source: str | Path, folder: Path) -> Preset:
    """The model in the folder of `source`: its shapes; a released model's name and defaults if it is one."""
    found = diffusers.read_preset(folder)
    known = _released(source)
    if known is not None:
        return replace(known, unet=found.unet, autoencoder=found.autoencoder, image_encoder=found.image_encoder)
    if os.path.isdir(source) or (folder / diffusers.OURS).exists():
        return found
    return replace(found, name=str(source))  # a snapshot's own folder is called by its commit


def single_file(
    path: Path,
    config: Preset | str | Path | None = None,
    *,
    dtype: torch.dtype | None = None,
    with_image_decoder: bool = False,
    watch: Watch = unwatched,
) -> Loaded:
    """The networks in the original's single file.

    config: what the shapes of tensors do not tell (heads, frames): a preset or its name, a diffusers folder, the
    original's YAML, or a JSON of its settings; None where the file has a released model's name.
    Raises CheckpointError where tensors are missing, unknown or of another shape, UsageError without a config.
    """
    return _load_file(Path(path), config, (dtype, dtype), with_image_decoder, watch)


def fill(network: nn.Module, tensors: TensorSet, dtype: torch.dtype | None = None) -> None:
    """Give a network on the meta device its tensors from the diffusers layout, and its buffers; without gradients.

    dtype: what they become; None keeps the stored type, and views of the mapped files.
    Raises CheckpointError where tensors are missing, unknown, of another shape or no floats.
    """
    _fill([Part(network, diffusers.RULES, dtype)], tensors, diffusers.RULES, unwatched, "load")


def file_parts(
    preset: Preset,
    tensors: TensorSet,
    types: tuple[torch.dtype | None, torch.dtype | None] = (None, None),
    with_image_decoder: bool = True,
) -> tuple[Components, dict[str, Part], Rules]:
    """The meta networks of a single file, each as a part under its name in WEIGHTS, and what else it may hold.

    types: what floats become, and those of the autoencoder and the image decoder.
    """
    with META:
        components = _networks(preset)
    dtype, autoencoder_dtype = types
    parts = {
        "unet": Part(components.unet, sgm.unet_rules(preset.unet), dtype),
        "image_encoder": Part(components.image_encoder, sgm.image_encoder_rules(preset.image_encoder), dtype),
        "vae": Part(components.autoencoder, sgm.autoencoder_rules(preset.autoencoder), autoencoder_dtype),
    }
    if with_image_decoder and sgm.has_image_decoder(tensors.entries):
        with META:
            components.image_decoder = Autoencoder(replace(preset.autoencoder, decoder="image"))
        rules = sgm.image_decoder_rules(preset.autoencoder)
        own = diffusers.decoder_only(components.image_decoder)
        parts["image_decoder"] = Part(own, rules, autoencoder_dtype)
    return components, parts, Rules((), () if with_image_decoder else sgm.IMAGE_DECODER_IGNORED)


def folder_networks(preset: Preset, image: AutoencoderConfig | None) -> tuple[Components, dict[str, nn.Module]]:
    """The meta networks of a diffusers folder, also under their names in WEIGHTS; `image` is its image decoder."""
    with META:
        components = _networks(preset)
        components.image_decoder = None if image is None else Autoencoder(image)
    networks: dict[str, nn.Module] = {
        "image_encoder": components.image_encoder,
        "vae": components.autoencoder,
        "unet": components.unet,
    }
    if components.image_decoder is not None:
        networks["image_decoder"] = diffusers.decoder_only(components.image_decoder)
    return components, networks


def differences(parts: Sequence[Part], tensors: TensorSet, extra: Rules) -> Differences:
    """What `load` would refuse in these tensors, found from names, shapes and types alone."""
    return _compare(parts, [_places(part) for part in parts], tensors, extra)


def save(
    components: Components,
    preset: Preset,
    target: Path,
    layout: Literal["diffusers", "sgm"],
    *,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    max_shard_bytes: int | None = None,
    overwrite: bool = True,
) -> None:
    """Write the networks as a diffusers folder, or as the original's single file; whole, or not at all.

    dtype: what floating-point weights become on the way, one tensor at a time; None keeps theirs.
    variant: a word in the names of a folder's weights, as in `fp16`. max_shard_bytes: where a folder's weights are cut.
    The shapes written are those of the networks; `preset` gives the name and the defaults, which a folder keeps and a
    single file has no room for. `sgm.export` says what a single file holds.
    Raises UsageError where the layout cannot hold the networks, or the target exists and `overwrite` is off,
    StillmotionError where the disk refuses.
    """
    target = Path(target)
    if layout == "diffusers":
        diffusers.write(target, components, preset, dtype, variant, max_shard_bytes, overwrite)
        return
    if variant is not None or max_shard_bytes is not None:
        raise UsageError("a single file has no variants and no shards; expected neither, or the layout diffusers.")
    check_single_name(target)
    write(target, sgm.export(components, components.image_encoder.cfg), dtype, overwrite=overwrite)


def check_single_name(target: Path) -> None:
    """Raise UsageError unless a single file can have this name."""
    if target.suffix != ".safetensors":
        raise UsageError(f"{target} is no name for a single file; expected one that ends in .safetensors.")


def is_single_file(source: str | Path) -> bool:
    """Whether a source is a file, and not a preset that a file happens to be called like."""
    # os.path: what may not be looked up is no file, where Path raises.
    return os.path.isfile(source) and not (isinstance(source, str) and source in PRESETS)


def _refuse_config(source: str | Path, config: Preset | str | Path | None) -> None:
    if config is not None and Path(source).suffix not in FILE_SUFFIXES:
        raise UsageError(f"{source} brings its own configuration; expected a config for a single file only.")


def _released(source: str | Path) -> Preset | None:
    """The released model that goes by this name or lies in this repository."""
    if not isinstance(source, str):
        return None
    if source in PRESETS:
        return PRESETS[source]
    return None if os.path.isdir(source) else next((each for each in PRESETS.values() if each.hub_id == source), None)


def _load_file(
    path: Path,
    config: Preset | str | Path | None,
    types: tuple[torch.dtype | None, torch.dtype | None],
    with_image_decoder: bool,
    watch: Watch,
) -> Loaded:
    tensors = TensorSet([TensorFile(path)], str(path))
    preset = file_preset(path, config, tensors)
    components, parts, extra = file_parts(preset, tensors, types, with_image_decoder)
    _fill(list(parts.values()), tensors, extra, watch, "load")
    return Loaded(_finished(components), preset)


def _load_folder(
    folder: Path,
    preset: Preset,
    types: tuple[torch.dtype | None, torch.dtype | None],
    variant: str | None,
    with_image_decoder: bool,
    watch: Watch,
) -> Loaded:
    image = diffusers.read_image_decoder(folder) if with_image_decoder else None
    components, networks = folder_networks(preset, image)
    for part, network in networks.items():
        tensors = diffusers.open_weights(folder / part, diffusers.WEIGHTS[part], variant)
        dtype = types[part in ("vae", "image_decoder")]
        _fill([Part(network, diffusers.RULES, dtype)], tensors, diffusers.RULES, watch, f"load {part}")
    return Loaded(_finished(components), preset)


def file_preset(path: Path, config: Preset | str | Path | None, tensors: TensorSet) -> Preset:
    """The preset that a single file follows, with the kind of decoder that its tensors' names tell."""
    preset = _chosen(path, config)
    kind: Literal["image", "temporal"] = "image" if sgm.first_stage_is_image(tensors.entries) else "temporal"
    return replace(preset, autoencoder=replace(preset.autoencoder, decoder=kind))


def _chosen(path: Path, config: Preset | str | Path | None) -> Preset:
    if isinstance(config, Preset):
        return config
    if config is None:
        known = next((preset for preset in PRESETS.values() if path.name in preset.file_names), None)
        if known is None:
            raise UsageError(
                f"the name of {path} is not that of a released model, and tensors do not tell heads and frames; "
                f"expected a config: a preset ({', '.join(PRESETS)}), a diffusers folder, the original's YAML or JSON."
            )
        return known
    if isinstance(config, str) and config in PRESETS:
        return PRESETS[config]
    place = Path(config)
    if not os.path.exists(place):
        raise UsageError(f"the config {config} is neither a file nor a preset; expected one of {', '.join(PRESETS)}.")
    return diffusers.read_preset(place) if place.is_dir() else sgm_config.read_config(place)


def _networks(preset: Preset) -> Components:
    return Components(
        unet=UNet(preset.unet),
        autoencoder=Autoencoder(preset.autoencoder),
        image_encoder=build_image_encoder(preset.image_encoder),
    )


def _fill(parts: Sequence[Part], tensors: TensorSet, extra: Rules, watch: Watch, stage: str) -> None:
    """Give the meta networks their tensors, after every name and shape of the file has been found right."""
    _check(parts, [_places(part) for part in parts], tensors, extra)
    _take(parts, tensors, watch, stage)


def _take(parts: Sequence[Part], tensors: TensorSet, watch: Watch, stage: str) -> None:
    places = [_places(part) for part in parts]
    total = sum(map(len, places))
    done = 0
    watch(Progress(stage, 0, total))
    for part, found in zip(parts, places, strict=True):
        part.network.requires_grad_(False)
        state = {}
        for name, place in found.items():
            state[name] = _read(tensors, place, part.dtype)
            done += 1
            watch(Progress(stage, done, total))
        part.network.load_state_dict(state, strict=True, assign=True)


def _places(part: Part) -> dict[str, Place]:
    """Where the file keeps each tensor of a network."""
    return {name: part.rules.place(name) for name in part.network.state_dict()}


def _check(parts: Sequence[Part], places: Sequence[dict[str, Place]], tensors: TensorSet, extra: Rules) -> None:
    faults = _compare(parts, places, tensors, extra).faults()
    if faults:
        raise CheckpointError(f"{tensors.label} {', and '.join(faults)}; expected the tensors of this model's shape.")


def _compare(
    parts: Sequence[Part], places: Sequence[dict[str, Place]], tensors: TensorSet, extra: Rules
) -> Differences:
    entries = tensors.entries
    wanted: set[str] = set()
    wrong, missing = [], []
    for part, found in zip(parts, places, strict=True):
        shapes = {name: value.shape for name, value in part.network.state_dict().items()}
        for name, place in found.items():
            wanted.add(place.theirs)
            entry = entries.get(place.theirs)
            expected = their_shape(shapes[name], place)
            if entry is None:
                missing.append(place.theirs)
            elif entry.shape != expected or not entry.dtype.is_floating_point:
                wrong.append(f"{place.theirs} is {entry.dtype} {list(entry.shape)}, expected a float {list(expected)}")
    reasons = [extra, *(part.rules for part in parts)]
    unknown = [name for name in entries if name not in wanted and not any(table.reason(name) for table in reasons)]
    # Queries, keys and values may lie in one tensor of theirs, which is named once.
    return Differences(tuple(dict.fromkeys(missing)), tuple(unknown), tuple(dict.fromkeys(wrong)))


def _read(tensors: TensorSet, place: Place, dtype: torch.dtype | None) -> Tensor:
    """One of our tensors: a view of the mapped file where nothing changes, else a copy, and the file's pages let go."""
    stored = tensors.tensor(place.theirs)
    if place.parts > 1:
        stored = stored.chunk(place.parts)[place.part]
    tensor = to_ours(stored, place.form)
    converted = tensor.to(dtype=dtype or tensor.dtype).contiguous()
    if converted.data_ptr() % converted.element_size():  # an odd header length leaves tensors unaligned
        converted = converted.clone()
    if converted.data_ptr() != stored.data_ptr():
        tensors.release(place.theirs)
    return converted


def _finished(components: Components) -> Components:
    """Share the encoder with the image decoder, and make everything ready to run."""
    image_decoder = components.image_decoder
    if image_decoder is not None:
        image_decoder.encoder = components.autoencoder.encoder
        image_decoder.quant_conv = components.autoencoder.quant_conv
    for network in components.networks().values():
        network.eval().requires_grad_(False)
        left = [name for name, value in network.named_parameters() if value.is_meta]
        left += [name for name, value in network.named_buffers() if value.is_meta]
        assert not left, f"still on the meta device: {left}"
    return components
