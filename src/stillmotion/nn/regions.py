"""Functions of tensors that are compiled where a generation asks for it: once for all blocks, sizes and images.

A function marked with `region` is called as it stands, unless `Regions` are in force around it. Then torch.compile
makes one kernel after another of its norms, gates, sums and blends, beside the products. A compiled region takes any
number of videos, frames and pixels; only another number of channels, another precision or a size of one needs another.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

# Variants of one region: twelve pairs of channels occur in the residual blocks of the released U-Net, five in its
# decoder, and sizes of one make some twice. What comes beyond runs uncompiled.
MAX_VARIANTS = 40
# torch's own name for where compiled kernels are kept from one process to the next.
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"

Args = ParamSpec("Args")
Result = TypeVar("Result")
Backend = str | Callable[[torch.fx.GraphModule, list[Tensor]], Callable[..., Any]]
logger = logging.getLogger(__name__)


class Regions:
    """Compiles marked functions for one model, and goes on without where that fails.

    backend: torch.compile's. variants: how many each region may have.
    """

    def __init__(self, backend: Backend = "inductor", variants: int = MAX_VARIANTS) -> None:
        self._backend = backend
        self._limits = {"recompile_limit": variants, "accumulated_recompile_limit": 64 * variants}
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] = {}
        # Why nothing is compiled any more: the first line of what the compiler said.
        self.failure: str | None = None

    def around(self, run: Callable[[bool], Result]) -> Result:
        """What `run(True)` returns with its regions compiled; where the compiler fails, `run(False)` without.

        `run` may be called twice. The first failure is logged, and nothing is compiled after it.
        """
        if self.failure is None:
            try:
                with self._in_force():
                    return run(True)
            except RuntimeError as error:
                if not is_of_compiler(error):
                    raise
                self.failure = first_line(error)
            logger.warning("compiling failed, and the generation goes on without: %s", self.failure)
        return run(False)

    def call(self, function: Callable[..., Any], channels: int, args: tuple[Any, ...]) -> Any:
        """The compiled function's result."""
        if function not in self._compiled:
            self._compiled[function] = torch.compile(function, backend=self._backend)
        for index, value in enumerate(args):
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                _free_sizes(value, channels if index == 0 else -1)
        return self._compiled[function](*args)

    @contextlib.contextmanager
    def _in_force(self) -> Iterator[None]:
        # Left to itself, torch would free the number of channels at its second value, and lose kernels by it.
        settings = {"automatic_dynamic_shapes": False, **self._limits}
        token = _IN_FORCE.set(self)
        try:
            with _kept_kernels(), torch._dynamo.config.patch(settings):  # type: ignore[attr-defined]
                yield
        finally:
            _IN_FORCE.reset(token)


_IN_FORCE: ContextVar[Regions | None] = ContextVar("regions", default=None)


def region(channels: int = -1) -> Callable[[Callable[Args, Result]], Callable[Args, Result]]:
    """Mark a function of tensors, layers and products, given by position, to be compiled where Regions are in force.

    channels: the one axis of the first argument whose size stays fixed; of other tensors it is the last. Numbers among
    the arguments are fixed too, so that what differs from block to block has to be a tensor.
    """

    def mark(function: Callable[Args, Result]) -> Callable[Args, Result]:
        @functools.wraps(function)
        def called(*args: Args.args, **kwargs: Args.kwargs) -> Result:
            regions = None if torch.compiler.is_compiling() else _IN_FORCE.get()
            if regions is None or kwargs:
                return function(*args, **kwargs)
            return regions.call(function, channels, args)

        return called

    return mark


def are_in_force() -> bool:
    """Whether marked functions are compiled here: then they hold torch's plain operations, which fuse."""
    return torch.compiler.is_compiling() or _IN_FORCE.get() is not None


def cache_folder() -> Path:
    """Where this user's machine keeps what can be made anew: `stillmotion` in XDG_CACHE_HOME, or in ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if os.path.isabs(root) else Path("~/.cache").expanduser()) / "stillmotion"


@contextlib.contextmanager
def _kept_kernels() -> Iterator[None]:
    """Compiled kernels outlive the process; torch's own place for them is in /tmp, which a restart empties."""
    folder, before = cache_folder() / "kernels", os.environ.get(CACHE_VARIABLE)
    # torch writes its own place there as soon as it has looked; anything else is somebody's wish.
    own = torch._inductor.runtime.cache_dir_utils.default_cache_dir()  # type: ignore[attr-defined]
    if before not in (None, own) or not _is_writable(folder):
        yield
        return
    os.environ[CACHE_VARIABLE] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(CACHE_VARIABLE)
        if before is not None:
            os.environ[CACHE_VARIABLE] = before


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _free_sizes(tensor: Tensor, channels: int) -> None:
    """Tell the compiler that every size but that of the channels may be another in the next call."""
    fixed = channels % tensor.ndim if tensor.ndim else 0
    free = [axis for axis in range(tensor.ndim) if axis != fixed]
    if free:
        torch._dynamo.maybe_mark_dynamic(tensor, free)  # type: ignore[attr-defined]


def first_line(error: BaseException) -> str:
    """What an error says, cut to one line; the compiler's own first line only announces the next."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1]) or type(error).__name__


def is_of_compiler(error: RuntimeError) -> bool:
    """Whether the compiler failed, rather than what it compiled."""
    # The second kind is raised bare where a kernel is built in another process.
    compilers = (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.CppCompileError)  # type: ignore[attr-defined]
    return isinstance(error, compilers)
