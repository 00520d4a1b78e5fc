"""The loss and its weight."""

from __future__ import annotations

import torch

from stillmotion.diffusion.loss import denoising_loss, velocity_weight
from stillmotion.diffusion.precondition import VWithEDMNoise, scalings


def test_one_weight_a_sample() -> None:
    clean = torch.zeros(2, 3, 4)
    estimate = torch.stack([torch.full((3, 4), 1.0), torch.full((3, 4), 2.0)])
    assert denoising_loss(estimate, clean, torch.tensor([10.0, 0.5])).item() == (10 * 1 + 0.5 * 4) / 2


def test_the_weight_makes_the_loss_that_of_the_velocity() -> None:
    sigma = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    product = velocity_weight(sigma) * scalings(VWithEDMNoise(), sigma).c_out ** 2
    torch.testing.assert_close(product, torch.ones(3).double())
