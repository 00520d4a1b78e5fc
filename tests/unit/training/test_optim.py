"""The rate over a run, and which weights decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stillmotion.training.config import OptimizerConfig
from stillmotion.training.ema import Ema
from stillmotion.training.optim import Muon, learning_rate, optimizer_of, orthogonalized


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
    optimizer = optimizer_of(OptimizerConfig(weight_decay=0.3, betas=(0.8, 0.95)), [network])
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


def test_orthogonal_matrices_keep_their_directions_and_lose_their_lengths() -> None:
    torch.manual_seed(0)
    for shape in ((3, 40, 64), (2, 64, 40)):
        matrices = torch.randn(shape)
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        found = orthogonalized(matrices)
        along = torch.einsum("nrk,nrc,nkc->nk", u, found.float(), v)
        assert found.shape == shape and along.min() > 0.3 and along.max() < 1.4
        rest = found.float() - u @ torch.diag_embed(along) @ v
        assert rest.norm() < 0.1 * found.float().norm()


def test_muon_moves_matrices_by_one_length_and_the_rest_as_adamw_does() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(32, 48, 3), nn.GroupNorm(4, 48), nn.Conv2d(48, 3, 1))
    twin = nn.Sequential(nn.Conv2d(32, 48, 3), nn.GroupNorm(4, 48), nn.Conv2d(48, 3, 1))
    twin.load_state_dict(network.state_dict())
    cfg = OptimizerConfig(kind="muon", lr=1e-2, weight_decay=0.0)
    muon, adamw = optimizer_of(cfg, [network]), optimizer_of(OptimizerConfig(lr=1e-2, weight_decay=0.0), [twin])
    assert isinstance(muon, Muon) and [len(group["params"]) for group in muon.param_groups] == [1, 4, 1]
    before = network[0].weight.detach().clone()
    image = torch.randn(2, 32, 8, 8)
    for trained, optimizer in ((network, muon), (twin, adamw)):
        trained(image).square().mean().backward()
        optimizer.step()
    moved = (network[0].weight - before).square().mean().sqrt().item()
    # 0.2 for square matrices of all directions; a wide one has the shorter side's share of them.
    assert moved == pytest.approx(1e-2 * 0.2, rel=0.2)
    for mine, others in zip(list(network.parameters())[1:], list(twin.parameters())[1:], strict=True):
        assert torch.equal(mine, others)
    assert not torch.equal(network[0].weight, twin[0].weight)
