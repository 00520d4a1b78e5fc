"""Loops over pixels that are compiled for this processor at their first call and kept on disk for the next process."""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from .errors import StillmotionError

P = ParamSpec("P")
R = TypeVar("R")


class Native(Generic[P, R]):
    """A function of arrays and numbers, compiled with Numba; `function` is what was written.

    It runs without the interpreter's lock and checks no bounds: callers see to shapes. Natives may call one another.
    """

    def __init__(self, function: Callable[P, R], signature: str | None) -> None:
        self.function, self._signature = function, signature
        self._compiled: Callable[P, R] | None = None
        functools.update_wrapper(self, function)

    def __call__(self, *arguments: P.args, **named: P.kwargs) -> R:
        if self._compiled is None:
            self._compiled = _compiled(_linked(self.function), self._signature)
        return self._compiled(*arguments, **named)


def native(signature: str | None = None) -> Callable[[Callable[P, R]], Native[P, R]]:
    """Compile a function for arguments of these types of Numba's, such as "void(uint8[:,::1], int64)".

    Without a signature it is compiled for whatever it meets, each kind anew. Of arrays with any strides ('A') the
    compiler makes vector instructions only where the code has asked before whether the last of them is 1, and where
    no place counts from below 0.
    """
    return lambda function: Native(function, signature)


def _linked(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, calling what was compiled of each Native that it names.

    Numba keeps what it compiles by the function's name and its file's age. What it takes from elsewhere, constants and
    other natives, is therefore part of the name.
    """
    plain = inspect.unwrap(function)  # checkers of types wrap what they are shown
    code, scope = plain.__code__, plain.__globals__
    named = {name: scope[name] for name in code.co_names if name in scope}
    # These become part of what is kept of the whole.
    inner = {
        name: _numba().njit(nogil=True)(_linked(each.function))
        for name, each in named.items()
        if isinstance(each, Native)
    }
    linked = types.FunctionType(code, {**scope, **inner}, plain.__name__)
    linked.__qualname__ = f"{plain.__name__}_{_mark(plain)}"
    return linked


def _mark(function: Callable[..., Any]) -> str:
    """Tells apart what a function would be compiled to under other constants or with other natives."""
    code, scope = function.__code__, function.__globals__
    known = [code.co_code.hex(), repr(code.co_consts)]
    for name in code.co_names:
        value = scope.get(name)
        if isinstance(value, Native):
            known.append(_mark(inspect.unwrap(value.function)))
        elif isinstance(value, int | float | str | tuple):
            known.append(f"{name}={value!r}")
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:12]


def _compiled(function: Callable[P, R], signature: str | None) -> Callable[P, R]:
    compiler, name = _numba().njit, function.__qualname__
    # What a power failure left of a kept loop is no reason to fail, nor to compile it in every process from now on.
    for function.__qualname__ in (name, f"{name}_anew"):
        try:
            return compiler(signature, nogil=True, cache=True)(function)
        except Exception:  # nor is a full disk, or a machine with no folder to keep it in; true errors come below
            continue
    return compiler(signature, nogil=True)(function)


def _numba() -> types.ModuleType:
    try:
        import numba
    except ImportError:
        raise StillmotionError(
            "Numba is missing; expected it to be there after `pip install stillmotion[curate]`."
        ) from None
    return numba
