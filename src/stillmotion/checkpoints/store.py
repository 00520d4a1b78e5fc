"""safetensors files, and nothing else: mapped after every size was checked, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import math
import mmap
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import atomic_path

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format's own reader
MAX_TENSORS = 100_000
ALIGNMENT = 8  # the format pads its header with spaces to a multiple of this

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
# A zip archive, as torch.save writes it, and the pickle protocols 2 to 5, as it did before.
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: its type, its shape, and the bytes of the file that hold it."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class TensorFile:
    """A checked safetensors file. Its tensors are views of the mapped file, which stays mapped as long as they live.

    Raises CheckpointError, in one sentence, where the file is missing, cut short, unsafe or not consistent.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                self.entries = _read_header(file, self.path)
                # Private and writable: nobody's change to a weight reaches the file.
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            reason = error.strerror or str(error)
            raise CheckpointError(f"{path} cannot be read: {reason}; expected a .safetensors file.") from None

    def tensor(self, name: str) -> Tensor:
        """The stored tensor as a view of the mapped file; its bytes are not aligned if the file's header is not."""
        entry = self.entries[name]
        count = math.prod(entry.shape)
        if count == 0:
            return torch.empty(entry.shape, dtype=entry.dtype)
        flat = torch.frombuffer(self._bytes, dtype=entry.dtype, count=count, offset=entry.start)
        return flat.reshape(entry.shape)

    def release(self, name: str) -> None:
        """Give back the memory that the tensor's mapped bytes take; a view of them reads the file anew."""
        entry = self.entries[name]
        start = entry.start - entry.start % mmap.PAGESIZE
        if sys.platform != "win32" and entry.stop > entry.start:
            self._bytes.madvise(mmap.MADV_DONTNEED, start, entry.stop - start)


class TensorSet:
    """The tensors of one or several files (the shards of one checkpoint) under one roof.

    `label` names them in messages. Raises CheckpointError where two files hold the same tensor.
    """

    def __init__(self, files: Sequence[TensorFile], label: str) -> None:
        self.label = label
        self._files: dict[str, TensorFile] = {}
        for file in files:
            for name in file.entries:
                if name in self._files:
                    raise CheckpointError(f"{label} holds {name} in two of its files; expected each tensor once.")
                self._files[name] = file

    @property
    def paths(self) -> list[Path]:
        """The files that hold a tensor, each once."""
        return list(dict.fromkeys(file.path for file in self._files.values()))

    @property
    def entries(self) -> dict[str, Entry]:
        """Every tensor's type and shape, by name."""
        return {name: file.entries[name] for name, file in self._files.items()}

    def tensor(self, name: str) -> Tensor:
        """As TensorFile.tensor."""
        return self._files[name].tensor(name)

    def release(self, name: str) -> None:
        """As TensorFile.release."""
        self._files[name].release(name)


def write(
    path: Path,
    tensors: Mapping[str, Sequence[Tensor]],
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> None:
    """Write a safetensors file; the same tensors give the same bytes, and a failure leaves nothing behind.

    Each name holds the parts of its tensor, joined along the first axis. Floating-point tensors are converted to
    `dtype`, one at a time. `metadata` stands in the header. Raises CheckpointError for a type that the format lacks,
    UsageError where the file exists and `overwrite` is off, StillmotionError where the disk is full or may not be
    written.
    """
    with atomic_path(Path(path), overwrite) as temporary, temporary.open("wb") as file:
        write_to(file, tensors, dtype, metadata)


def write_to(
    file: BinaryIO,
    tensors: Mapping[str, Sequence[Tensor]],
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the bytes of a safetensors file, as `write` does, into an open one."""
    file.write(header(tensors, dtype, metadata))
    for name in _order(tensors, dtype):
        for part in tensors[name]:
            file.write(_raw(part.detach().to(dtype=_stored_dtype(part, dtype))))


def header(
    tensors: Mapping[str, Sequence[Tensor]],
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The first bytes of the file that `write` makes: everything before the numbers."""
    described: dict[str, Any] = {"__metadata__": {"format": "pt"} | dict(metadata or {})}
    offset = 0
    for name in _order(tensors, dtype):
        stop = offset + stored_bytes(tensors[name], dtype)
        kept = _stored_dtype(tensors[name][0], dtype)
        if kept not in NAMES:
            raise CheckpointError(f"{name} has the type {kept}; expected one of {', '.join(DTYPES)}.")
        described[name] = {"dtype": NAMES[kept], "shape": _joined_shape(tensors[name]), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def stored_bytes(parts: Sequence[Tensor], dtype: torch.dtype | None = None) -> int:
    """The bytes that the joined parts of a tensor take in a file whose floating-point type is `dtype`."""
    return sum(part.numel() * _stored_dtype(part, dtype).itemsize for part in parts)


def _order(tensors: Mapping[str, Sequence[Tensor]], dtype: torch.dtype | None) -> list[str]:
    """The order of the format's own writer: wide types first, so that every tensor is aligned; then by name."""
    return sorted(tensors, key=lambda name: (-_stored_dtype(tensors[name][0], dtype).itemsize, name))


def _raw(tensor: Tensor) -> memoryview:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _stored_dtype(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype


def _joined_shape(parts: Sequence[Tensor]) -> list[int]:
    shape = list(parts[0].shape)
    return shape if len(parts) == 1 else [sum(part.shape[0] for part in parts), *shape[1:]]


def _read_header(file: BinaryIO, path: Path) -> dict[str, Entry]:
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if start[8:] != b"{" or length < 2:
        _refuse(path, start)
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(f"{path} declares a header of {length} bytes; expected at most {MAX_HEADER_BYTES}.")
    if 8 + length > size:
        raise CheckpointError(f"{path} is cut short: it has {size} bytes; expected {8 + length} for its header alone.")
    text = start[8:] + file.read(length - 1)
    # Counted before anything is parsed: a header of small lies costs no memory.
    if text.count(b'"data_offsets"') > MAX_TENSORS:
        raise CheckpointError(f"{path} declares more than {MAX_TENSORS} tensors; expected a checkpoint of fewer.")
    entries = {name: _entry(path, name, value, 8 + length) for name, value in _parse(text, path).items()}
    _check_layout(entries.values(), path, 8 + length, size)
    return entries


def _refuse(path: Path, start: bytes) -> None:
    if path.suffix.lower() not in PICKLE_SUFFIXES and not start.startswith(PICKLE_STARTS):
        raise CheckpointError(f"{path} is not a safetensors file: it has no header; expected a .safetensors file.")
    code = (
        "import torch, safetensors.torch as s; w = torch.load(PATH, map_location='cpu', weights_only=True); "
        "s.save_file({k: v.clone() for k, v in w.get('state_dict', w).items()}, PATH + '.safetensors')"
    ).replace("PATH", repr(str(path)))
    raise CheckpointError(
        f"{path} is a pickle, which can run code when it is opened; expected a .safetensors file, which "
        f'`python -c "{code}"` makes of it if you trust its maker.'
    )


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} has a header that is not JSON; expected that of a safetensors file.") from None
    header.pop("__metadata__", None)
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _entry(path: Path, name: str, value: Any, base: int) -> Entry:
    try:
        dtype, shape, (start, stop) = DTYPES[value["dtype"]], value["shape"], value["data_offsets"]
        numbers = [start, stop, *shape]
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("a size is not a whole number")
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{path} describes {name[:100]} as {str(value)[:100]}; "
            f"expected a dtype of {', '.join(DTYPES)}, a shape and offsets."
        ) from None
    if stop - start != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(
            f"{path} gives {name[:100]} {stop - start} bytes; expected {math.prod(shape) * dtype.itemsize} for {shape}."
        )
    return Entry(dtype, tuple(shape), base + start, base + stop)


def _check_layout(entries: Iterable[Entry], path: Path, base: int, size: int) -> None:
    end = base
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.stop)):
        if entry.start != end:
            raise CheckpointError(f"{path} has tensors that overlap or leave gaps; expected one after another.")
        end = entry.stop
    if end > size:
        raise CheckpointError(f"{path} is cut short: it has {size} bytes; expected the {end} of its header.")
    if end < size:
        raise CheckpointError(f"{path} has {size - end} bytes behind its last tensor; expected none.")
