"""The other commands, start-up times, and what a broken checkpoint says."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stillmotion.checkpoints.load import load as load_model
from stillmotion.cli import COMMANDS, main

from .test_generate import QUICK, ROCKET, Command, refused, stillmotion

WEIGHTS = Path(__file__).parents[2] / "src" / "stillmotion" / "weights" / "tiny"
GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def best_seconds(*command: str) -> float:
    """The shortest of five runs: what the program costs, not what else the machine does."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


def test_importing_the_package_is_quick() -> None:
    bare = best_seconds(sys.executable, "-c", "pass")
    seconds = best_seconds(sys.executable, "-c", "import stillmotion") - bare
    print(f"import stillmotion: {seconds:.3f} s")
    assert seconds <= 0.3


def test_help_is_quick_and_names_every_command() -> None:
    seconds = best_seconds(sys.executable, "-m", "stillmotion", "--help")
    print(f"stillmotion --help: {seconds:.3f} s")
    assert seconds <= 0.5
    shown = stillmotion("--help").stdout
    assert len(COMMANDS) >= 8 and all(command in shown for command in COMMANDS)


def test_every_command_explains_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        assert "--" in capsys.readouterr().out


def test_help_does_not_load_torch() -> None:
    code = "import sys; from stillmotion.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.slow
def test_convert_there_and_back_keeps_every_tensor(command: Command, tmp_path: Path) -> None:
    sgm, folder, again = tmp_path / "one.safetensors", tmp_path / "folder", tmp_path / "two.safetensors"
    golden = ("--config", str(GOLDEN / "svd_small.json"))
    source = str(GOLDEN / "svd_small.safetensors")
    for arguments in (
        (source, folder, "--to", "diffusers", *golden),
        (folder, sgm, "--to", "sgm"),
        (sgm, tmp_path / "folder2", "--to", "diffusers", "--config", folder),
        (tmp_path / "folder2", again, "--to", "sgm"),
    ):
        result = command("convert", *arguments)
        assert result.returncode == 0, result.stderr
    assert sgm.read_bytes() == again.read_bytes()
    refused(command("convert", folder, sgm, "--to", "sgm"), 2, "already exists")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["missing", "renamed", "shape", "cut", "pickle"])
def test_a_broken_checkpoint_says_what_is_wrong(fault: str, command: Command, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    tensors = load_file(GOLDEN / "svd_small.safetensors")
    key = "model.diffusion_model.input_blocks.0.0.weight"
    if fault == "missing":
        del tensors[key]
    elif fault == "renamed":
        tensors["model.diffusion_model.nowhere"] = tensors.pop(key)
    elif fault == "shape":
        tensors[key] = tensors[key][:, :4].contiguous()
    save_file(tensors, path)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif fault == "pickle":
        path.write_bytes(b"\x80\x04\x95" + bytes(100))
    options = ("--model", path, "--config", GOLDEN / "svd_small.json", "-o", tmp_path / "out", *QUICK)
    said = {"missing": key, "renamed": "nowhere", "shape": key, "cut": "is cut short", "pickle": "pickle"}[fault]
    refused(command("generate", ROCKET, *options), 1, said)
    assert list((tmp_path / "out").glob("*")) == []


@pytest.mark.slow
def test_a_hub_model_without_network_or_cache_says_where_to_put_it(tmp_path: Path) -> None:
    result = stillmotion(
        "generate",
        ROCKET,
        "--model",
        "svd-xt",
        "-o",
        tmp_path / "out",
        HF_HUB_OFFLINE="1",
        HF_HOME=str(tmp_path / "hf"),
    )
    refused(result, 1, "stabilityai/stable-video-diffusion-img2vid-xt")


@pytest.mark.slow
def test_the_single_file_of_the_original_generates(command: Command, tmp_path: Path) -> None:
    model = ("--model", GOLDEN / "svd_small.safetensors", "--config", GOLDEN / "svd_small.json")
    result = command("generate", ROCKET, *model, "-o", tmp_path / "out.mp4", *QUICK, "--decoder", "image")
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_train_tiny_trains_exports_and_generates(command: Command, tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text(
        "frames: {loop: {steps: 2, batch_size: 2, precision: float32}}\n"
        "clips: {loop: {steps: 1, batch_size: 1, precision: float32}, clip_frames: 2}\n"
        "video: {clips: 4, loop: {steps: 2, batch_size: 2, precision: float32}}\n"
    )
    run = ("train-tiny", tmp_path / "run", "--config", tmp_path / "short.yaml", "--export", tmp_path / "model")
    result = command(*run)
    assert result.returncode == 0, result.stderr
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25 * 2**20
    assert max(path.stat().st_size for path in files) <= 16 * 2**20
    result = command("generate", ROCKET, "--model", tmp_path / "model", "-o", tmp_path / "out.mp4", *QUICK)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_train_tiny_goes_on_from_a_model(command: Command, tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text(
        "video: {clips: 2, loop: {steps: 1, batch_size: 1, precision: float32, optimizer: {lr: 0.01, warmup_steps: 1}}}"
    )
    start = ("train-tiny", tmp_path / "run", "--config", tmp_path / "short.yaml", "--init", "tiny")
    result = command(*start, "--export", tmp_path / "model")
    assert result.returncode == 0, result.stderr
    before, after = load_model("tiny").components.networks(), load_model(tmp_path / "model").components.networks()
    are_equal = {
        name: all(map(torch.equal, before[name].state_dict().values(), network.state_dict().values()))
        for name, network in after.items()
    }
    assert are_equal == {"image_encoder": False, "autoencoder": True, "unet": False}
    assert (tmp_path / "model" / "motion_buckets.json").read_bytes() == (WEIGHTS / "motion_buckets.json").read_bytes()
    refused(command(*start, "--init", tmp_path / "nothing"), 2, "nothing")


def test_the_embedded_model_is_small_enough() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= 25 * 2**20
    assert max(path.stat().st_size for path in files) <= 16 * 2**20
