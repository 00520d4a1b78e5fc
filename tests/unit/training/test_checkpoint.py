"""The state of a run: whole, its own, or refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from stillmotion.errors import TrainingError
from stillmotion.training import checkpoint
from stillmotion.training.config import OptimizerConfig
from stillmotion.training.ema import Ema
from stillmotion.training.optim import optimizer_of


def parts(network: nn.Module) -> tuple[dict[str, nn.Module], Ema, torch.optim.AdamW]:
    modules = {"network": network}
    return modules, Ema(modules, 0.9), optimizer_of(OptimizerConfig(), modules.values())


def save(folder: Path, network: nn.Module, step: int = 7) -> None:
    modules, ema, optimizer = parts(network)
    sum(p.sum() for p in network.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    checkpoint.save(folder, step, modules, ema, optimizer)


def test_where_there_is_no_state_a_run_starts_at_zero(tmp_path: Path) -> None:
    assert checkpoint.restore(tmp_path, *parts(nn.Linear(2, 3))) == 0


def test_the_step_is_kept_beside_the_tensors(tmp_path: Path) -> None:
    save(tmp_path, nn.Linear(2, 3), step=123)
    assert checkpoint.saved_step(tmp_path / "state.safetensors") == 123
    assert checkpoint.restore(tmp_path, *parts(nn.Linear(2, 3))) == 123


@pytest.mark.parametrize(
    "other",
    [
        nn.Sequential(nn.Linear(2, 3)),
        nn.Linear(2, 4),
        nn.Linear(2, 3, bias=False),
        nn.Linear(1, 3),
        nn.ModuleDict({"weight": nn.Linear(2, 3)}),
    ],
    ids=["other names", "wider", "fewer tensors", "narrower", "nested"],
)
def test_the_state_of_another_model_is_refused_and_changes_nothing(tmp_path: Path, other: nn.Module) -> None:
    save(tmp_path, nn.Linear(2, 3))
    before = {name: p.clone() for name, p in other.named_parameters()}
    with pytest.raises(TrainingError, match=r"state\.safetensors .*expected this run's own"):
        checkpoint.restore(tmp_path, *parts(other))
    assert all(torch.equal(p, before[name]) for name, p in other.named_parameters())


def test_a_state_that_would_broadcast_is_refused(tmp_path: Path) -> None:
    save(tmp_path, nn.Linear(2, 1))
    with pytest.raises(TrainingError):
        checkpoint.restore(tmp_path, *parts(nn.Linear(2, 3)))


def test_the_averages_of_one_module(tmp_path: Path) -> None:
    network = nn.Linear(2, 3)
    first = network.weight.detach().clone()
    save(tmp_path, network)
    averages = checkpoint.averages(tmp_path, "network")
    assert averages.keys() == {"weight", "bias"} and torch.equal(averages["weight"], first)
    with pytest.raises(TrainingError, match="no averages of net;"):
        checkpoint.averages(tmp_path, "net")
    with pytest.raises(TrainingError, match="holds no training state"):
        checkpoint.averages(tmp_path / "absent", "network")


def test_a_damaged_state_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(TrainingError, match="cannot be read"):
        checkpoint.averages(tmp_path, "net")


def rewrite(folder: Path, metadata: dict[str, str] | None, drop: str = "", **more: torch.Tensor) -> None:
    path = folder / "state.safetensors"
    tensors = {key: value for key, value in load_file(path).items() if not drop or not key.startswith(drop)}
    save_file(tensors | {key.replace("__", "."): value for key, value in more.items()}, path, metadata)


@pytest.mark.parametrize(
    "metadata", [None, {}, {"steps": "3"}, {"step": "many"}, {"step": "{}"}, {"step": "-1"}, {"step": "1.5"}]
)
def test_a_state_that_does_not_say_its_step_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save(tmp_path, nn.Linear(2, 3))
    rewrite(tmp_path, metadata)
    with pytest.raises(TrainingError, match=r"of its steps; expected a number"):
        checkpoint.saved_step(tmp_path / "state.safetensors")
    with pytest.raises(TrainingError, match="of its steps"):
        checkpoint.restore(tmp_path, *parts(nn.Linear(2, 3)))


def test_missing_averages_and_odd_moments_are_refused_and_change_nothing(tmp_path: Path) -> None:
    odd = {"moments__9__exp_avg": torch.zeros(3, 2), "moments__x": torch.zeros(1), "moments__0__exp_avg": torch.ones(7)}
    for drop, more in [("averages.", {}), ("averages.network.bias", {}), *(("", {key: odd[key]}) for key in odd)]:
        save(tmp_path, nn.Linear(2, 3))
        rewrite(tmp_path, {"step": "7"}, drop, **more)
        network = nn.Linear(2, 3)
        before = network.weight.detach().clone()
        with pytest.raises(TrainingError, match="expected this run's own"):
            checkpoint.restore(tmp_path, *parts(network))
        assert torch.equal(network.weight, before), (drop, more)


def test_a_damaged_file_has_no_step(tmp_path: Path) -> None:
    for data in (b"", b"\x08\x00", b"\xff" * 20):
        (tmp_path / "state.safetensors").write_bytes(data)
        with pytest.raises(TrainingError, match="cannot be read"):
            checkpoint.saved_step(tmp_path / "state.safetensors")
    with pytest.raises(TrainingError, match="cannot be read"):
        checkpoint.saved_step(tmp_path / "absent.safetensors")


def test_other_settings_are_refused_and_a_state_without_them_is_taken(tmp_path: Path) -> None:
    modules, ema, optimizer = parts(nn.Linear(2, 3))
    checkpoint.save(tmp_path, 7, modules, ema, optimizer, "one")
    assert checkpoint.restore(tmp_path, modules, ema, optimizer, "one") == 7
    with pytest.raises(TrainingError, match=r"begun with other settings; expected the same"):
        checkpoint.restore(tmp_path, modules, ema, optimizer, "two")
    rewrite(tmp_path, {"step": "8"})
    assert checkpoint.restore(tmp_path, modules, ema, optimizer, "two") == 8


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_old_state_stays(tmp_path: Path) -> None:
    """In a child, whose files may not grow beyond a few kilobytes."""
    script = f"""
import resource, signal, torch
import subprocess
import sys
from pathlib import Path
from stillmotion.errors import StillmotionError
from stillmotion.training import checkpoint
from stillmotion.training.config import OptimizerConfig
from stillmotion.training.ema import Ema
from stillmotion.training.optim import optimizer_of
modules = {{"net": torch.nn.Linear(64, 64)}}
parts = modules, Ema(modules, 0.9), optimizer_of(OptimizerConfig(), modules.values())
checkpoint.save(Path({str(tmp_path)!r}), 1, *parts)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    checkpoint.save(Path({str(tmp_path)!r}), 2, *parts)
except StillmotionError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert "disk is full" in result.stdout, result.stderr
    assert checkpoint.saved_step(tmp_path / "state.safetensors") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
