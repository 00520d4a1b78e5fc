"""Noise levels against published numbers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from stillmotion.config import parse
from stillmotion.diffusion.sigmas import (
    AYS_SVD,
    DDPM,
    AlignYourSteps,
    Karras,
    Levels,
    check_levels,
    ddpm_table,
    draw_log_normal,
    schedule,
)
from stillmotion.errors import ConfigError, UsageError

# Recorded from diffusers' scheduler for SVD's 25 steps.
KARRAS_25 = (
    700.0, 545.7292, 421.5691, 322.4537, 244.0231, 182.5471, 134.8544, 98.2671, 70.5408, 49.8098, 34.5367, 23.4675,
    15.5900, 10.0971, 6.35427, 3.86970, 2.26912, 1.273177, 0.678146, 0.339378, 0.157405, 0.066399, 0.0248026, 0.0078825,
    0.002, 0.0,
)  # fmt: skip
KINDS = (Karras(), AlignYourSteps(), DDPM())


def test_the_25_levels_of_stable_video_diffusion() -> None:
    torch.testing.assert_close(schedule(Karras(), 25), torch.tensor(KARRAS_25), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11, 25, 1000])
def test_every_schedule_falls_strictly_to_zero(kind: Karras | AlignYourSteps | DDPM, steps: int) -> None:
    levels = schedule(kind, steps)
    assert levels.shape == (steps + 1,) and levels.dtype == torch.float32
    assert levels[-1] == 0 and levels[-2] > 0 and bool((levels.diff() < 0).all())


def test_one_step_starts_at_the_first_level() -> None:
    assert schedule(Karras(), 1).tolist() == [700, 0]
    assert schedule(AlignYourSteps(), 1).tolist() == [700, 0]


def test_align_your_steps_is_the_published_list_and_log_linear_between() -> None:
    assert AYS_SVD == (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)
    torch.testing.assert_close(schedule(AlignYourSteps(), 10)[:-1], torch.tensor(AYS_SVD[:-1]), rtol=1e-7, atol=0)
    between = schedule(AlignYourSteps(), 20)[:-1]
    torch.testing.assert_close(between[::2], torch.tensor(AYS_SVD[:-1]))
    means = [math.sqrt(a * b) for a, b in itertools.pairwise(AYS_SVD)]
    torch.testing.assert_close(between[1::2], torch.tensor(means))


def test_the_training_levels_of_stable_diffusion() -> None:
    table = ddpm_table()
    assert len(table) == 1000 and bool((table.diff() > 0).all())
    assert table[0].item() == pytest.approx(0.0292, abs=5e-5) and table[-1].item() == pytest.approx(14.6146, abs=5e-5)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)
    np.testing.assert_allclose(table.numpy(), np.sqrt((1 - kept) / kept), rtol=1e-12)


def test_the_indices_are_even_and_without_the_end() -> None:
    """Source: sgm's generate_roughly_equally_spaced_steps."""
    table = ddpm_table()
    for steps in range(1, 1001):
        indices = np.linspace(999, 0, steps, endpoint=False).astype(int)
        expected = torch.cat([table[torch.from_numpy(indices)], torch.zeros(1)])
        torch.testing.assert_close(schedule(DDPM(), steps), expected.float(), rtol=0, atol=0, msg=f"{steps} steps")


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_an_impossible_count_is_refused(steps: int) -> None:
    with pytest.raises(UsageError, match=f"steps is {steps}; expected 1 to 1000"):
        schedule(Karras(), steps)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma_min": 0.0},
        {"sigma_min": -1.0},
        {"sigma_min": 2.0, "sigma_max": 1.0},
        {"sigma_max": math.inf},
        {"sigma_max": math.nan},
        {"rho": 0.0},
        {"rho": math.nan},
        {"rho": math.inf},
    ],
)
def test_an_impossible_karras_schedule_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected finite positive"):
        Karras(**wrong)


def test_given_levels_bring_their_count_and_their_last_zero() -> None:
    assert schedule(Levels(values=(5.0, 1.0)), 25).tolist() == [5, 1, 0]
    assert schedule(Levels(values=(5.0, 1.0, 0.0)), 25).tolist() == [5, 1, 0]
    assert schedule(Levels(values=(5.0,)), 25).tolist() == [5, 0]


@pytest.mark.parametrize(
    "values", [(), (0.0,), (1.0, 1.0), (1.0, 2.0), (1.0, -1.0), (math.nan,), (math.inf, 1.0), (1.0, 0.0, 0.0)]
)
def test_levels_that_do_not_fall_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="strictly falling"):
        check_levels(values)
    with pytest.raises(ConfigError):
        parse(Levels, {"values": list(values)})


def test_training_draws_are_normal_in_the_logarithm() -> None:
    draws = torch.tensor([-1.0, 0.0, 2.0])
    torch.testing.assert_close(draw_log_normal(0.7, 1.6, draws).log(), 0.7 + 1.6 * draws)


@pytest.mark.parametrize("values", [(1e20, 1.0), (math.inf, 1.0), (math.nan, 1.0)])
def test_levels_whose_square_is_no_float32_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="sigmas"):
        Levels(values=values)
