"""Check this machine: versions, devices, memory, codecs, the hub, and what would run where."""

from __future__ import annotations

import dataclasses
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

from huggingface_hub import constants
from pydantic import Field

from .. import hub
from ..checkpoints import diffusers
from ..checkpoints.load import locate
from ..config import checked, config
from ..errors import StillmotionError, UsageError
from ..media.probe import encoders, image_decoders
from ..pipelines.memory import MemoryPlan, Workload, described, gigabytes, lowest, plan_memory
from ..pipelines.plan import Rates, cost, expected
from ..placement import resolved_dtype
from ..presets import PRESETS, Preset
from .machine import Disk, Machine, disk_of, look, read_versions
from .memory import RESERVED_SHARE
from .outputs import OUTPUTS
from .settings import GenerateSettings, video_settings

HUB_WAIT_S = 3.0
LOW_DISK_BYTES = 2 * 1000**3
MAX_CACHE_FILES = 100_000
VARIANTS = (None, "fp16")  # of the released weights


@config
class DoctorSettings:
    """Check this machine, and say what would run where."""

    online: Annotated[bool, Field(description="The hub is needed: not to reach it is a failure.")] = False
    json: Annotated[bool, Field(description="Print one JSON object instead of text.")] = False


@dataclasses.dataclass(frozen=True, slots=True)
class HubFacts:
    """The hub and its cache. `reachable` is None where it was not tried, and `reason` says why."""

    endpoint: str
    is_offline: bool
    reachable: bool | None
    reason: str
    cache: str
    cache_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class ModelPlan:
    """One preset on this machine, at its defaults."""

    name: str
    device: str
    dtype: str
    # package, cache, cache (fp16), or missing.
    weights: str
    weight_bytes: int
    # The usual request, as in "14 frames of 1024x576".
    video: str
    # Whether it fits into the free memory: as it comes, with what the memory plan saves, or not at all.
    fits: Literal["whole", "planned", "no"]
    # How it would run, and its predicted peak; where nothing fits, the plan of least memory.
    plan: str
    peak_bytes: int
    # Of one video at the model's defaults; rough, and without loading.
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything found, and what to do: `failures` keep something needed from working, `advice` does not."""

    versions: dict[str, str | None]
    machine: Machine
    disks: tuple[Disk, ...]
    # Why an encoder does not open; None where it does.
    codecs: dict[str, str | None]
    images: dict[str, bool]
    hub: HubFacts
    models: tuple[ModelPlan, ...]
    failures: tuple[str, ...]
    advice: tuple[str, ...]


def doctor(
    settings: DoctorSettings,
    see: Callable[[], Machine] = look,
    reach: Callable[[str], str] | None = None,
) -> Diagnosis:
    """Look at everything that a generation needs; nothing is fetched or written.

    see: how the machine is seen. reach: asks an address for an answer, and returns why there is none or an empty text.
    """
    settings = checked(settings)
    machine = see()
    versions = read_versions()
    found = _hub(reach or ask)
    disks = (disk_of("outputs", OUTPUTS), disk_of("hub cache", Path(found.cache)))
    codecs: dict[str, str | None] = {str(name): reason for name, reason in encoders().items()}
    images = image_decoders() | {"heic": versions.get("pillow-heif") is not None}
    models = tuple(_plan(preset, machine) for preset in PRESETS.values())
    failures = [*_old(versions), *_broken(codecs, disks, models)]
    if settings.online and not found.reachable:
        failures.append(f"the hub cannot be used: {found.reason}; check the network, HF_ENDPOINT and HF_HUB_OFFLINE.")
    return Diagnosis(
        versions=versions,
        machine=machine,
        disks=disks,
        codecs=codecs,
        images=images,
        hub=found,
        models=models,
        failures=tuple(failures),
        advice=tuple(_advice(settings, found, disks, models, codecs)),
    )


def ask(address: str) -> str:
    """Why a server gives no answer within HUB_WAIT_S, or an empty text where it does; never longer."""
    said = [f"no answer within {HUB_WAIT_S:g} s"]
    # A name server that is silent holds a caller far longer than any time limit of a socket.
    thread = threading.Thread(target=lambda: said.insert(0, _head(address)), daemon=True)
    thread.start()
    thread.join(HUB_WAIT_S)
    return said[0]


def _head(address: str) -> str:
    if not address.startswith(("http://", "https://")):
        return f"{address} is no http address"
    try:
        request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "stillmotion"})
        with urllib.request.urlopen(request, timeout=HUB_WAIT_S):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return ""  # an answer, whatever it says
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return str(getattr(reason, "strerror", None) or reason)


def _hub(reach: Callable[[str], str]) -> HubFacts:
    offline = constants.is_offline_mode()
    reason = "it is switched off (HF_HUB_OFFLINE)" if offline else reach(constants.ENDPOINT)
    return HubFacts(
        endpoint=constants.ENDPOINT,
        is_offline=offline,
        reachable=None if offline else not reason,
        reason=reason,
        cache=str(constants.HF_HUB_CACHE),
        cache_bytes=_bytes_under(Path(constants.HF_HUB_CACHE)),
    )


def _bytes_under(folder: Path) -> int:
    total = 0
    try:
        for number, path in enumerate(folder.rglob("*")):
            if number > MAX_CACHE_FILES:
                break
            if path.is_file() and not path.is_symlink():  # a snapshot links to blobs, which count once
                total += path.stat().st_size
    except OSError:
        return total  # a cache that others change, or may not be read
    return total


def _plan(preset: Preset, machine: Machine) -> ModelPlan:
    own, where = preset.defaults, machine.placement
    dtype = resolved_dtype(where)
    load = Workload(preset, video_settings(GenerateSettings(image="any"), preset), own.width, own.height)
    counted = cost(preset, load.video, own.width, own.height, dtype)
    fits, planned = _fits(load, machine)
    return ModelPlan(
        name=preset.name,
        device=where.device,
        dtype=dtype,
        weights=_weights(preset),
        weight_bytes=counted.weight_bytes,
        video=f"{load.video.frames} frames of {own.width}x{own.height}",
        fits=fits,
        plan=described(planned.placement),
        peak_bytes=planned.peak_bytes,
        seconds=expected(counted, planned.placement, Rates(machine.operations_per_s, machine.bytes_per_s)).seconds,
    )


def _fits(load: Workload, machine: Machine) -> tuple[Literal["whole", "planned", "no"], MemoryPlan]:
    """What `generate` would do with the memory that is free, less what it leaves to others."""
    try:
        planned = plan_memory(load, machine.placement, int(machine.free_device_bytes * (1 - RESERVED_SHARE)))
    except UsageError:
        return "no", lowest(load, machine.placement)
    return ("whole" if planned.placement == machine.placement else "planned"), planned


def _weights(preset: Preset) -> str:
    for variant in VARIANTS:
        parts = [part for part in diffusers.WEIGHTS if part != "image_decoder"]
        access = hub.Access(local_files_only=True)
        try:
            folder = locate(preset.name, diffusers.patterns(variant, parts), access=access)
            for part in parts:
                diffusers.open_weights(folder / part, diffusers.WEIGHTS[part], variant)
        except StillmotionError:
            continue
        if preset.hub_id is None:
            return "package"
        return "cache" if variant is None else f"cache ({variant})"
    return "missing"


def _old(versions: dict[str, str | None]) -> list[str]:
    """What the package asks for and does not have, from its own metadata."""
    found = []
    for line in metadata.requires("stillmotion") or []:
        match = re.match(r"([\w.-]+)>=([\d.]+)$", line.strip())  # lines of extras go on after the number
        if match is None:
            continue
        name, wanted = match[1].replace("_", "-").lower(), match[2]
        have = versions.get(name, "")
        if have is None:
            found.append(f"{name} is missing; install {name}>={wanted}.")
        elif have and _numbers(have) < _numbers(wanted):
            found.append(f"{name} is {have}, and {wanted} is the least that works; install a newer one.")
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def _broken(codecs: dict[str, str | None], disks: tuple[Disk, ...], models: tuple[ModelPlan, ...]) -> list[str]:
    found = [
        f"{each.path} cannot be written to; give another folder with -o." for each in disks[:1] if not each.writable
    ]
    if codecs.get("h264") is not None:
        found.append(
            f"the H.264 encoder does not open ({codecs['h264']}); install PyAV from its wheel: pip install av."
        )
    if any(each.name == "tiny" and each.weights == "missing" for each in models):
        found.append("the embedded model is missing or damaged; install stillmotion anew.")
    return found


def _advice(
    settings: DoctorSettings,
    found: HubFacts,
    disks: tuple[Disk, ...],
    models: tuple[ModelPlan, ...],
    codecs: dict[str, str | None],
) -> list[str]:
    lines = [f"the encoder of {name} does not open ({why})." for name, why in codecs.items() if why and name != "h264"]
    if not disks[1].writable:
        lines.append(f"the hub's cache {disks[1].path} cannot be written to; set HF_HOME to a folder of your own.")
    lines += [
        f"{each.path} has {each.free_bytes / 1e9:.1f} GB free." for each in disks if each.free_bytes < LOW_DISK_BYTES
    ]
    for each in models:
        if each.fits == "no":
            lines.append(
                f"{each.name} needs {gigabytes(each.peak_bytes)} for {each.video}, more than is free; "
                "free some memory, or try a smaller --size, fewer --frames, or tiny."
            )
    missing = [each.name for each in models if each.weights == "missing" and each.name != "tiny"]
    if missing and not found.reachable and not settings.online:
        lines.append(f"{', '.join(missing)} cannot be fetched now ({found.reason}); tiny works without a network.")
    return lines
