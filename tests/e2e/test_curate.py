"""`stillmotion curate` as a person runs it: killed, stopped, on several workers, on Ray."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stillmotion.cli import main
from stillmotion.curation.manifest import read_manifest
from stillmotion.media.formats import Encoding
from stillmotion.media.video import write_video

SETTINGS = ("--set", "curation.clips.min_s=1", "--set", "curation.clips.max_s=2", "--set", "view.rules=[]")
RESULTS = ("manifest.parquet", "videos.parquet", "failures.parquet", "report.html", "shards", "views")
FPS, FRAMES = 25, 80


def make_films(folder: Path) -> Path:
    """Six short films and an empty file."""
    for seed in range(6):
        texture = np.random.default_rng(seed).integers(0, 255, (24, 40, 3), np.uint8).repeat(6, 0).repeat(6, 1)
        frames = np.stack([np.roll(texture, number * (1 + seed), axis=1) for number in range(FRAMES)])
        write_video(folder / f"film {seed}.mp4", frames, FPS, Encoding(quality=60))
    (folder / "empty.mp4").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_films(tmp_path_factory.mktemp("films"))


def command(films: Path, output: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "stillmotion", "curate", "run", str(films), str(output), *SETTINGS, *more]


def contents(output: Path) -> dict[str, bytes]:
    found = [path for name in RESULTS for path in (output / name, *(output / name).rglob("*"))]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in sorted(found) if path.is_file()}


def uninterrupted(films: Path, output: Path) -> tuple[dict[str, bytes], str, float]:
    """What an uninterrupted run gives, its hash, and how long it takes."""
    started = time.monotonic()
    result = subprocess.run(command(films, output, "--workers", "1", "--json"), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return contents(output), json.loads(result.stdout)["hash"], time.monotonic() - started


@pytest.fixture(scope="module")
def whole(films: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], str, float]:
    return uninterrupted(films, tmp_path_factory.mktemp("whole") / "set")


def finished(output: Path) -> set[tuple[str, str, int]]:
    """Every result that is there, with the time at which it was made."""
    found = (output / "work").glob("*/??/*")
    return {(path.parts[-3], path.name, path.stat().st_mtime_ns) for path in found if path.name[0] != "."}


def killed(films: Path, output: Path, seconds: float, workers: int) -> bool:
    """Run, and kill every process of the run after a while; whether it was still at work."""
    process = subprocess.Popen(
        command(films, output, "--workers", str(workers)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def kill_and_resume(
    films: Path, whole: tuple[dict[str, bytes], str, float], folder: Path, kills: int, seed: int = 0
) -> Iterator[int]:
    """Kill runs at random moments, then let one end; yields the number of results redone after each kill.

    The results of a video that was at work are redone, and no others: what was there is as it was.
    """
    draw = random.Random(seed)
    output, workers = folder / "set", 2
    while kills:
        before = finished(output)
        if not killed(films, output, draw.uniform(0.2, 1.0) * whole[2], workers):
            shutil.rmtree(output)  # it had ended
            continue
        kills -= 1
        yield len(before - finished(output))
    result = subprocess.run(command(films, output, "--workers", str(workers)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert contents(output) == whole[0]


@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_bytes(
    films: Path, whole: tuple[dict[str, bytes], str, float], tmp_path: Path
) -> None:
    assert all(redone == 0 for redone in kill_and_resume(films, whole, tmp_path, 3))


@pytest.mark.slow
def test_one_worker_or_ray_have_the_same_hash(
    films: Path, whole: tuple[dict[str, bytes], str, float], tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    output = tmp_path / "set"
    environment = os.environ | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    result = subprocess.run(
        command(films, output, "--engine", "ray", "--workers", "2", "--json"),
        capture_output=True,
        text=True,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["hash"] == whole[1]
    assert contents(output) == whole[0]


def heeding_ctrl_c() -> None:
    """In a child: a shell that starts the tests in its background has the signal ignored in all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_the_next_run_goes_on(
    films: Path, whole: tuple[dict[str, bytes], str, float], tmp_path: Path
) -> None:
    output = tmp_path / "set"
    process = subprocess.Popen(
        command(films, output, "--workers", "2"), stderr=subprocess.PIPE, text=True, preexec_fn=heeding_ctrl_c
    )
    deadline = time.monotonic() + 120
    while not list((output / "work").glob("scan/??/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.strip().splitlines()[-1].startswith("Stopped")
    assert "Traceback" not in said
    result = subprocess.run(command(films, output, "--workers", "1"), capture_output=True, text=True)
    assert result.returncode == 0 and contents(output) == whole[0]


def test_the_commands_of_a_folder(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "set"
    few = tmp_path / "list.txt"
    few.write_text("\n".join(str(films / f"film {seed}.mp4") for seed in (0, 1)))
    assert main(["curate", "run", str(few), str(output), *SETTINGS, "--workers", "0", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["videos"] == 2 and summary["kept"] == summary["clips"] >= 2
    assert main(["curate", "status", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 2
    assert main(["curate", "filter", str(output), "--drop", "bytes=low:0.5", "--name", "half"]) == 0
    assert "clips kept (50" in capsys.readouterr().out
    assert len(read_manifest(output / "views" / "half" / "manifest.parquet").rows) == summary["clips"] // 2
    assert main(["curate", "report", str(output), "--view", "half"]) == 0
    assert capsys.readouterr().out.strip() == str(output / "report.html")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run", "nowhere", "out"), 2, "does not exist"),
        (("status", "nowhere"), 1, "no curated folder"),
        (("filter", "nowhere"), 1, "no curated folder"),
        (("report", "nowhere"), 1, "no curated folder"),
        (("run", ".", "out", "--workers", "many"), 2, "workers"),
        (("run", ".", "out", "--set", "curation.nothing=1"), 2, "nothing"),
    ],
)
def test_what_cannot_be_ends_with_a_sentence(
    arguments: tuple[str, ...],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["curate", *arguments]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
