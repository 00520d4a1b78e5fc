"""`stillmotion curate` as a person runs it: killed, stopped, on several workers, on Ray."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from stillmotion.cli import main
from stillmotion.curation.manifest import read_manifest
from stillmotion.media.formats import Encoding
from stillmotion.media.video import write_video

SETTINGS = ("--set", "curation.clips.min_s=1", "--set", "curation.clips.max_s=2", "--set", "view.rules=[]")
RESULTS = ("manifest.parquet", "videos.parquet", "failures.parquet", "report.html", "shards", "views")
FPS, FRAMES = 25, 80


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for seed in range(6):
        texture = np.random.default_rng(seed).integers(0, 255, (24, 40, 3), np.uint8).repeat(6, 0).repeat(6, 1)
        frames = np.stack([np.roll(texture, number * (1 + seed), axis=1) for number in range(FRAMES)])
        write_video(folder / f"film {seed}.mp4", frames, FPS, Encoding(quality=60))
    (folder / "empty.mp4").write_bytes(b"")
    return folder


def command(films: Path, output: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "stillmotion", "curate", "run", str(films), str(output), *SETTINGS, *more]


def contents(output: Path) -> dict[str, bytes]:
    found = [path for name in RESULTS for path in (output / name, *(output / name).rglob("*"))]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in sorted(found) if path.is_file()}


@pytest.fixture(scope="module")
def whole(films: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], str, float]:
    """What an uninterrupted run gives, its hash, and how long it takes."""
    output = tmp_path_factory.mktemp("whole") / "set"
    started = time.monotonic()
    result = subprocess.run(command(films, output, "--workers", "1", "--json"), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return contents(output), json.loads(result.stdout)["hash"], time.monotonic() - started


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


def kill_and_resume(films: Path, whole: tuple[dict[str, bytes], str, float], folder: Path, kills: int) -> Iterator[int]:
    """Kill runs at random moments, then let one end; yields the number of results redone after each kill.

    The results of a video that was at work are redone, and no others: what was there is as it was.
    """
    draw = random.Random(kills)
    output, workers = folder / "set", 2
    for _ in range(kills):
        before = finished(output)
        if not killed(films, output, draw.uniform(0.3, 1.0) * whole[2], workers):
            subprocess.run(["rm", "-r", str(output)], check=True)
            continue
        yield len(before - finished(output))
    result = subprocess.run(command(films, output, "--workers", str(workers)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert contents(output) == whole[0]


@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_bytes(
    films: Path, whole: tuple[dict[str, bytes], str, float], tmp_path: Path
) -> None:
    assert all(redone == 0 for redone in kill_and_resume(films, whole, tmp_path, 3))


@pytest.mark.figures
def test_fifty_kills(films: Path, whole: tuple[dict[str, bytes], str, float], tmp_path: Path) -> None:
    for number in range(10):
        assert all(redone == 0 for redone in kill_and_resume(films, whole, tmp_path / str(number), 5))


@pytest.mark.figures
def test_memory_does_not_grow_with_a_film(tmp_path: Path, record: Callable[[str, float, str], None]) -> None:
    texture = np.random.default_rng(1).integers(0, 255, (12, 16, 3), np.uint8).repeat(6, 0).repeat(6, 1)
    minute = tmp_path / "minute.mp4"
    write_video(minute, np.stack([np.roll(texture, number // 4, axis=1) for number in range(1500)]), FPS)
    film = tmp_path / "film.mkv"
    repeat(minute, film, 600)
    more = ("--workers", "0", "--set", "curation.clips.max_clips=20")
    process = subprocess.Popen(command(film, tmp_path / "set", *more), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    gigabytes = usage.ru_maxrss * 1024 / 1e9
    record("curation of a film of 10 hours: main memory of a worker, GB", gigabytes, "at most 1.5")
    assert gigabytes <= 1.5


def repeat(source: Path, target: Path, times: int) -> None:
    """The packets of a video over and over, as one long video."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        packets = [packet for packet in given.demux(stream) if packet.dts is not None]
        times_of = [(packet.pts or 0, packet.dts) for packet in packets]
        length = max(shown for shown, _ in times_of) + (packets[0].duration or 1)
        for number in range(times):
            for packet, (shown, decoded) in zip(packets, times_of, strict=True):
                packet.stream, packet.time_base = copy, stream.time_base
                packet.pts, packet.dts = shown + number * length, decoded + number * length
                made.mux(packet)


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


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_the_next_run_goes_on(
    films: Path, whole: tuple[dict[str, bytes], str, float], tmp_path: Path
) -> None:
    output = tmp_path / "set"
    process = subprocess.Popen(command(films, output, "--workers", "2"), stderr=subprocess.PIPE, text=True)
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
    assert main(["curate", "filter", str(output), "--drop", "bytes=0.5", "--name", "half"]) == 0
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
