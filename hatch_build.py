"""Builds the C code of `stillmotion.kernels` into the package, where it has a processor to run on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src") / "stillmotion" / "kernels"
LIBRARY = FOLDER / "libstillmotion.so"
# A compiler that is a Python package: no machine has to have its own, and the same source gives the same bytes.
COMPILER = [sys.executable, "-m", "ziglang", "cc"]
# glibc 2.17 is that of manylinux2014. Nothing but bfloat16 needs more than AVX-512 as x86-64-v4 has it.
FLAGS = ["-target", "x86_64-linux-gnu.2.17", "-mcpu=x86_64_v4+avx512bf16", "-std=c11", "-O3", "-fno-sanitize=all", "-s"]
# Numbers of 16 bits are read in pairs, as one of 32.
FLAGS += ["-fno-strict-aliasing"]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
SHARED = ["-shared", "-fPIC", "-fvisibility=hidden"]
TAG = "py3-none-manylinux2014_x86_64"


class Kernels(BuildHookInterface):
    """On Linux with an x86-64 processor the wheel holds the library; elsewhere it holds Python alone."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and have the result packed; `version` is the kind of wheel, an editable one too."""
        if self.target_name != "wheel" or (sys.platform, platform.machine()) != ("linux", "x86_64"):
            return
        build(Path(self.root))
        build_data["artifacts"].append(LIBRARY.as_posix())
        build_data["tag"], build_data["pure_python"] = TAG, False


def build(root: Path) -> None:
    """Compile the library in a checkout. Raises CalledProcessError where the compiler fails, having said why."""
    made = root / LIBRARY.with_suffix(f".{os.getpid()}.tmp")
    sources = sorted(str(path) for path in (root / FOLDER).glob("*.c"))
    try:
        subprocess.run([*COMPILER, *FLAGS, *WARNINGS, *SHARED, *sources, "-o", str(made)], check=True)
        # In one step: a process that has loaded the last one keeps it.
        made.replace(root / LIBRARY)
    finally:
        made.unlink(missing_ok=True)


if __name__ == "__main__":
    build(Path(__file__).resolve().parent)
