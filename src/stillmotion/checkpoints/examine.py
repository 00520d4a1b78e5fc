"""What is in a checkpoint, from names, shapes and configurations alone: no weight is read, nothing unsafe is opened."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import nn

from .. import hub
from ..errors import CheckpointError, ConfigError, UsageError
from ..presets import PRESETS, Preset
from . import diffusers, sgm
from .load import (
    Differences,
    Part,
    differences,
    file_parts,
    file_preset,
    folder_networks,
    folder_preset,
    is_single_file,
    locate,
)
from .rules import Rules, listed
from .store import NAMES, PICKLE_STARTS, PICKLE_SUFFIXES, Entry, TensorFile, TensorSet

# tensors: safetensors that are no whole model. unreadable: nothing in it may or can be opened.
Layout = Literal["diffusers folder", "sgm file", "lora", "tensors", "unreadable"]

NAMELESS = "its name is not that of a released model, so loading it needs a config: the name of its family, or its own."
MAX_FILES = 1000  # of one folder that are looked at
MAX_GROUPS = 20  # of tensors that follow no layout


@dataclasses.dataclass(frozen=True, slots=True)
class NetworkFacts:
    """One network of a checkpoint, as far as its tensors are there."""

    name: str
    tensors: int
    parameters: int
    bytes: int
    # How many tensors are of each type, by the type's name in a safetensors file.
    dtypes: dict[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Examined:
    """A checkpoint seen from outside."""

    layout: Layout
    # Released models of these very shapes; empty for a model of its own.
    families: tuple[str, ...] = ()
    # What `load` takes for its shapes and defaults; None where nothing tells them.
    preset: Preset | None = None
    networks: tuple[NetworkFacts, ...] = ()
    # How many tensors `load` leaves out, by the reason.
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    differences: Differences = dataclasses.field(default_factory=Differences)
    # Files that hold its weights.
    weights: tuple[Path, ...] = ()
    # Pickles, which were not opened.
    unsafe: tuple[Path, ...] = ()
    # Why `load` would refuse it, a sentence each.
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def examine(
    source: str | Path,
    *,
    variant: str | None = None,
    config: str | Path | None = None,
    revision: str | None = None,
) -> Examined:
    """Everything that headers and JSON files tell of a checkpoint; what is wrong with one is in `problems`.

    The arguments are those of `load`. A hub repository is looked at as far as it is in the cache: nothing is fetched.
    Raises UsageError where `source` is no model, HubError where the cache has nothing of it.
    """
    if is_single_file(source):
        return _single_file(Path(source), config)
    patterns = diffusers.patterns(variant, diffusers.WEIGHTS)
    folder = locate(source, patterns, revision, hub.Access(local_files_only=True))
    if config is not None:
        raise UsageError(f"{source} brings its own configuration; expected a config for a single file only.")
    if (folder / "model_index.json").exists() or (folder / "unet").is_dir():
        return _folder(source, folder, variant)
    return _loose_folder(folder)


def whole_tensors(files: Iterable[Path], label: str) -> TensorSet:
    """Safetensors files under one roof, whatever they hold."""
    return TensorSet([TensorFile(path) for path in files], label)


def _single_file(path: Path, config: str | Path | None) -> Examined:
    try:
        tensors = whole_tensors([path], str(path))
    except CheckpointError as error:
        return Examined("unreadable", unsafe=(path,) if _is_pickle(path) else (), problems=(str(error),))
    if not any(name.startswith(f"{sgm.UNET}.") for name in tensors.entries):
        return _loose(tensors, (path,), ())
    preset = _known(path, config, tensors)
    presets = [preset] if preset is not None else [file_preset(path, each, tensors) for each in _guesses(tensors)]
    compared = [_against(each, tensors) for each in presets]
    best = min(compared, key=lambda each: sum(map(len, dataclasses.astuple(each.differences))))
    found = replace(best, weights=(path,))
    faults = found.differences.faults()
    if faults:
        name = "" if found.preset is None else found.preset.name
        found = replace(found, problems=(f"{path} {', and '.join(faults)}; expected the tensors of {name}.",))
    if preset is not None:
        return found
    same = () if faults or found.preset is None else tuple(other.name for other in _same_shaped(found.preset))
    return replace(found, families=same, preset=None, notes=(NAMELESS,))


def _known(path: Path, config: str | Path | None, tensors: TensorSet) -> Preset | None:
    """The preset that `load` would take, or None where neither the name nor a config tells it."""
    try:
        return file_preset(path, config, tensors)
    except UsageError:
        if config is not None:
            raise
        return None


def _guesses(tensors: TensorSet) -> list[Preset]:
    """One released model of each shape; those alone that begin as wide as these tensors, where any does."""
    shapes: list[Preset] = []
    for preset in PRESETS.values():
        if not any(_shapes(preset) == _shapes(other) for other in shapes):
            shapes.append(preset)
    first = tensors.entries.get(f"{sgm.UNET}.input_blocks.0.0.weight")
    width = None if first is None else first.shape[:1]
    return [preset for preset in shapes if preset.unet.channels[:1] == width] or shapes


def _against(preset: Preset, tensors: TensorSet) -> Examined:
    _, parts, extra = file_parts(preset, tensors)
    found = differences(list(parts.values()), tensors, extra)
    places = {name: _places(part) for name, part in parts.items()}
    networks = [
        facts for name, part in parts.items() for facts in _networks(name, part, places[name], tensors.entries, preset)
    ]
    read = {theirs for part in places.values() for theirs in part.values()}
    tables = [extra, *(part.rules for part in parts.values())]
    return Examined(
        layout="sgm file",
        families=() if found.faults() else _families(preset),
        preset=preset,
        networks=tuple(networks),
        left_out=_left_out(tensors.entries.keys() - read, tables),
        differences=found,
    )


def _folder(source: str | Path, folder: Path, variant: str | None) -> Examined:
    problems: list[str] = []
    preset, networks = _described(source, folder, problems)
    facts: list[NetworkFacts] = []
    apart: dict[str, Differences] = {}
    weights: list[Path] = []
    left_out: Counter[str] = Counter()
    for part in [part for part in diffusers.WEIGHTS if part != "image_decoder" or (folder / part).is_dir()]:
        try:
            tensors = diffusers.open_weights(folder / part, diffusers.WEIGHTS[part], variant)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        weights += tensors.paths
        if preset is None or part not in networks:
            facts.append(_sum(part, tensors.entries.values()))
            continue
        known = Part(networks[part], diffusers.RULES)
        apart[part] = differences([known], tensors, diffusers.RULES)
        problems += [f"{tensors.label} {fault}." for fault in apart[part].faults()]
        places = _places(known)
        facts += _networks(part, known, places, tensors.entries, preset)
        left_out.update(_left_out(tensors.entries.keys() - set(places.values()), [diffusers.RULES]))
    return Examined(
        layout="diffusers folder",
        families=() if preset is None or problems else _families(preset),
        preset=preset,
        networks=tuple(facts),
        left_out=dict(left_out),
        differences=_joined(apart),
        weights=tuple(weights),
        unsafe=tuple(_pickles(folder)),
        problems=tuple(problems),
    )


def _described(source: str | Path, folder: Path, problems: list[str]) -> tuple[Preset | None, dict[str, nn.Module]]:
    """The preset and the meta networks of a folder; what its configurations get wrong goes into `problems`."""
    try:
        preset = folder_preset(source, folder)
        return preset, folder_networks(preset, diffusers.read_image_decoder(folder))[1]
    except (CheckpointError, ConfigError) as error:
        problems.append(str(error))
        return None, {}


def _loose_folder(folder: Path) -> Examined:
    files = tuple(sorted(folder.glob("*.safetensors"))[:MAX_FILES])
    unsafe = tuple(_pickles(folder))
    if not files and not unsafe:
        raise UsageError(
            f"{folder} is no model: it has neither model_index.json nor weights; expected a diffusers folder."
        )
    try:
        return _loose(whole_tensors(files, str(folder)), files, unsafe)
    except CheckpointError as error:
        return Examined("unreadable", unsafe=unsafe, problems=(str(error),))


def _loose(tensors: TensorSet, weights: tuple[Path, ...], unsafe: tuple[Path, ...]) -> Examined:
    """Tensors that follow neither layout, by the first word of their names."""
    groups: dict[str, list[Entry]] = {}
    for name, entry in tensors.entries.items():
        first = name.partition(".")[0]
        groups.setdefault(first if first in groups or len(groups) < MAX_GROUPS else "others", []).append(entry)
    networks = tuple(_sum(name, entries) for name, entries in groups.items())
    if any("lora" in name.lower() for name in tensors.entries):
        return Examined("lora", networks=networks, weights=weights, unsafe=unsafe)
    problem = f"{tensors.label} is no whole model; expected a diffusers folder or the original's single file."
    if not weights:
        problem = f"{tensors.label} holds no weights but {listed(path.name for path in unsafe)}, which is a pickle."
    return Examined("tensors", networks=networks, weights=weights, unsafe=unsafe, problems=(problem,))


def _places(part: Part) -> dict[str, str]:
    """The name in the checkpoint of each of our tensors."""
    return {name: part.rules.place(name).theirs for name in part.network.state_dict()}


def _networks(
    part: str, known: Part, places: Mapping[str, str], entries: Mapping[str, Entry], preset: Preset
) -> Iterator[NetworkFacts]:
    """One network; the autoencoder as its encoder and its decoder."""
    groups: dict[str, list[Entry]] = {}
    for name, value in known.network.state_dict().items():
        entry = entries.get(places[name])
        if entry is not None:
            mine = replace(entry, shape=tuple(value.shape))  # several of ours may share one of theirs
            groups.setdefault(_title(part, name, preset), []).append(mine)
    for title, found in groups.items():
        yield _sum(title, found)


def _title(part: str, name: str, preset: Preset) -> str:
    if part != "vae":
        return part
    is_decoder = name.startswith(("decoder.", "post_quant_conv."))
    return f"vae, {preset.autoencoder.decoder} decoder" if is_decoder else "vae, encoder"


def _sum(name: str, entries: Iterable[Entry]) -> NetworkFacts:
    found = list(entries)
    sizes = [math.prod(entry.shape) for entry in found]
    stored = sum(size * entry.dtype.itemsize for size, entry in zip(sizes, found, strict=True))
    return NetworkFacts(name, len(found), sum(sizes), stored, dict(Counter(NAMES[entry.dtype] for entry in found)))


def _left_out(names: Iterable[str], tables: Sequence[Rules]) -> dict[str, int]:
    reasons = (next(filter(None, (table.reason(name) for table in tables)), "") for name in names)
    return dict(Counter(reason for reason in reasons if reason))


def _joined(apart: Mapping[str, Differences]) -> Differences:
    def names(kind: str) -> tuple[str, ...]:
        return tuple(f"{part}.{name}" for part, found in apart.items() for name in getattr(found, kind))

    return Differences(names("missing"), names("unknown"), names("wrong"))


def _same_shaped(preset: Preset) -> list[Preset]:
    return [other for other in PRESETS.values() if _shapes(preset) == _shapes(other)]


def _families(preset: Preset) -> tuple[str, ...]:
    """The released models that a known preset may be: the one of its name, or those of its shapes and length."""
    same = _same_shaped(preset)
    named = [other.name for other in same if other.name == preset.name]
    return tuple(named or [other.name for other in same if other.defaults.frames == preset.defaults.frames])


def _shapes(preset: Preset) -> tuple[object, ...]:
    """What decides the shapes of tensors, and nothing else."""
    unet = replace(preset.unet, frames=1, sample_size=1, norm_eps="original")
    autoencoder = replace(preset.autoencoder, decoder="temporal", scaling_factor=1.0, sample_size=1, force_upcast=False)
    return unet, autoencoder, replace(preset.image_encoder, activation="gelu", norm_eps=1e-5)


def _pickles(folder: Path) -> list[Path]:
    places = (path for pattern in ("*", "*/*") for path in sorted(folder.glob(pattern))[:MAX_FILES])
    return [path for path in places if path.is_file() and _is_pickle(path)]


def _is_pickle(path: Path) -> bool:
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return True
    if path.suffix.lower() != ".safetensors":
        return False
    try:
        with path.open("rb") as file:
            return file.read(4).startswith(PICKLE_STARTS)
    except OSError:
        return False
