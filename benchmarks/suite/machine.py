"""Which machine and which source a figure belongs to, and how busy others keep the processor."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from stillmotion.kernels import library

ROOT = Path(__file__).parents[2]
# Of one core; more than this by others, and times are worth little.
BUSY_CORES = 0.1
PROBE_S = 0.3
# Parts of the package that no figure runs through: a change there leaves stored figures standing.
UNMEASURED = ("cli", "curation", "evaluation", "server", "training")


def device_name(device: str) -> str:
    """The processor's or the accelerator's own name."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = _lines(Path("/proc/cpuinfo"))
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def slug(device: str) -> str:
    """A folder's name for the machine: `amd-epyc-2-cores`, or `h200` for an accelerator."""
    words = re.sub(r"\(.*?\)|\bnvidia\b|\bcpu\b|@.*", " ", device_name(device).lower())
    name = "-".join(re.findall(r"[a-z0-9]+", words)) or "machine"
    return name if torch.device(device).type == "cuda" else f"{name}-{cores()}-cores"


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def describe(device: str) -> dict[str, Any]:
    """What a reader needs to know about where figures were measured."""
    return {
        "device": device_name(device),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": metadata.version("diffusers"),
        "kernels": library.name(),
    }


def commit() -> str | None:
    """The commit that is checked out, with a + where tracked files differ from it; None outside a checkout."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD").strip()
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "src").strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+" if changed else head


def source_digest(small: bool) -> str:
    """What figures depend on: our source, the measuring code, libraries, threads, and the size of the shapes."""
    digest = hashlib.sha256()
    for folder in (ROOT / "src" / "stillmotion", Path(__file__).parent):
        for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".c", ".h")):
            parts = path.relative_to(folder).parts
            if path.name not in ("document.py", "plot.py") and parts[0] not in UNMEASURED:
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    libraries = f"{torch.__version__} {metadata.version('diffusers')} {library.name()}"
    digest.update(f"{libraries} {torch.get_num_threads()} {small}".encode())
    return digest.hexdigest()[:16]


@dataclasses.dataclass(slots=True)
class Load:
    """Cores that other processes kept busy, on average; None where the system does not say."""

    others: float | None = None


@contextlib.contextmanager
def watching_others() -> Iterator[Load]:
    """How many cores other processes use while the block runs."""
    load, before, own, start = Load(), _busy_seconds(), _own_seconds(), time.perf_counter()
    yield load
    after, elapsed = _busy_seconds(), time.perf_counter() - start
    if before is not None and after is not None:
        load.others = max(0.0, (after - before) - (_own_seconds() - own)) / elapsed


def others_now() -> float | None:
    """Cores that other processes use at this moment, while this one rests."""
    with watching_others() as load:
        time.sleep(PROBE_S)
    return load.others


def is_disturbed(others: float | None) -> bool:
    """Whether that much work by others spoils a time."""
    return others is not None and others > BUSY_CORES


def _busy_seconds() -> float | None:
    """Of all cores that this process may use, since the machine started."""
    if sys.platform != "linux":
        return None
    mine = {f"cpu{index}" for index in os.sched_getaffinity(0)}
    ticks = 0
    for line in _lines(Path("/proc/stat")):
        name, *values = line.split()
        if name in mine:  # user nice system idle iowait irq softirq steal: all but the two idle ones
            ticks += sum(int(value) for index, value in enumerate(values[:8]) if index not in (3, 4))
    return ticks / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(each.ru_utime + each.ru_stime for each in used)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
