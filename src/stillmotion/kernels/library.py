"""The compiled library: whether it is there, and runs here."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import torch

PATH = Path(__file__).parent / "libstillmotion.so"
# What the code is compiled for, in torch's words.
FEATURES = ("avx512_f", "avx512_bw", "avx512_cd", "avx512_dq", "avx512_vl", "avx512_bf16", "fma3", "bmi2")
# Set to `off`, everything goes by torch's own operations.
SWITCH = "STILLMOTION_KERNELS"


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library with torch's threads at its service; None where `absence` says why."""
    loaded = _load()
    return loaded if isinstance(loaded, ctypes.CDLL) else None


def name() -> str:
    """The code that bfloat16 on this processor goes by, as one word for records."""
    return "avx512-bf16" if library() is not None else "none"


def absence() -> str | None:
    """Why there is no library, in a few words; None where there is one."""
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


@functools.cache
def _load() -> ctypes.CDLL | str:
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no"):
        return f"switched off by {SWITCH}"
    if not PATH.is_file():
        return "not built for this system"
    features = torch.cpu.get_capabilities()
    if not all(features.get(name) for name in FEATURES):
        return "the processor lacks AVX-512 with bfloat16"
    try:
        loaded = ctypes.CDLL(str(PATH))
        # torch has loaded one of OpenMP's libraries for everybody.
        process = ctypes.CDLL(None)
        threads = process.GOMP_parallel, process.omp_get_thread_num, process.omp_get_num_threads
    except (OSError, AttributeError) as error:
        return f"not loaded: {error}"
    loaded.stillmotion_use_threads(*(ctypes.cast(each, ctypes.c_void_p) for each in threads))
    loaded.stillmotion_most_channels.restype = ctypes.c_size_t
    return loaded
