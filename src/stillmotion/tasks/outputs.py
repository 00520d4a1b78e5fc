"""Names of outputs: free ones, never somebody else's, and refused before the work where they cannot be written."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import UsageError
from ..files import check_writable
from ..media.formats import FORMATS, Encoding, format_of, suffix_of

OUTPUTS = Path("outputs")  # where videos go when nothing is said
MAX_STEM_BYTES = 230  # disks take names of 255
SUFFIXES = tuple(each.suffix for each in FORMATS.values() if each.suffix)


def check_output(output: Path | None, encoding: Encoding, videos: int, force: bool = False) -> None:
    """Find out now, not after minutes of work, that the result could not be written.

    Raises UsageError for a name that exists (unless `force`), or one name for several videos; StillmotionError for a
    folder that cannot be written.
    """
    output = output or OUTPUTS
    if is_file_name(output):
        format_of(output, encoding)
        if videos > 1:
            raise UsageError(f"output is {output}, one file, for {videos} videos; expected a folder.")
        if output.exists() and not force:
            raise UsageError(f"output {output} already exists; expected a free name, a folder, or --force.")
    else:
        if not output.is_dir() and (output.exists() or output.suffix):
            raise UsageError(f"output is {output}; expected a folder, or a name that ends in {', '.join(SUFFIXES)}.")
        format_of(None, encoding)
    check_writable(output.parent if is_file_name(output) else output)


def is_file_name(output: Path) -> bool:
    """Whether this is the name of one video, and not a folder for several."""
    return output.suffix.lower() in SUFFIXES and not output.is_dir()


def short_stem(stem: str, ending: str) -> str:
    """The stem with an ending, cut so that a disk takes the name with a number and a suffix behind it."""
    kept = os.fsencode(stem)[: MAX_STEM_BYTES - len(ending)]
    return (stem if len(kept) == len(os.fsencode(stem)) else kept.decode(errors="ignore")) + ending


def names(folder: Path, stem: str, encoding: Encoding) -> Iterator[Path]:
    """The names that a video may take in a folder, in the order in which they are tried."""
    suffix = suffix_of(encoding)
    for number in itertools.count(1):
        yield folder / f"{stem}{'' if number == 1 else f'-{number}'}{suffix}"


def publish(targets: Iterator[Path], write: Callable[[Path], tuple[str, ...]]) -> tuple[Path, tuple[str, ...]]:
    """Write under the first name that is free at the moment the file is whole; returns it, and what `write` notes."""
    for target in targets:
        if os.path.exists(target):
            continue
        try:
            return target, write(target)
        except UsageError:
            if not os.path.exists(target):
                raise
    raise AssertionError("names do not run out")
