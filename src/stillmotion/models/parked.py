"""A whole video between two layers, frame by frame, in the place that has room for it."""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UsageError
from .moments import Moments

Park = Literal["device", "host", "disk"]
_BLOCK = 16 * 2**20  # bytes written at a time
_LARGEST_KEPT = 31 * 2**20
_HUGE_PAGES = getattr(mmap, "MADV_HUGEPAGE", None)  # on Linux
_PRIVATE: int = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)  # not on Windows


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """Where activations of one device wait while other frames are worked on.

    device: beside the computation. host: in main memory, pinned for a GPU. disk: in files of the folder for temporary
    ones, which the system removes when they are no longer used, also behind a kill.
    """

    park: Park
    device: torch.device
    dtype: torch.dtype

    def empty(self, frames: int, height: int, width: int, channels: int) -> Float[Tensor, "n h w c"]:
        """Space for so many frames. Raises UsageError where the disk has no room."""
        shape = (frames, height, width, channels)
        if self.park == "disk":
            return _on_disk(shape, self.dtype)
        if self.park == "host":
            return torch.empty(shape, dtype=self.dtype, pin_memory=self.device.type == "cuda")
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def parked(self, frames: int, height: int, width: int, channels: int) -> Float[Tensor, "n h w c"]:
        """Space for frames that wait for long. Raises UsageError where the disk has no room, MemoryError."""
        shape = (frames, height, width, channels)
        is_main_memory = self.device.type == "cpu" and self.park != "disk"
        return _mapped(shape, self.dtype) if is_main_memory else self.empty(*shape)


@dataclasses.dataclass(slots=True)
class Passing:
    """Space for one thing that a group of frames needs for a moment: the same memory again and again."""

    room: Room
    _space: Tensor | None = None

    def take(self, frames: int, height: int, width: int, channels: int) -> Float[Tensor, "n h w c"]:
        """Space for so many frames; what was there before is lost. Raises as `Room.parked`."""
        count = frames * height * width * channels
        if self._space is None or self._space.numel() < count:
            self._space = None  # before the larger one is made
            self._space = self.room.parked(1, 1, 1, count).view(-1)
        return self._space[:count].view(frames, height, width, channels)

    def release(self) -> None:
        """Give the memory back."""
        self._space = None


@dataclasses.dataclass(slots=True)
class Bands:
    """Space for what one band needs for a moment, one place for each purpose.

    In the C library's heap something small would fall into the gap that a band leaves, and the next one take another
    place: of a decode of 14 x 256 x 256 in bfloat16 from 90 to 300 MB stayed there. A device's allocator knows better.
    """

    room: Room
    _places: dict[str, Passing] = dataclasses.field(default_factory=dict)

    def take(self, purpose: Literal["columns", "before", "made"], shape: Sequence[int]) -> Float[Tensor, "n h w c"]:
        """Space for a band of this shape; what was there for this purpose is lost. Raises as `Room.parked`."""
        frames, height, width, channels = shape
        if self.room.device.type != "cpu":
            return self.room.empty(frames, height, width, channels)
        return self._places.setdefault(purpose, Passing(self.room)).take(frames, height, width, channels)


@dataclasses.dataclass(slots=True)
class Clip:
    """Frames in parts of one or several, channels last, and the statistics of the channels of each: a row a frame."""

    parts: list[Float[Tensor, "n h w c"]] = dataclasses.field(default_factory=list)
    moments: list[Moments] = dataclasses.field(default_factory=list)

    @property
    def sizes(self) -> list[int]:
        """Frames of each part."""
        return [len(part) for part in self.parts]

    @property
    def frames(self) -> int:
        """How many there are."""
        return sum(self.sizes)

    @property
    def area_and_channels(self) -> tuple[int, int]:
        """Pixels of a frame, and channels."""
        return self.parts[0].shape[1:3].numel(), self.parts[0].shape[3]

    def append(self, part: Float[Tensor, "n h w c"], moments: Moments) -> None:
        """Take the next frames."""
        self.parts.append(part)
        self.moments.append(moments)

    def pop(self) -> tuple[Float[Tensor, "n h w c"], Moments]:
        """Give up the first part."""
        return self.parts.pop(0), self.moments.pop(0)

    def columns(self, span: range, space: Bands) -> Float[Tensor, "t p c"]:
        """A copy of a range of pixels of every frame."""
        target = space.take("columns", (1, self.frames, len(span), self.area_and_channels[1]))[0]
        return torch.cat([view.to(target.device) for view in self.views(span)], out=target)

    def views(self, span: range) -> list[Float[Tensor, "n p c"]]:
        """A range of pixels of every frame, part by part, where it is parked."""
        return [part.flatten(1, 2)[:, span.start : span.stop] for part in self.parts]

    def learn(self, moments: Moments) -> None:
        """Take new statistics, a row a frame."""
        each = zip(moments.mean.split(self.sizes), moments.variance.split(self.sizes), strict=True)
        self.moments = [Moments(mean, variance) for mean, variance in each]


def keep_heap(device: torch.device) -> None:
    """Let the heap keep what bands of a few MiB give up, rather than return it to the system and take it anew.

    The C library of Linux learns from each block that it unmaps, up to 32 MiB, how large a block may stay: this one is
    never touched. It spares three quarters of the page faults of a decode, near a tenth of its time in bfloat16.
    Source: mallopt(3), M_MMAP_THRESHOLD, on its dynamic adjustment.
    """
    if device.type == "cpu":
        torch.empty(_LARGEST_KEPT, dtype=torch.uint8)


def _mapped(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in pages of its own: the system has them back when it is given up, which is not so of the heap's."""
    size = torch.Size(shape).numel() * dtype.itemsize
    try:
        # Shared pages, which Python asks for by itself, come 4 KiB at a time: 0.30 s for 512 MiB, these 0.06 s.
        pages = mmap.mmap(-1, size, flags=_PRIVATE) if _PRIVATE else mmap.mmap(-1, size)
    except OSError as error:
        raise MemoryError(f"no memory for {shape} of {dtype} ({error.strerror})") from None
    if _HUGE_PAGES is not None:
        with contextlib.suppress(OSError):  # a system without them
            pages.madvise(_HUGE_PAGES)  # it hands out 2 MiB at a time rather than 4 KiB
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def _on_disk(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in a file that has no name any more. Its bytes are written first: a full disk says so here."""
    count = torch.Size(shape).numel()
    try:
        descriptor, name = tempfile.mkstemp(prefix="stillmotion-", suffix=".activations")
        try:
            with os.fdopen(descriptor, "wb") as file:
                _fill(file.fileno(), count * dtype.itemsize)
            return torch.from_file(name, shared=True, size=count, dtype=dtype).view(shape)
        finally:
            os.unlink(name)
    except OSError as error:
        size, folder = f"{count * dtype.itemsize / 1e6:.0f} MB", tempfile.gettempdir()
        raise UsageError(f"{size} could not be parked in {folder} ({error.strerror}); expected room there.") from None


def _fill(descriptor: int, size: int) -> None:
    block = bytes(min(size, _BLOCK))
    for first in range(0, size, _BLOCK):
        left = memoryview(block)[: size - first]
        while left:
            left = left[os.write(descriptor, left) :]
