"""What is finished: one folder a result, named by its key. Its being there is the record."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import StillmotionError, UsageError
from ..files import atomic_path, explained
from .records import Failure

REFUSAL = "refusal.json"
LOCK = "lock"


class Ledger:
    """Results under `root/<stage>/<first two letters of the key>/<key>/`, each committed whole."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def folder(self, stage: str, key: str) -> Path:
        """Where a result lies, or will."""
        return self.root / stage / key[:2] / key

    def has(self, stage: str, key: str) -> bool:
        """Whether a result, or a lasting refusal, is there."""
        return self.folder(stage, key).is_dir()

    def refusal(self, stage: str, key: str) -> Failure | None:
        """Why a stage gave nothing, if that is what its result says; its source is empty."""
        path = self.folder(stage, key) / REFUSAL
        return Failure(**read_json(path)) if path.is_file() else None

    @contextlib.contextmanager
    def committing(self, keys: Mapping[str, str]) -> Iterator[dict[str, Path]]:
        """Yield an empty folder for each stage; all become results when the block ends without an error."""
        with contextlib.ExitStack() as stack:
            folders = {}
            for stage, key in keys.items():
                folder = stack.enter_context(atomic_path(self.folder(stage, key)))
                with explained(folder):
                    folder.mkdir()
                folders[stage] = folder
            yield folders

    def refuse(self, stage: str, key: str, failure: Failure) -> None:
        """Record that a stage gives nothing for this content, now and on every later run."""
        with self.committing({stage: key}) as folders:
            write_json(
                folders[stage] / REFUSAL,
                {"source": "", "stage": failure.stage, "reason": failure.reason, "detail": failure.detail},
            )

    def note(self, stage: str, key: str, value: Any) -> None:
        """Keep plain values that cost less to find again than to force onto the disk: a power failure may lose them."""
        path = self.root / stage / key[:2] / f"{key}.json"
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{secrets.token_hex(4)}.part")
            write_json(temporary, value)
            os.replace(temporary, path)

    def noted(self, stage: str, key: str) -> Any:
        """What was noted under a key, or None where nothing was, or it is damaged."""
        try:
            return json.loads((self.root / stage / key[:2] / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def sweep(self) -> None:
        """Remove what a killed run left half-made. Only for the holder of the lock."""
        for pattern in ("*/.*", "*/??/.*"):
            for path in self.root.glob(pattern):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the folder for one run. Raises UsageError while another run holds it; a lock whose holder died is free.

    The system lets go of the lock when its process ends, however it ends.
    """
    root = Path(root)
    path = root / LOCK
    with explained(path):
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise UsageError(
                f"{root.parent} is being curated by process {holder}; expected one run at a time, or another folder."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder(root: Path) -> str | None:
    """The number of the process that holds the folder, as text; None where none does."""
    try:
        descriptor = os.open(Path(root) / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
    else:
        return None
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Plain values as JSON, the same bytes for equal values, in ASCII: paths may hold bytes that are no UTF-8."""
    path.write_text(json.dumps(value, sort_keys=True, allow_nan=False), encoding="ascii")


def read_json(path: Path) -> Any:
    """Plain values of a JSON file that this package wrote. Raises StillmotionError where it is damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StillmotionError(
            f"{path} cannot be read: {error}; expected a result of an earlier run, which may be removed."
        ) from None


def first_refusal(ledger: Ledger, stages: Sequence[str], keys: Mapping[str, str]) -> Failure | None:
    """The earliest refusal among these stages, for one video's keys."""
    return next((found for stage in stages if (found := ledger.refusal(stage, keys[stage]))), None)
