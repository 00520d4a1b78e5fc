"""One side, alone in a process of its own: its peak memory, or its times from nothing.

    python -m suite.alone '{"what": "decode", "side": "ours", ...}'

Prints one line of JSON. Nothing of the other side is imported.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

STARTED = time.perf_counter()
What = Literal["decode", "generate", "first-step", "import"]


@dataclasses.dataclass(frozen=True, slots=True)
class Spec:
    """What a child does."""

    what: What
    side: Literal["ours", "peer"]
    preset: str = "small"
    dtype: str = "float32"
    device: str = "cpu"
    frames: int = 4
    width: int = 64
    height: int = 64
    steps: int = 1
    chunk: int | None = None
    # How our side saves memory: nothing for how it comes, `lean`, `streamed`, or a budget in bytes.
    plan: str = ""
    # A diffusers folder; random weights without one.
    folder: str | None = None
    # The module whose import is timed.
    module: str = ""


def ask(spec: Spec) -> dict[str, float]:
    """Run a child and read its answer. Raises RuntimeError with the end of what it said where it failed."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", ""))),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "suite.alone", json.dumps(dataclasses.asdict(spec))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{spec.side} {spec.what} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_bytes() -> int:
    """The most memory that this process has held so far. Linux alone says."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> int:
    """Do what the first argument says."""
    spec = Spec(**json.loads(sys.argv[1]))
    actions = {"decode": _decode, "generate": _generate, "first-step": _first_step, "import": _import}
    found = actions[spec.what](spec)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def _import(spec: Spec) -> dict[str, float]:
    """Seconds of importing one name, `package` or `package:name`."""
    start = time.perf_counter()
    module, _, name = spec.module.partition(":")
    found = importlib.import_module(module)
    if name:
        getattr(found, name)
    return {"seconds": time.perf_counter() - start}


def _decode(spec: Spec) -> dict[str, float]:
    """Peak of decoding random latents, the decoder's weights included, the imports not."""
    torch, networks, side = _modules(spec)
    preset, request = networks.PRESETS[spec.preset], _request(networks, spec)
    meter = _Meter(torch, spec.device)
    made = side.decoder_alone(preset, getattr(torch, spec.dtype), spec.device)
    run = made.decode(networks.latents_of(preset, request), request)
    start = time.perf_counter()
    run()
    return {"seconds": time.perf_counter() - start, "peak_bytes": meter.peak()}


def _generate(spec: Spec) -> dict[str, float]:
    """Peak of loading a folder and making one video; of ours also what was to be expected."""
    torch, networks, side = _modules(spec)
    preset = networks.PRESETS[spec.preset]
    meter = _Meter(torch, spec.device)
    start = time.perf_counter()
    request = _request(networks, spec)
    made = side.from_folder(Path(str(spec.folder)), preset, spec.dtype, spec.device, spec.plan, request)
    loaded = time.perf_counter()
    made.generate(request)
    found = {"load_s": loaded - start, "seconds": time.perf_counter() - loaded, "peak_bytes": meter.peak()}
    return found | ({"predicted_bytes": made.predicted_bytes(request)} if spec.side == "ours" else {})


def _first_step(spec: Spec) -> dict[str, float]:
    """Seconds from the start of the program: everything imported, everything loaded, one guided step done."""
    _, networks, side = _modules(spec)
    imported = time.perf_counter() - STARTED
    preset, request = networks.PRESETS[spec.preset], _request(networks, spec)
    made = side.from_folder(Path(str(spec.folder)), preset, spec.dtype, spec.device)
    loaded = time.perf_counter() - STARTED
    step = made.guided_step(networks.latents_of(preset, request), networks.SIGMA)
    step().sum().item()
    return {"import_s": imported, "load_s": loaded - imported, "seconds": time.perf_counter() - STARTED}


class _Meter:
    """The most memory from here on: of the device, or of the process beyond what it has held before."""

    def __init__(self, torch: Any, device: str) -> None:
        self._cuda = torch.cuda if torch.device(device).type == "cuda" else None
        self._device = device
        self._before = 0 if self._cuda else peak_bytes()
        if self._cuda:
            self._cuda.init()
            self._cuda.reset_peak_memory_stats(device)

    def peak(self) -> int:
        if self._cuda:
            return self._cuda.max_memory_allocated(self._device)
        return peak_bytes() - self._before


def _modules(spec: Spec) -> tuple[Any, Any, Any]:
    """torch, what both sides share, and one side: the other is never imported."""
    names = ("torch", "suite.networks", f"suite.{spec.side}")
    torch, networks, side = (importlib.import_module(name) for name in names)
    return torch, networks, side


def _request(networks: Any, spec: Spec) -> Any:
    return networks.Request(spec.frames, spec.width, spec.height, spec.steps, spec.chunk)


if __name__ == "__main__":
    sys.exit(main())
