"""The C library's heap, where it is glibc: what of it goes back to the system. Elsewhere nothing here acts."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

# glibc's names and numbers (malloc.h), and where its own rules end up once a program has freed large blocks: blocks
# of up to 32 MB come from the heap, and up to 64 MB of free space stay at its end.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
USUAL_TRIM_BYTES, USUAL_MAP_BYTES = 64 * 2**20, 32 * 2**20
# From here on a block is mapped by itself, and gone when it is freed. Blocks below it are few and small beside those
# of a decoder that holds whole frames.
MAP_BYTES = 4 * 2**20


def trim() -> None:
    """Give back what the C library keeps of freed tensors: blocks of up to 32 MB stay otherwise."""
    _call("malloc_trim", 0)


@contextlib.contextmanager
def blocks_given_back() -> Iterator[None]:
    """In this block large tensors leave nothing in the heap when they are freed, as those above 32 MB always do.

    But for those that fit into a hole which was there before: `trim` gives its pages back, and the hole stays.

    Otherwise holes stay between what lives on, such as kernels compiled meanwhile, into which no larger tensor fits:
    a decoder that holds all frames of 160x256 took twice what it had in use. Each tensor costs the system's zeroing.
    """
    _call("mallopt", M_MMAP_THRESHOLD, MAP_BYTES)
    try:
        yield
    finally:
        _call("mallopt", M_MMAP_THRESHOLD, USUAL_MAP_BYTES)
        _call("mallopt", M_TRIM_THRESHOLD, USUAL_TRIM_BYTES)


def _call(name: str, *arguments: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            getattr(ctypes.CDLL(None), name)(*arguments)
