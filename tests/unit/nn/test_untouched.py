"""A layer that somebody has changed is known as such."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from stillmotion.nn.untouched import is_untouched


def patch(layer: nn.Module) -> None:
    plain = layer.forward
    layer.forward = lambda x: plain(x)  # type: ignore[method-assign]


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "hook": lambda layer: layer.register_forward_hook(lambda *_: None),
    "hook before": lambda layer: layer.register_forward_pre_hook(lambda *_: None),
    "hook backwards": lambda layer: layer.register_full_backward_hook(lambda *_: None),
    "hook before backwards": lambda layer: layer.register_full_backward_pre_hook(lambda *_: None),
    "other forward": patch,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_each_change_shows(change: Callable[[nn.Module], object]) -> None:
    layer = nn.Linear(2, 2)
    assert is_untouched(layer)
    change(layer)
    assert not is_untouched(layer)


def test_a_removed_hook_leaves_nothing() -> None:
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda *_: None).remove()
    assert is_untouched(layer)
