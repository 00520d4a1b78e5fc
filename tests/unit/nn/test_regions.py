"""Marked functions are compiled once for all sizes, within a bound, and do without a compiler that fails."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillmotion.nn.regions import CACHE_VARIABLE, Regions, are_in_force, cache_folder, region


class Counting:
    """A backend that compiles nothing and counts how often it was asked to."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@region()
def scaled(x: Tensor, layer: nn.Linear, share: Tensor) -> Tensor:
    return layer(x) * share


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test starts without compiled code, and leaves none of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def call(regions: Regions, *shape: int, share: float = 2.0) -> Tensor:
    """The marked function under regions; it fails unless the result is right."""
    layer, x = nn.Linear(shape[-1], 3), torch.randn(shape)
    with torch.inference_mode():
        made = regions.around(lambda _: scaled(x, layer, torch.tensor(share)))
        assert torch.equal(made, layer(x) * share)
    return made


def test_one_compilation_serves_all_sizes_layers_and_numbers() -> None:
    backend = Counting()
    regions = Regions(backend)
    for rows, tokens, share in ((2, 3, 0.5), (5, 7, 0.25), (9, 2, 4.0)):
        call(regions, rows, tokens, 8, share=share)
    assert backend.graphs == 1


def test_a_second_model_finds_what_the_first_has_compiled() -> None:
    backend = Counting()
    for _ in range(2):
        call(Regions(backend), 2, 3, 8)
    assert backend.graphs == 1


def test_other_channels_are_compiled_anew_up_to_the_bound() -> None:
    backend = Counting()
    regions = Regions(backend, variants=3)
    for channels in range(4, 10):
        call(regions, 2, 3, channels)
    assert backend.graphs == 3 and regions.failure is None


def test_nothing_is_compiled_where_no_regions_are_in_force() -> None:
    backend = Counting()
    x, layer = torch.randn(2, 4), nn.Linear(4, 3)
    seen = Regions(backend).around(lambda is_compiled: (is_compiled, are_in_force()))
    assert seen == (True, True) and not are_in_force()
    assert torch.equal(scaled(x, layer, torch.tensor(2.0)), layer(x) * 2) and backend.graphs == 0


def test_a_failing_compiler_is_logged_once_and_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    def broken(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        asked.append(graph)
        raise ValueError("no kernel today")

    regions = Regions(broken)
    with caplog.at_level(logging.WARNING, logger="stillmotion"):
        call(regions, 2, 3, 4)
        call(regions, 2, 3, 5)
    records = [record for record in caplog.records if record.name.startswith("stillmotion")]
    assert len(asked) == 1 and len(records) == 1 and "no kernel today" in records[0].getMessage()
    assert regions.failure is not None and not are_in_force()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), RuntimeError("wrong"), KeyboardInterrupt()])
def test_what_is_no_fault_of_the_compiler_comes_through(error: BaseException) -> None:
    def failing(is_compiled: bool) -> None:
        assert is_compiled
        raise error

    regions = Regions(Counting())
    with pytest.raises(type(error)):
        regions.around(failing)
    assert regions.failure is None and not are_in_force()
    call(regions, 2, 3, 4)


def test_a_compilation_can_be_stopped() -> None:
    def stopped(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        raise KeyboardInterrupt

    regions = Regions(stopped)
    with pytest.raises(KeyboardInterrupt):
        call(regions, 2, 3, 4)
    assert regions.failure is None and not are_in_force()
    call(Regions(Counting()), 2, 3, 4)


def test_kernels_are_kept_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    regions = Regions(Counting())
    kernels = tmp_path / "stillmotion" / "kernels"
    assert regions.around(lambda _: os.environ.get(CACHE_VARIABLE)) == str(kernels) and kernels.is_dir()
    assert CACHE_VARIABLE not in os.environ
    monkeypatch.setenv(CACHE_VARIABLE, "mine")
    assert regions.around(lambda _: os.environ[CACHE_VARIABLE]) == "mine" and os.environ[CACHE_VARIABLE] == "mine"


def test_a_cache_that_cannot_be_made_is_torchs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert Regions(Counting()).around(lambda _: CACHE_VARIABLE in os.environ) is False


def test_a_relative_cache_home_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert cache_folder() == Path("~/.cache/stillmotion").expanduser()
