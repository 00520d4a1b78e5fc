"""What a file is before anything is done with it: a video, or a named reason why not."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from ..media.survey import Problem, survey
from .records import Failure, Video

STAGE = "identify"
CHUNK_BYTES = 4 * 1024**2


def identify(path: Path, source: str, max_bytes: int | None = None) -> Video | Failure:
    """Hash a file, read it to its end and decode its first frame; `source` is the name that records give it.

    A file that changes or vanishes in the meantime is refused, for its hash would belong to another one. Nothing is
    raised. The frames are counted by packets: a pass over the video may show fewer of them.
    """
    path = Path(path)
    try:
        before = path.stat()
        if problem := _refusal(path, before, max_bytes):
            return _failed(source, problem)
        sha256 = _hash(path)
        found = survey(path)
        after = path.stat()
    except FileNotFoundError:
        return _failed(source, Problem("missing", f"{path} is not there; expected a video."))
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return _failed(source, Problem("unreadable", f"{path} cannot be read: {reason}; expected a video."))
    if _identity(before) != _identity(after):
        return _failed(source, Problem("changed", f"{path} changed while it was read; expected a file that rests."))
    if isinstance(found, Problem):
        return _failed(source, found)
    return Video(
        source=source,
        sha256=sha256,
        bytes=before.st_size,
        container=found.container,
        codec=found.codec,
        pixel_format=found.pixel_format,
        width=found.width,
        height=found.height,
        rotation=found.rotation,
        fps=found.frames / found.duration_s,
        frames=found.frames,
        duration_s=found.duration_s,
    )


def _refusal(path: Path, found: os.stat_result, max_bytes: int | None) -> Problem | None:
    # A pipe would be waited for without end.
    if not stat.S_ISREG(found.st_mode):
        return Problem("not_media", f"{path} is no regular file; expected a video.")
    if not found.st_size:
        return Problem("empty", f"{path} has no bytes; expected a video.")
    if max_bytes is not None and found.st_size > max_bytes:
        return Problem("too_large", f"{path} has {found.st_size} bytes; expected at most {max_bytes}.")
    return None


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _failed(source: str, problem: Problem) -> Failure:
    return Failure(source, STAGE, problem.reason, problem.detail)
