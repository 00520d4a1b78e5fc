"""Networks that other people trained: from the hub or a folder, safetensors alone, no code of theirs."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field

from ..config import config
from ..errors import CheckpointError
from ..hub import fetch
from .records import digest

T = TypeVar("T")

PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
SAMPLE_BYTES = 1024**2  # of either end of a file, which tell one file of weights from another of its size


@config
class Pretrained:
    """Which network, and how it runs."""

    model: Annotated[str, Field(description="A name on the hub, or the path of a folder in its layout.", min_length=1)]
    revision: Annotated[str | None, Field(description="A commit, tag or branch on the hub.")] = None
    device: Annotated[str, Field(description="Where it runs, as torch names it.")] = "cpu"
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], Field(description="The precision it runs in.")] = (
        "float32"
    )


def folder_of(source: Pretrained) -> Path:
    """The folder of the network's files, fetched where it is a name on the hub. Raises HubError."""
    folder = Path(source.model)
    return folder if folder.is_dir() else fetch(source.model, revision=source.revision, patterns=PATTERNS)


def version_of(folder: Path) -> str:
    """Tells one network's files from another's: names, sizes, both ends of each file, all of the small ones."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return digest([[path.relative_to(folder).as_posix(), path.stat().st_size, _ends(path)] for path in files])[:16]


def load(name: str, folder: Path, source: Pretrained) -> Any:
    """A network of the class of transformers of this name, ready to be asked. Raises CheckpointError."""
    model = _loaded(name, folder, use_safetensors=True, dtype=getattr(torch, source.dtype))
    return model.to(source.device).eval().requires_grad_(False)


def load_processor(name: str, folder: Path) -> Any:
    """What turns pictures or words into the network's input. Raises CheckpointError."""
    return _loaded(name, folder)


def _loaded(name: str, folder: Path, **options: Any) -> Any:
    # Imported here, for it takes seconds, and a run without networks of others needs none of it.
    cls: Any = getattr(importlib.import_module("transformers"), name)
    logging: Any = importlib.import_module("transformers.utils.logging")
    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # it says on every load that torchvision would be faster
    logging.disable_progress_bar()
    try:
        return cls.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    # The edge to a library whose loading raises whatever its many parts do.
    except Exception as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise CheckpointError(
            f"{folder} cannot be loaded as {name}: {first_line}; expected a whole model with safetensors."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


def _ends(path: Path) -> str:
    digested = hashlib.sha256()
    with path.open("rb") as file:
        digested.update(file.read(SAMPLE_BYTES))
        if path.stat().st_size > 2 * SAMPLE_BYTES:
            file.seek(-SAMPLE_BYTES, 2)
        digested.update(file.read())
    return digested.hexdigest()
