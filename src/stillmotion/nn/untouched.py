"""Telling our own layers from those that somebody has changed."""

from __future__ import annotations

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_untouched(module: nn.Module) -> bool:
    """Whether calling a module does what its class says: nothing hooked to it, compiled, or in place of `forward`."""
    own = vars(module)
    return not any(own.get(name) for name in _HOOKS) and "forward" not in own and not own.get("_compiled_call_impl")
