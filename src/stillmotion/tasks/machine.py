"""The machine that a generation would run on."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

import torch

from ..errors import StillmotionError
from ..files import check_writable
from ..kernels import library
from ..media.probe import library_versions
from ..pipelines.plan import copy_rate, matrix_rate
from ..placement import Placement, resolve

PACKAGES = (
    *("stillmotion", "torch", "numpy", "safetensors", "pillow", "av", "transformers", "huggingface-hub"),
    *("jaxtyping", "pydantic", "pyyaml", "typer", "rich", "tqdm", "opencv-python-headless", "numba", "pillow-heif"),
)
OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python")
CGROUP_USE = {"memory.max": "memory.current", "memory.limit_in_bytes": "memory.usage_in_bytes"}
# Where a quota of processor time stands, and the time that it is of: in one file, or in two.
CGROUP_QUOTAS = (
    "/sys/fs/cgroup/cpu.max",
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us",
)
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclasses.dataclass(frozen=True, slots=True)
class Accelerator:
    """A graphics processor; memory in bytes, `capability` as its maker counts."""

    device: str
    name: str
    memory_bytes: int
    free_bytes: int
    capability: str


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """Processor, memory, accelerators, and where a generation would run by itself."""

    processor: str
    cores: int
    threads: int
    # Of the instruction sets that matter to matrix products, those that are there.
    features: tuple[str, ...]
    # Why our own compiled code for bfloat16 is not used, in a few words; None where it is.
    without_kernels: str | None
    memory_bytes: int
    memory_free_bytes: int
    accelerators: tuple[Accelerator, ...]
    placement: Placement
    # Of a square product in that placement, measured; and bytes of offloaded weights that reach the device.
    operations_per_s: float
    bytes_per_s: float = 10e9

    @property
    def free_device_bytes(self) -> int:
        """The free memory of the device that would be taken."""
        name = self.placement.device
        chosen = (each for each in self.accelerators if each.device.startswith(name))
        return next((each.free_bytes for each in chosen), self.memory_free_bytes)


@dataclasses.dataclass(frozen=True, slots=True)
class Disk:
    """A place that is written to."""

    purpose: str
    path: str
    free_bytes: int
    writable: bool


def look() -> Machine:
    """This machine."""
    placement = resolve(Placement())
    total, free = main_memory()
    features = torch.cpu.get_capabilities()
    return Machine(
        processor=_processor(),
        cores=_cores(),
        threads=torch.get_num_threads(),
        features=tuple(sorted(name for name, value in features.items() if value is True)),
        without_kernels=library.absence(),
        memory_bytes=total,
        memory_free_bytes=free,
        accelerators=accelerators(),
        placement=placement,
        operations_per_s=matrix_rate(placement),
        bytes_per_s=copy_rate(placement),
    )


def accelerators() -> tuple[Accelerator, ...]:
    """Every device of CUDA, or that of Metal."""
    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        about = torch.cuda.get_device_properties(index)
        found.append(Accelerator(f"cuda:{index}", about.name, total, free, f"{about.major}.{about.minor}"))
    if torch.backends.mps.is_available():
        total = int(torch.mps.recommended_max_memory())
        found.append(Accelerator("mps", "Metal", total, total - int(torch.mps.driver_allocated_memory()), "mps"))
    return tuple(found)


def free_bytes(device: torch.device) -> int:
    """Free memory of a device, or of the machine where the device shares it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return main_memory()[1]


def held_bytes() -> int:
    """Main memory that this process holds now, such as Python and its libraries; 0 where the system does not say."""
    for line in _lines(Path("/proc/self/status")):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def read_versions() -> dict[str, str | None]:
    """The versions of Python, of the packages that matter and of FFmpeg's libraries; None for what is missing."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    found |= {name: _version(name) for name in PACKAGES if name not in OPENCV}
    found["opencv"] = next(filter(None, map(_version, OPENCV)), None)
    return found | library_versions()


def disk_of(purpose: str, folder: Path) -> Disk:
    """The disk that holds a folder, also where the folder is yet to be made."""
    try:
        check_writable(folder)
        writable = True
    except (StillmotionError, OSError):
        writable = False
    place = folder.absolute()
    while not os.path.exists(place):
        place = place.parent
    return Disk(purpose, str(folder.absolute()), shutil.disk_usage(place).free, writable)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    """Those that this process may use; only Linux says."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _processor() -> str:
    lines = _lines(Path("/proc/cpuinfo"))
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def usable_cores() -> int:
    """Cores that this process may keep busy: its own, within the quota of a container where there is one."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    for name in CGROUP_QUOTAS:
        said = " ".join(line for each in name.split() for line in _lines(Path(each))).split()
        if len(said) == 2 and said[0].isdecimal() and said[1].isdecimal():
            cores = min(cores, max(1, math.ceil(int(said[0]) / int(said[1]))))
    return cores


def compute_on_usable_cores() -> None:
    """Let torch have no more threads than may run at once, which it does not know of a container.

    What OMP_NUM_THREADS says stands.
    """
    if "OMP_NUM_THREADS" not in os.environ and usable_cores() < torch.get_num_threads():
        torch.set_num_threads(usable_cores())


def main_memory() -> tuple[int, int]:
    """All and free bytes, within the limit of a container where there is one."""
    total = free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if os.name == "posix" else 0
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    for name in CGROUP_LIMITS:
        limit = next(iter(_lines(Path(name))), "")
        if limit.isdecimal():
            used = next(iter(_lines(Path(name).with_name(CGROUP_USE[Path(name).name]))), "0")
            total, free = min(total, int(limit)), min(free, max(0, int(limit) - int(used)))
    return total, free


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
