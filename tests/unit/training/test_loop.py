"""A run that is killed and started again ends with the same weights, averages and moments."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stillmotion.errors import Cancelled, TrainingError
from stillmotion.events import Progress
from stillmotion.training.config import (
    AutoencoderTraining,
    LoopConfig,
    OptimizerConfig,
    VideoTraining,
    settings_digest,
)
from stillmotion.training.ema import Ema
from stillmotion.training.loop import generator, train

CFG = LoopConfig(steps=11, save_every=3, log_every=4, optimizer=OptimizerConfig(lr=0.05, warmup_steps=3))


class Network(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, width), nn.Linear(width, 1)
        self.second.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).tanh())


def new_network(width: int = 4) -> Network:
    torch.manual_seed(0)
    return Network(width)


def run(folder: Path, cfg: LoopConfig = CFG, stop_after: int | None = None, width: int = 4) -> tuple[Network, Ema]:
    network = new_network(width)

    def loss(step: int) -> torch.Tensor:
        x = torch.randn(8, 3, generator=generator(cfg.seed, step))
        return (network(x) - x.sum(dim=1, keepdim=True)).square().mean()

    def watch(event: Progress) -> None:
        if event.done == stop_after:
            raise Cancelled("killed")

    return network, train(cfg, {"network": network}, loss, folder, watch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


@pytest.mark.parametrize("kills", [(1,), (3,), (4,), (10,), (2, 4, 7, 9)])
def test_a_killed_run_goes_on_to_the_same_bits(whole: Path, tmp_path: Path, kills: tuple[int, ...]) -> None:
    for kill in kills:
        with pytest.raises(Cancelled):
            run(tmp_path, stop_after=kill)
    network, ema = run(tmp_path)
    found, expected = load_file(tmp_path / "state.safetensors"), load_file(whole / "state.safetensors")
    assert found.keys() == expected.keys()
    assert {key.split(".")[0] for key in found} == {"weights", "averages", "moments"}
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, expected[f"weights.network.{name}"])
        assert torch.equal(ema.averages[f"network.{name}"], expected[f"averages.network.{name}"])


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"batch_size": 9}, {"precision": "bf16"}, {"optimizer": OptimizerConfig(lr=0.05, warmup_steps=4)}],
)
def test_a_run_does_not_go_on_with_other_settings(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(Cancelled):
        run(tmp_path, stop_after=4)
    before = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="begun with other settings"):
        run(tmp_path, dataclasses.replace(CFG, **changes))
    assert (tmp_path / "state.safetensors").read_bytes() == before
    run(tmp_path, dataclasses.replace(CFG, steps=6, save_every=1, log_every=1))


def test_the_settings_of_a_stage_count_too() -> None:
    loop = LoopConfig()
    stages = [None, AutoencoderTraining(), AutoencoderTraining(kl_weight=1.0), VideoTraining(), VideoTraining(clips=9)]
    assert len({settings_digest(loop, stage) for stage in stages}) == len(stages)
    long = dataclasses.replace(loop, steps=9, save_every=9, log_every=9)
    assert settings_digest(long, VideoTraining(loop=long)) == settings_digest(loop, VideoTraining())


def test_a_finished_run_does_nothing_more(whole: Path) -> None:
    before = (whole / "state.safetensors").read_bytes()
    network, _ = run(whole, stop_after=1)
    assert (whole / "state.safetensors").read_bytes() == before
    assert not torch.equal(network.first.weight, new_network().first.weight)


def test_it_learns_what_may_be_learnt_and_leaves_the_rest(whole: Path) -> None:
    state, fresh = load_file(whole / "state.safetensors"), new_network()
    assert torch.equal(state["weights.network.second.bias"], fresh.second.bias)
    assert not torch.equal(state["weights.network.first.weight"], fresh.first.weight)
    assert not torch.equal(state["averages.network.first.weight"], state["weights.network.first.weight"])


def test_the_log_is_one_json_line_every_few_steps_and_at_the_end(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 11]
    assert lines[-1]["loss"] < lines[0]["loss"] and all(math.isfinite(line["norm"]) for line in lines)


def test_every_step_is_told(tmp_path: Path) -> None:
    events: list[Progress] = []
    network = new_network()
    cfg = LoopConfig(steps=3)
    train(cfg, {"network": network}, lambda step: network(torch.ones(1, 3)).sum(), tmp_path, events.append)
    assert events == [Progress("train", done, 3) for done in (1, 2, 3)]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_state(tmp_path: Path) -> None:
    network = new_network()

    def loss(step: int) -> torch.Tensor:
        return network(torch.ones(1, 3)).sum() * (float("nan") if step == 4 else 1.0)

    with pytest.raises(TrainingError, match="step 4 is nan"):
        train(CFG, {"network": network}, loss, tmp_path)
    assert all(value.isfinite().all() for value in load_file(tmp_path / "state.safetensors").values())
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_the_random_numbers_of_steps_seeds_and_streams_differ() -> None:
    draws = {
        torch.rand(1, generator=generator(seed, step, stream)).item()
        for seed in range(5)
        for step in range(20)
        for stream in range(4)
    }
    assert len(draws) == 400
    assert torch.equal(torch.rand(3, generator=generator(1, 2, 3)), torch.rand(3, generator=generator(1, 2, 3)))
