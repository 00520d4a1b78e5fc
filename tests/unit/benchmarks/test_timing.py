"""Turns, distances, rates and weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from suite import rates, timing
from torch import nn

from stillmotion.models.unet import UNet


def test_functions_take_turns_in_alternating_order() -> None:
    calls: list[str] = []
    functions = {name: lambda name=name: calls.append(name) for name in ("ours", "peer")}
    turns = timing.in_turns(functions, 3, "cpu")
    assert calls == ["peer", "ours", "ours", "peer", "peer", "ours", "ours", "peer"]
    assert all(len(each) == 3 for each in turns.seconds.values())


def test_the_median_and_the_worst_turn() -> None:
    turns = timing.Turns({"ours": [1.0, 2.0, 9.0], "peer": [3.0, 3.0, 9.0]})
    assert turns.median("ours") == 2.0
    assert turns.lowest_ratio("ours", "peer") == 1.0


def test_a_distance_is_in_deviations_of_the_peer() -> None:
    peer = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    assert timing.distance(peer + torch.tensor([0.0, 0.0, 0.0, 0.5]), peer) == pytest.approx(0.5 / peer.std().item())


def test_psnr_of_one_level_everywhere() -> None:
    black = np.zeros((2, 3, 4, 3), np.uint8)
    assert timing.psnr(black + np.uint8(1), black) == pytest.approx(20 * math.log10(255))
    assert timing.psnr(black, black) == math.inf


def test_the_best_rate_is_that_of_the_fastest_candidate_by_its_median(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = rates.Product("slow", 10.0, torch.Tensor), rates.Product("fast", 30.0, torch.Tensor)
    seconds = iter([1.0, 1.0, 1.0, 5.0, 1.0, 1.0])
    monkeypatch.setattr(rates, "seconds_of", lambda run, device: next(seconds))
    measured = rates.Rates([slow, fast], "cpu")
    for _ in range(3):
        measured.measure()
    assert measured.best() == (30.0, "fast")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_candidates_are_products_of_every_kind(dtype: torch.dtype) -> None:
    found = rates.products(dtype, "cpu", small=True)
    assert {each.name.split()[0] for each in found} == {"linear", "1x1", "3x3"}
    assert all(each.run().dtype == dtype for each in found)
    linear = next(each for each in found if each.name.startswith("linear"))
    assert linear.operations == 2 * 64 * 32 * 48 and linear.run().shape == (64, 48)


def test_weights_follow_their_names_and_none_is_trivial() -> None:
    networks = pytest.importorskip("suite.networks")
    preset = networks.PRESETS["small"]
    first, second = (networks.filled(lambda: UNet(preset.unet), torch.float32) for _ in range(2))
    for (name, mine), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, other) and not mine.requires_grad
        assert mine.abs().sum() > 0, name
    gains = [module.weight.mean().item() for module in first.modules() if isinstance(module, nn.GroupNorm)]
    assert 0.9 < sum(gains) / len(gains) < 1.1
