"""Files that are whole or absent: atomic writes, and refusals in one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import StillmotionError, UsageError

PART = re.compile(r"\.[0-9a-f]{8}\.part")  # how the names of unfinished files begin
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


@contextlib.contextmanager
def atomic_path(target: Path, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `target` that becomes `target` when the block ends, or is removed if it fails.

    The bytes are on disk before the name changes. With `overwrite` off, a `target` that appears in the meantime is
    kept and UsageError is raised. Folders work too. Raises StillmotionError where the folder cannot be written or
    the disk is full.
    """
    target = Path(target)
    # Shorter than most names, so that a name which the disk takes is not refused for its temporary one.
    temporary = target.with_name(f".{secrets.token_hex(4)}.part{target.suffix}")
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with explained(target):
            yield temporary
            _sync(temporary)
            _publish(temporary, target, overwrite)
        # The name itself, and not the other files there. It stands already: a folder that may be written and not read
        # refuses this, and so do some network disks.
        with contextlib.suppress(OSError):
            _sync_one(target.parent)
    finally:
        # A folder that may not be searched refuses even this; the error that brought us here says so already.
        with contextlib.suppress(OSError):
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def remove_parts(folders: Iterable[Path]) -> None:
    """Remove what writers by `atomic_path` that were killed left in these folders. Nothing else may write there now."""
    for folder in folders:
        for path in folder.glob(".*.part*"):
            if PART.match(path.name) is None:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def explained(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals about `target` into one sentence."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StillmotionError) or error.errno is None:
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason = "the disk is full or a size limit is reached"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = "this user may not write there"
        else:
            reason = os.strerror(error.errno)
        raise StillmotionError(f"{target} cannot be written: {reason}; nothing was left behind.") from None


def check_writable(folder: Path) -> None:
    """Raise StillmotionError unless this user may write in `folder`, or make it where it is missing. Makes nothing.

    UsageError where it lies in something that is no folder.
    """
    place = Path(folder).absolute()
    while not os.path.exists(place):  # Path.exists raises where a parent may not be searched
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"{folder} cannot be written: {place} is a file; expected the name of a folder.")
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        raise StillmotionError(f"{folder} cannot be written: this user may not write there; nothing was left behind.")


def _publish(temporary: Path, target: Path, overwrite: bool) -> None:
    if overwrite:
        if temporary.is_dir() and target.is_dir():
            aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
            os.rename(target, aside)
            os.rename(temporary, target)
            shutil.rmtree(aside)
        else:
            os.replace(temporary, target)
        return
    if temporary.is_dir():
        if target.exists():
            raise UsageError(f"{target} already exists; expected a name that is free.")
        try:
            os.rename(temporary, target)
        except OSError as error:  # another run was quicker
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise UsageError(f"{target} already exists; expected a name that is free.") from None
        return
    try:
        _take_name(temporary, target)
    except FileExistsError:
        raise UsageError(f"{target} already exists; expected a name that is free.") from None


def _take_name(temporary: Path, target: Path) -> None:
    """Give a file a name that nothing has. Raises FileExistsError."""
    try:
        os.link(temporary, target)
        return
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
    # Memory sticks and many network disks have no hard links: an empty file reserves the name first.
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        os.replace(temporary, target)
    except OSError:
        target.unlink()
        raise


def _sync(path: Path) -> None:
    if path.is_dir():
        for child in path.rglob("*"):
            if child.is_file() or child.is_dir():
                _sync_one(child)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
