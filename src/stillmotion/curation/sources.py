"""What is to be curated: the files of a folder, of a list, or under an address."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .records import Failure
from .stage import Refused

# Beside videos there lie notes, subtitles and stills; whatever has another name is looked at, whatever its suffix.
BESIDE = frozenset(
    f".{suffix}"
    for suffix in (
        *(
            "txt",
            "md",
            "json",
            "jsonl",
            "csv",
            "tsv",
            "parquet",
            "xml",
            "yaml",
            "yml",
            "html",
            "htm",
            "nfo",
            "log",
            "pdf",
        ),
        *("srt", "vtt", "ass", "sub", "idx", "sha256", "md5", "part", "py", "svg"),
        *("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "heic"),
        *("mp3", "wav", "flac", "aac", "m4a", "opus"),
    )
)
LISTS = (".txt", ".list", ".lst", ".json")
# Addresses of these kinds are opened through fsspec, which asks for a package of its own for most of them.
SCHEMES = ("file", "local", "memory", "http", "https", "s3", "gs", "gcs", "az", "abfs", "hf")
CURATED = ("curate.yaml", "work/sources.json")  # what the results of a run are known by
MAX_LIST_BYTES = 256 * 1024**2
FETCH_BLOCK = 1 << 20
ASKED_AT_ONCE = 16  # addresses of a list
# What fsspec's systems call an entity tag or a hash, or else the time of the last change.
STAMPS = (
    "ETag",
    "etag",
    "Content-MD5",
    "md5Hash",
    "xet_hash",
    "blob_id",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "mtime",
    "created",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One file to look at.

    `name` is how it is called in every result: relative to what was curated, or the address. `place` is a path or an
    address to open. `bytes` and `stamp` (a modification time or an entity tag) are as listed, where the listing says
    them.
    """

    name: str
    place: str
    bytes: int | None = None
    stamp: str = ""

    @property
    def is_remote(self) -> bool:
        return "://" in self.place


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """All sources in the order of their names, what could not be listed, and how many files lay beside them."""

    sources: tuple[Source, ...]
    failures: tuple[Failure, ...] = ()
    beside: int = 0


def find_sources(given: str, output: Path) -> Found:
    """List what `given` names: a folder, a list of paths or addresses a line, one video, or an address.

    `output` and the results of other runs are left out. Raises UsageError where there is nothing of that name, or the
    list or the address cannot be read.
    """
    if "://" in given:
        scheme, _, rest = given.partition("://")
        if scheme not in ("file", "local"):
            return _address(given)
        given = rest
    path = Path(given)
    if os.path.isdir(path):  # os.path: what may not be looked up is not there, where Path raises
        return _walk(path, output)
    if not os.path.isfile(path):
        raise UsageError(f"{given} {_absence(path)}; expected a folder of videos, a list of them, or an address.")
    return _list(path) if path.suffix.lower() in LISTS else Found((_local(path, path.name),))


def _absence(path: Path) -> str:
    try:
        path.stat()
    except PermissionError:
        return "may not be looked up by this user"
    except (OSError, ValueError):
        return "does not exist"
    return "is neither a file nor a folder"


def _walk(root: Path, output: Path) -> Found:
    sources, failures, beside = [], [], 0
    for folder, names in _folders(root, output, failures):
        for name in names:
            path = folder / name
            if name.startswith(".") or path.suffix.lower() in BESIDE:
                beside += 1
            else:  # the worker says what is none, such as a pipe or a link to nothing
                sources.append(_local(path, path.relative_to(root).as_posix()))
    sources.sort(key=lambda source: source.name)
    failures.sort(key=lambda failure: failure.source)
    return Found(tuple(sources), tuple(failures), beside)


def _folders(root: Path, output: Path, failures: list[Failure]) -> Iterator[tuple[Path, list[str]]]:
    """Every folder below `root` with its files; a folder that links lead to twice is entered once."""

    def note(error: OSError) -> None:
        name = Path(str(error.filename)).relative_to(root).as_posix()
        failures.append(Failure(_shown(name), "find", "unreadable", f"The folder cannot be read: {error.strerror}."))

    away, seen = output.resolve(), set()
    for folder, folders, names in os.walk(root, onerror=note, followlinks=True):
        here = Path(folder)
        status = here.stat()
        is_curated = here != root and all((here / name).is_file() for name in CURATED)
        if (status.st_dev, status.st_ino) in seen or here.resolve() == away or is_curated:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield here, names


def _local(path: Path, name: str) -> Source:
    try:
        status = path.stat()
    except OSError:  # the one who works on it will say why
        return Source(_shown(name), str(path))
    return Source(_shown(name), str(path), status.st_size, f"{status.st_mtime_ns}")


def _shown(name: str) -> str:
    """A name that any text file can hold: bytes that are no UTF-8 become escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _list(path: Path) -> Found:
    if path.stat().st_size > MAX_LIST_BYTES:
        raise UsageError(f"{path} has {path.stat().st_size} bytes; expected a list of at most {MAX_LIST_BYTES}.")
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows begins a text with a mark
        entries = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}; expected a list of videos.") from None
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise UsageError(f"{path} is no list of texts; expected a path or an address for each video.")
    if path.suffix.lower() != ".json":  # where a line may be a remark
        entries = [entry.strip() for entry in entries if not entry.startswith("#")]
    named = dict.fromkeys(entry for entry in entries if entry.strip())
    remote = [entry for entry in named if "://" in entry]
    for entry in remote:
        _check_scheme(entry)
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        sources = list(pool.map(_remote, remote))
    for entry in named.keys() - set(remote):
        place = path.parent / entry
        inside = place.is_relative_to(path.parent)
        sources.append(_local(place, place.relative_to(path.parent).as_posix() if inside else entry))
    return Found(tuple(sorted(sources, key=lambda source: source.name)))


def _remote(address: str) -> Source:
    """An address with the size and the stamp that it gives, by which a later run knows whether it is the same file."""
    try:
        system, place = _system(address)
        detail = system.info(place)
    except Exception:  # the one who fetches it will say why
        return Source(_shown(address), address)
    return Source(_shown(address), address, detail.get("size"), _stamp(detail))


def _stamp(detail: Mapping[str, Any]) -> str:
    """What a system says of a file that changes with its content."""
    return str(next((detail[name] for name in STAMPS if detail.get(name)), ""))


def _address(given: str) -> Found:
    system, root = _system(given)
    try:
        details: dict[str, Any] = system.find(root, detail=True) if not system.isfile(root) else {}
    except Exception as error:  # what fsspec's many systems raise has no parent of its own
        raise UsageError(
            f"{given} cannot be listed ({type(error).__name__}: {error}); "
            "expected a folder or a file that this user may read."
        ) from None
    if not details:
        return Found((_remote(given),))
    sources, beside = [], 0
    for place, detail in sorted(details.items()):
        name = str(place)[len(str(root).rstrip("/")) :].lstrip("/")
        if Path(name).name.startswith(".") or Path(name).suffix.lower() in BESIDE:
            beside += 1
            continue
        sources.append(Source(_shown(name), system.unstrip_protocol(place), detail.get("size"), _stamp(detail)))
    return Found(tuple(sorted(sources, key=lambda source: source.name)), (), beside)


def _check_scheme(address: str) -> None:
    scheme = address.partition("://")[0].lower()
    if scheme not in SCHEMES or "::" in address:
        raise UsageError(f"{address} is of the kind {scheme!r}; expected one of {', '.join(SCHEMES)}.")


def _system(address: str) -> tuple[Any, str]:
    _check_scheme(address)
    try:
        import fsspec

        return fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        reason = str(error).rstrip(".")
        raise UsageError(
            f"{address} cannot be opened here: {reason}; expected an address that fsspec can open."
        ) from None


def fetch(source: Source, target: Path, max_bytes: int) -> None:
    """Copy a remote source to `target`, `max_bytes` at most. Raises Refused with the reason."""
    try:
        system, place = _system(source.place)
        with system.open(place, "rb") as remote, target.open("wb") as file:
            _copy(remote, file, max_bytes)
    except FileNotFoundError:
        raise Refused("missing", "There is nothing at this address.") from None
    except (Refused, MemoryError):
        raise
    except UsageError as error:
        raise Refused("unreachable", str(error)) from None
    except Exception as error:  # what fsspec's many systems raise has no parent of its own
        if isinstance(error, OSError) and error.errno in (28, 122):
            raise
        raise Refused("unreachable", f"The address gave nothing: {type(error).__name__}.") from None


def _copy(remote: Any, file: Any, max_bytes: int) -> None:
    copied = 0
    while block := remote.read(FETCH_BLOCK):
        copied += len(block)
        if copied > max_bytes:
            raise Refused("too_large", f"The file has more than the {max_bytes} bytes that the settings allow.")
        file.write(block)
