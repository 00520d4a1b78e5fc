"""stillmotion doctor"""

from __future__ import annotations

from ..config import to_tree
from ..tasks.doctor import Diagnosis, DoctorSettings, doctor
from .options import app_of
from .printing import print_json


def run(settings: DoctorSettings) -> int:
    """Print what was found; 1 where something needed does not work."""
    found = doctor(settings)
    if settings.json:
        print_json(to_tree(found))
    else:
        _print(found)
    return 1 if found.failures else 0


def _print(found: Diagnosis) -> None:
    print("versions: " + ", ".join(f"{name} {version or 'missing'}" for name, version in found.versions.items()))
    _print_machine(found)
    works = [name for name, why in found.codecs.items() if why is None]
    print(f"video encoders: {', '.join(works)}")
    print(f"image formats: {', '.join(f'{name} {_yes(value)}' for name, value in found.images.items())}")
    state = "reached" if found.hub.reachable else found.hub.reason
    print(f"hub: {found.hub.endpoint}, {state}; cache {found.hub.cache}, {_gb(found.hub.cache_bytes)}")
    print("models, one video at their defaults:")
    for each in found.models:
        print(
            f"  {each.name:12} {each.device} in {each.dtype}, {_place(each.weights)}, {_gb(each.weight_bytes)} of them"
        )
        fit = {"whole": "fit", "planned": f"fit with {each.plan}", "no": f"do not fit, not even with {each.plan}"}
        print(f"               {each.video} {fit[each.fits]}: about {_gb(each.peak_bytes)}, {_time(each.seconds)}")
    for line in found.advice:
        print(f"advice: {line}")
    for line in found.failures:
        print(f"failure: {line}")
    print("something needed does not work" if found.failures else "everything needed works")


def _place(weights: str) -> str:
    return "weights not here yet" if weights == "missing" else f"weights in the {weights}"


def _print_machine(found: Diagnosis) -> None:
    machine = found.machine
    print(f"processor: {machine.processor}, {machine.cores} cores, {machine.threads} threads")
    print(
        f"  {', '.join(machine.features)}; {machine.operations_per_s / 1e9:.0f} GFLOP/s on {machine.placement.device}"
    )
    kernels = "yes" if machine.without_kernels is None else f"no ({machine.without_kernels})"
    print(f"  our own compiled code for bfloat16: {kernels}")
    print(f"memory: {_gb(machine.memory_bytes)}, {_gb(machine.memory_free_bytes)} free")
    for each in machine.accelerators:
        memory = f"{_gb(each.memory_bytes)}, {_gb(each.free_bytes)} free"
        print(f"{each.device}: {each.name}, {memory}, capability {each.capability}")
    for disk in found.disks:
        rights = "" if disk.writable else ", cannot be written to"
        print(f"{disk.purpose}: {disk.path}, {_gb(disk.free_bytes)} free{rights}")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _time(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 600 else f"about {seconds / 3600:.1f} h"


app = app_of(DoctorSettings, run, positional=())
