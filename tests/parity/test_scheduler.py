"""Our scheduler gives the levels, timesteps and steps of diffusers' for any of its settings."""

from __future__ import annotations

import random
from typing import Any

import diffusers
import pytest
import torch

from stillmotion.diffusers_api import EulerDiscreteScheduler
from stillmotion.diffusion.sigmas import Karras, schedule

# numpy 2 warns of how diffusers hands it tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")

RELEASED = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "steps_offset": 1,
}
AYS = [700, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0]


def drawn_config(draw: random.Random) -> dict[str, Any]:
    spaced_by = draw.choice(["use_karras_sigmas", "use_exponential_sigmas", None])
    found = {
        "num_train_timesteps": draw.choice([100, 1000]),
        "beta_schedule": draw.choice(["linear", "scaled_linear", "squaredcos_cap_v2"]),
        "prediction_type": draw.choice(["epsilon", "sample", "v_prediction"]),
        "interpolation_type": draw.choice(["linear", "linear", "log_linear"]),
        "timestep_spacing": draw.choice(["linspace", "leading", "trailing"]),
        "timestep_type": draw.choice(["discrete", "continuous"]),
        "steps_offset": draw.choice([0, 1]),
        "rescale_betas_zero_snr": draw.random() < 0.3,
        "final_sigmas_type": draw.choice(["zero", "zero", "sigma_min"]),
    }
    if spaced_by is not None:
        found |= {spaced_by: True, "sigma_min": draw.choice([None, 0.002]), "sigma_max": draw.choice([None, 80.0])}
    return found


def compare_levels(name: str, ours: EulerDiscreteScheduler, theirs: diffusers.EulerDiscreteScheduler) -> None:
    assert len(ours.sigmas) == len(theirs.sigmas)
    torch.testing.assert_close(ours.sigmas, theirs.sigmas, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(torch.as_tensor(ours.init_noise_sigma), torch.as_tensor(theirs.init_noise_sigma))
    assert ours.num_inference_steps == theirs.num_inference_steps
    distance = (ours.sigmas - theirs.sigmas).abs() / theirs.sigmas.clamp(min=1e-6)
    print(f"PARITY scheduler {name}: levels differ by {distance.max().item():.1e} of themselves")


@pytest.mark.parametrize("seed", range(20))
def test_scheduler_equals_diffusers(seed):
    draw, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    config = RELEASED if seed < 4 else drawn_config(draw)
    ours, theirs = EulerDiscreteScheduler(**config), diffusers.EulerDiscreteScheduler(**config)
    compare_levels(f"{seed} before", ours, theirs)
    steps = [1, 2, 25, 30][seed] if seed < 4 else draw.randint(2, 40)
    ours.set_timesteps(steps)
    theirs.set_timesteps(steps)
    compare_levels(f"{seed} of {steps}", ours, theirs)
    x = y = torch.randn(2, 3, 4, 2, 2, generator=noise) * ours.init_noise_sigma
    churn = draw.choice([0.0, 0.0, 5.0])
    for t_ours, t_theirs in list(zip(ours.timesteps, theirs.timesteps, strict=True))[:6]:
        torch.testing.assert_close(ours.scale_model_input(x, t_ours), theirs.scale_model_input(y, t_theirs))
        output = torch.randn(x.shape, generator=noise)
        generators = [torch.Generator().manual_seed(3) for _ in range(2)]
        mine = ours.step(output, t_ours, x, s_churn=churn, s_noise=1.1, generator=generators[0])
        other = theirs.step(output, t_theirs, y, s_churn=churn, s_noise=1.1, generator=generators[1])
        torch.testing.assert_close(mine.prev_sample, other.prev_sample, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mine.pred_original_sample, other.pred_original_sample, rtol=1e-5, atol=1e-4)
        x, y = mine.prev_sample, other.prev_sample
    assert ours.step_index == theirs.step_index


@pytest.mark.parametrize("levels", [AYS, [700.0, 10.0, 1.0], [5.0, 0.0]])
def test_given_sigmas_are_taken_as_they_are(levels):
    ours, theirs = EulerDiscreteScheduler(**RELEASED), diffusers.EulerDiscreteScheduler(**RELEASED)
    ours.set_timesteps(sigmas=levels)
    theirs.set_timesteps(sigmas=levels)
    compare_levels("given", ours, theirs)
    assert ours.sigmas.tolist() == pytest.approx(levels)


def test_given_timesteps_equal_diffusers():
    ours, theirs = EulerDiscreteScheduler(), diffusers.EulerDiscreteScheduler()
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(timesteps=[999, 500, 100, 3])
    compare_levels("timesteps", ours, theirs)


def test_noise_is_added_as_in_diffusers():
    ours, theirs = EulerDiscreteScheduler(**RELEASED), diffusers.EulerDiscreteScheduler(**RELEASED)
    draws = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 4, 3, 3, generator=draws) for _ in range(2))
    noised = []
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(10)
        noised.append(scheduler.add_noise(clean, noise, scheduler.timesteps[[2, 7]]))
    torch.testing.assert_close(*noised)


def test_released_levels_are_those_of_our_own_sampler():
    scheduler = EulerDiscreteScheduler(**RELEASED)
    scheduler.set_timesteps(25)
    torch.testing.assert_close(scheduler.sigmas, schedule(Karras(), 25), rtol=1e-6, atol=0)
