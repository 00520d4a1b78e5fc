"""The kernel that was fastest is taken, within what each can do, and remembered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stillmotion.nn import backends
from stillmotion.nn.attention import attend
from stillmotion.nn.backends import BACKENDS, DEFAULT, Choices, attend_by, attend_fastest, case_of

TIMES = {DEFAULT: 1.0, "flash": 0.8, "cudnn": 0.5, "efficient": 0.7, "math": 3.0}


def tokens(rows: int = 2, count: int = 5, width: int = 8) -> Tensor:
    return torch.randn(rows, 2, count, width, generator=torch.Generator().manual_seed(rows))


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Attention that only notes by which kernel it was asked for, and refuses some."""
    asked: list[str] = []

    def noted(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        asked.append(name)
        if name in refused:
            raise RuntimeError("No available kernel.")
        return q

    refused = {"efficient"}
    monkeypatch.setattr(backends, "attend_by", noted)
    return asked


def timer(times: dict[str, float], asked: list[str]) -> Callable[[Callable[[], Tensor]], float]:
    def seconds(run: Callable[[], Tensor]) -> float:
        run()
        return times[asked[-1]]

    return seconds


def test_the_fastest_is_taken_and_measured_once_for_each_kind_of_call(kernels: list[str]) -> None:
    choices = Choices(timer(TIMES, kernels))
    assert choices.of(tokens(), tokens(), tokens()) == "cudnn"
    assert sorted(kernels) == sorted([*BACKENDS, DEFAULT])
    assert choices.of(tokens(3), tokens(3), tokens(3)) == "cudnn" and len(kernels) == 5  # between the same powers
    choices.of(tokens(64), tokens(64), tokens(64))
    choices.of(tokens(width=16), tokens(width=16), tokens(width=16))
    assert len(kernels) == 15 and len(choices.chosen) == 3


def test_what_is_hardly_faster_or_cannot_is_not_taken(kernels: list[str]) -> None:
    times = {DEFAULT: 1.0, "flash": 0.97, "cudnn": 0.99, "efficient": 0.1, "math": 2.0}
    assert Choices(timer(times, kernels)).of(tokens(), tokens(), tokens()) == DEFAULT


def test_the_plain_formula_is_not_tried_where_its_scores_are_large(
    kernels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "MAX_SCORE_BYTES", 2 * 2 * 5 * 5 * 4 - 1)
    Choices(timer(TIMES, kernels)).of(tokens(), tokens(), tokens())
    assert "math" not in kernels and "flash" in kernels


def test_what_is_remembered_is_not_measured_but_unknown_kernels_are(kernels: list[str]) -> None:
    case = str(case_of(tokens(), tokens()))
    choices = Choices(timer(TIMES, kernels))
    choices.remember({case: "gone"})
    assert choices.chosen == {}
    choices.remember({case: "flash"})
    assert choices.of(tokens(), tokens(), tokens()) == "flash" and kernels == []


@pytest.mark.parametrize("name", [DEFAULT, "flash", "math"])
def test_kernels_give_the_same(name: str) -> None:
    q, k, v = tokens(), tokens(3)[:2, :, :4], tokens(4)[:2, :, :4]
    scores = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
    torch.testing.assert_close(attend_by(name, q, k, v), scores @ v)


def test_on_the_cpu_nothing_is_measured_and_nothing_changes() -> None:
    before = backends.CHOICES.chosen
    q, k, v = tokens(), tokens(3)[:2], tokens(4)[:2]
    expected = F.scaled_dot_product_attention(q, k, v)
    with torch.inference_mode():
        assert torch.equal(attend(q, k, v), expected)
        assert torch.equal(attend_fastest(q, k, v), expected)
    assert backends.CHOICES.chosen == before


def test_the_operation_keeps_what_it_promises_to_a_compiler() -> None:
    q, k, v = tokens(), tokens(3)[:2, :, :4], tokens(4)[:2, :, :4]
    torch.library.opcheck(attend_fastest, (q, k, v), test_utils=("test_schema", "test_faketensor"))
