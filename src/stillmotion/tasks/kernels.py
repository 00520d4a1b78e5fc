"""What was measured of this machine's kernels, kept from one process to the next."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import StillmotionError
from ..files import atomic_path
from ..nn.backends import CHOICES, Choices
from ..nn.regions import cache_folder

MAX_BYTES = 2**20


def choices_file() -> Path:
    """Where choices are kept: another version of torch has other kernels. The device stands in each choice's name."""
    return cache_folder() / f"attention-torch-{torch.__version__}.json"


def recall_choices(file: Path, choices: Choices = CHOICES) -> None:
    """Remember what the file holds; one that is missing or damaged holds nothing."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if file.stat().st_size > MAX_BYTES:
            return
        tree = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(tree, dict):
            choices.remember({case: name for case, name in tree.items() if isinstance(name, str)})


def keep_choices(file: Path, known: Mapping[str, str], choices: Choices = CHOICES) -> None:
    """Write the file where more was chosen than was `known`; a folder that takes none only costs measuring again."""
    if choices.chosen == known:
        return
    recall_choices(file, choices)  # what other processes have added meanwhile
    with contextlib.suppress(StillmotionError), atomic_path(file) as temporary:
        temporary.write_text(json.dumps(choices.chosen, indent=1, sort_keys=True) + "\n", encoding="utf-8")
