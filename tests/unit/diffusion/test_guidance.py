"""The shapes of guidance by hand, and its algebra."""

from __future__ import annotations

import math

import pytest
import torch

from stillmotion.diffusion.guidance import Constant, Linear, Trapezoid, Triangle, Unguided, guided, scales
from stillmotion.errors import UsageError


def test_the_shapes() -> None:
    def of(cfg: Unguided | Constant | Linear | Triangle | Trapezoid, frames: int) -> list[float]:
        return [round(value, 5) for value in scales(cfg, frames).tolist()]

    assert of(Unguided(), 3) == [1, 1, 1]
    assert of(Constant(scale=3.5), 3) == [3.5] * 3
    assert of(Linear(low=1, high=3), 5) == [1, 1.5, 2, 2.5, 3]
    assert of(Linear(low=3, high=1), 3) == [3, 2, 1]
    assert of(Triangle(low=1, high=3), 5) == [1, 2, 3, 2, 1]
    assert of(Triangle(low=1, high=3, periods=2), 9) == [1, 2, 3, 2, 1, 2, 3, 2, 1]
    assert of(Trapezoid(low=1, high=3, edge=0.2), 11) == [1, 2, 3, 3, 3, 3, 3, 3, 3, 2, 1]
    assert of(Trapezoid(low=1, high=3, edge=0.5), 5) == [1, 2, 3, 2, 1]


@pytest.mark.parametrize("cfg", [Linear(low=1.5), Triangle(low=1.5), Trapezoid(low=1.5)])
def test_one_frame_gets_the_low_end(cfg: Linear | Triangle | Trapezoid) -> None:
    assert scales(cfg, 1).tolist() == [1.5]


def test_each_frame_moves_by_its_own_scale() -> None:
    base, towards = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)
    scale = torch.tensor([0.0, 1.0, 2.5])
    denoise = guided(lambda x, sigma: (towards, base), lambda x, sigma: pytest.fail("one branch is not enough"), scale)
    found = denoise(torch.zeros_like(base), torch.tensor(1.0))
    torch.testing.assert_close(found[:, 0], base[:, 0])
    torch.testing.assert_close(found[:, 1], towards[:, 1])
    torch.testing.assert_close(found[:, 2], 2.5 * towards[:, 2] - 1.5 * base[:, 2])


@pytest.mark.parametrize("cfg", [Unguided(), Constant(scale=1.0), Linear(low=1.0, high=1.0)])
def test_a_scale_of_one_everywhere_never_runs_the_unconditional_branch(cfg: Unguided | Constant | Linear) -> None:
    denoise = guided(lambda x, sigma: pytest.fail("not needed"), lambda x, sigma: x + sigma, scales(cfg, 4))
    assert denoise(torch.zeros(1, 4, 2), torch.tensor(3.0)).eq(3).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scales_that_are_no_numbers_are_refused(value: float) -> None:
    for make in (
        lambda: Constant(scale=value),
        lambda: Linear(low=value),
        lambda: Linear(high=value),
        lambda: Triangle(high=value),
        lambda: Trapezoid(low=value),
    ):
        with pytest.raises(UsageError, match=r"guidance is .*expected finite"):
            make()


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="0 periods"):
        Triangle(periods=0)
    for edge in (0.0, -0.1, 0.51, math.nan):
        with pytest.raises(UsageError, match="edge"):
            Trapezoid(edge=edge)
