"""Every error that bad input can raise.

StillmotionError
 ├── UsageError         the request itself is wrong: a setting, a path, a combination
 │    └── ConfigError   a configuration has unknown, missing or invalid keys
 ├── MediaError         an image or a video cannot be read or written
 ├── CheckpointError    weights are missing, incomplete, of the wrong shape or unsafe
 ├── HubError           a model cannot be fetched: network, permission, cache
 ├── TrainingError      a training run cannot start or go on
 └── Cancelled          the caller asked to stop

Each message is one sentence that says what was wrong, what was given and what was expected.
"""

from __future__ import annotations


class StillmotionError(Exception):
    """Anything that a caller can mend: the message says how. The command line ends with code 1."""


class UsageError(StillmotionError, ValueError):
    """The request is wrong before any work starts. The command line ends with code 2."""


class ConfigError(UsageError):
    """A configuration cannot be used; the message names every bad key."""


class MediaError(StillmotionError):
    """An image or a video cannot be read or written."""


class CheckpointError(StillmotionError):
    """Weights are missing, incomplete, of another shape, or in a format that is not safe to open."""


class HubError(StillmotionError):
    """A model cannot be fetched, or is not in the local cache while offline."""


class TrainingError(StillmotionError):
    """A training run cannot start, or cannot go on."""


class Cancelled(StillmotionError):
    """The caller asked to stop; nothing was written."""


def printable(text: str) -> str:
    """A text without what steers a terminal: names and values come from strangers' files too."""
    return "".join(each if each.isprintable() else "?" for each in text)
