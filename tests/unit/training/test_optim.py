"""The rate over a run, and which weights decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stillmotion.training.config import OptimizerConfig
from stillmotion.training.ema import Ema
from stillmotion.training.optim import adamw, learning_rate


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    cfg = OptimizerConfig(lr=2.0, warmup_steps=4, descent=0.5)
    rates = [learning_rate(cfg, step, 20) for step in range(20)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0] and rates[4:11] == [2.0] * 7
    assert rates[10:] == pytest.approx([2.0 * (20 - step) / 10 for step in range(10, 20)])
    assert learning_rate(cfg, 20, 20) == 0


def test_no_warm_up_and_no_descent() -> None:
    cfg = OptimizerConfig(lr=2.0, warmup_steps=0, descent=0.0)
    assert [learning_rate(cfg, step, 5) for step in range(5)] == [2.0] * 5


def test_matrices_decay_and_vectors_do_not() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.GroupNorm(1, 3), nn.Linear(3, 4))
    network[2].bias.requires_grad_(False)
    optimizer = adamw(OptimizerConfig(weight_decay=0.3, betas=(0.8, 0.95)), [network])
    decaying, others = optimizer.param_groups
    assert decaying["weight_decay"] == 0.3 and others["weight_decay"] == 0
    assert {id(p) for p in decaying["params"]} == {id(network[0].weight), id(network[2].weight)}
    assert {id(p) for p in others["params"]} == {id(network[0].bias), id(network[1].weight), id(network[1].bias)}
    assert decaying["betas"] == (0.8, 0.95)


def test_averages_move_faster_in_the_first_steps() -> None:
    network = nn.Linear(1, 1)
    with torch.no_grad():
        network.weight.fill_(0)
    ema = Ema({"n": network}, decay=0.9)
    with torch.no_grad():
        network.weight.fill_(1)
    ema.update({"n": network}, 0)
    assert ema.averages["n.weight"].item() == pytest.approx(0.9)  # decay 1 / 10
    ema.update({"n": network}, 10_000)
    assert ema.averages["n.weight"].item() == pytest.approx(0.9 * 0.9 + 0.1)
    assert not ema.averages["n.weight"].requires_grad and network.weight.item() == 1
