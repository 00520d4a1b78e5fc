"""Weights that are pages of a file: in memory while they are computed with, and given back behind it.

A page of a mapped file that nobody has changed needs no memory of its own: given back, it is read again when it is
touched, from the system's cache of files as long as that has room. So a network can run with a few of its layers in
memory, in the hands of the very code that knows nothing of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .parked import Room

# How long a page stays at least: short beside the computation of a large layer, long beside reading its weights.
SWEEP_S = 0.02
# Linux's account of this process's pages, and whether the system has one: only then are pages known to be a file's.
PAGE_MAP = Path("/proc/self/pagemap")
CAN_GIVE_BACK = sys.platform == "linux" and os.access(PAGE_MAP, os.R_OK)
# Tensors below this stay in memory when a network's precision changes: they are many, and small together.
LEAST_PARKED_BYTES = 2**20


@contextlib.contextmanager
def sparing(network: nn.Module) -> Iterator[None]:
    """Inside the block, pages of files that hold the network's weights are given back every SWEEP_S seconds.

    A weight that is changed in place inside the block reads as in the file again; one that was changed before stays, as
    do weights that are not mapped. Systems other than Linux do not say which are: nothing is given back there.
    """
    pages = file_pages(tensor for tensor in (*network.parameters(), *network.buffers()))
    if not pages:
        yield
        return
    done = threading.Event()

    def sweep() -> None:
        while not done.wait(SWEEP_S):
            give_back(pages)

    sweeper = threading.Thread(target=sweep, daemon=True, name="weights-of-a-file")
    sweeper.start()
    try:
        yield
    finally:
        done.set()
        sweeper.join()
        give_back(pages)


def settle(network: nn.Module, dtype: torch.dtype) -> None:
    """Change a network's precision; large tensors that are changed wait in temporary files.

    Raises UsageError where the disk has no room.
    """
    room = Room("disk", torch.device("cpu"), dtype)
    for module in network.modules():
        for name, tensor in module._parameters.items():
            if tensor is None or tensor.dtype == dtype or not tensor.is_floating_point():
                continue
            settled = tensor.detach().to(dtype)
            if settled.nbytes >= LEAST_PARKED_BYTES:
                settled = room.empty(1, 1, 1, settled.numel()).view(settled.shape).copy_(settled)
            module._parameters[name] = nn.Parameter(settled, requires_grad=False)
    network.to(dtype)  # buffers


def file_pages(tensors: Iterable[Tensor]) -> list[range]:
    """Whole pages of mapped files in which tensors lie, as addresses; neighbours are one range.

    A tensor is left out if one of its pages was written to: that page is this process's own, and no file has it.
    """
    maps, found = _file_maps(), []
    for tensor in tensors:
        if tensor.device.type != "cpu" or not tensor.numel():
            continue
        start, stop = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        first, last = start - start % mmap.PAGESIZE, -(-stop // mmap.PAGESIZE) * mmap.PAGESIZE
        is_mapped = any(each.start <= first and last <= each.stop for each in maps)
        if is_mapped and _is_as_in_file(range(first, last)):
            found.append(range(first, last))
    joined: list[range] = []
    for each in sorted(found, key=lambda pages: pages.start):
        if joined and each.start <= joined[-1].stop:
            joined[-1] = range(joined[-1].start, max(joined[-1].stop, each.stop))
        else:
            joined.append(each)
    return joined


def give_back(pages: Iterable[range]) -> None:
    """The system may have these pages; what they hold comes back from the file."""
    library = ctypes.CDLL(None)
    for each in pages:
        library.madvise(ctypes.c_void_p(each.start), ctypes.c_size_t(len(each)), mmap.MADV_DONTNEED)


def _is_as_in_file(pages: range) -> bool:
    """Whether each of these pages is a file's, or in no memory at all: bits 61 to 63 of Linux's number for a page."""
    first, count = pages.start // mmap.PAGESIZE, len(pages) // mmap.PAGESIZE
    try:
        with PAGE_MAP.open("rb", buffering=0) as source:
            source.seek(8 * first)
            entries = np.frombuffer(source.read(8 * count), np.uint64)
    except OSError:
        return False
    is_here, is_swapped, is_of_file = (entries >> np.uint64(bit) & np.uint64(1) == 1 for bit in (63, 62, 61))
    return len(entries) == count and not bool(((is_here | is_swapped) & ~is_of_file).any())


def _file_maps() -> list[range]:
    """Addresses at which this process has mapped files; those of libraries among them."""
    if not CAN_GIVE_BACK:
        return []
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        addresses, rights, _, _, inode = line.split()[:5]
        if inode != "0" and rights.startswith("r"):
            start, _, stop = addresses.partition("-")
            found.append(range(int(start, 16), int(stop, 16)))
    return found
