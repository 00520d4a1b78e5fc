"""doctor: what is found is said, what is broken ends with 1, and nobody is asked while the hub is switched off."""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from stillmotion.checkpoints.load import load, save
from stillmotion.cli import main
from stillmotion.placement import Placement
from stillmotion.presets import TINY
from stillmotion.tasks import doctor as module
from stillmotion.tasks.doctor import Diagnosis, DoctorSettings, ask, doctor
from stillmotion.tasks.machine import Accelerator, Machine, look

pytestmark = pytest.mark.slow  # the whole file takes many seconds

CPU = Machine(
    processor="a processor",
    cores=2,
    threads=2,
    features=("avx2",),
    without_kernels="not built for this system",
    memory_bytes=8 * 10**9,
    memory_free_bytes=6 * 10**9,
    accelerators=(),
    placement=Placement(device="cpu", dtype="bfloat16"),
    operations_per_s=1e12,
)
SMALL_GPU = dataclasses.replace(
    CPU,
    accelerators=(Accelerator("cuda:0", "a card", 4 * 10**9, 3 * 10**9, "8.6"),),
    placement=Placement(device="cuda", dtype="float16"),
)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, with the hub switched off, in a folder of one's own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the embedded model, and a large one with its shapes: counting the released ones takes seconds."""
    large = dataclasses.replace(TINY, name="large", hub_id="owner/name")
    monkeypatch.setattr(module, "PRESETS", {"tiny": TINY, "large": large})


def never(address: str) -> str:
    raise AssertionError(f"{address} was asked")


def found(machine: Machine = CPU, **given: Any) -> Diagnosis:
    return doctor(DoctorSettings(**given), lambda: machine, never)


def test_this_machine_is_whole() -> None:
    report = doctor(DoctorSettings(), look, never)
    assert report.failures == () and set(report.codecs.values()) == {None}
    assert report.machine.memory_bytes >= report.machine.memory_free_bytes > 0
    assert report.machine.operations_per_s > 1e8 and report.versions["torch"] is not None
    assert report.models[0].weights == "package" and report.models[0].seconds > 0


def test_nobody_is_asked_while_the_hub_is_switched_off() -> None:
    report = found()
    assert report.hub.reachable is None and "HF_HUB_OFFLINE" in report.hub.reason
    assert report.failures == () and any("large cannot be fetched now" in line for line in report.advice)
    assert "the hub cannot be used" in found(online=True).failures[0]


def test_a_hub_that_answers_and_one_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for reason, failures in (("", 0), ("no route to host", 1)):
        report = doctor(DoctorSettings(online=True), lambda: CPU, lambda address, said=reason: said)
        assert (report.hub.reachable, len(report.failures)) == (not reason, failures)


def test_a_silent_server_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HUB_WAIT_S", 0.3)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        start = time.monotonic()
        assert ask(f"http://127.0.0.1:{server.getsockname()[1]}") != ""
        assert time.monotonic() - start < 3
    assert ask("file:///etc/passwd") == "file:///etc/passwd is no http address"


def test_what_fits_where(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = found(SMALL_GPU).models[0]
    assert [each.fits for each in found().models] == ["whole", "whole"]
    assert whole.video == "14 frames of 128x80" and whole.peak_bytes > whole.weight_bytes
    # A tenth of what is free is left to others.
    card = dataclasses.replace(SMALL_GPU.accelerators[0], free_bytes=int(whole.peak_bytes / 0.9) - 1)
    planned = found(dataclasses.replace(SMALL_GPU, accelerators=(card,))).models[0]
    assert planned.fits == "planned" and planned.device == "cuda" and planned.plan != whole.plan
    assert planned.peak_bytes < whole.peak_bytes
    short = found(dataclasses.replace(CPU, memory_free_bytes=10**6))
    assert short.models[0].fits == "no" and any("tiny needs" in line for line in short.advice)
    assert found(dataclasses.replace(CPU, operations_per_s=2e12)).models[0].seconds == pytest.approx(
        found().models[0].seconds / 2
    )


def test_weights_are_found_in_the_cache(monkeypatch: pytest.MonkeyPatch, offline: Path) -> None:
    monkeypatch.setattr("stillmotion.checkpoints.load.PRESETS", module.PRESETS)
    assert found().models[1].weights == "missing"
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = offline / "hub" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    save(load("tiny").components, TINY, repository / "snapshots" / commit, "diffusers", variant="fp16")
    report = found()
    assert report.models[1].weights == "cache (fp16)" and report.hub.cache_bytes > 20_000_000
    assert not any("cannot be fetched" in line for line in report.advice)


def test_what_is_broken_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "read_versions", lambda: {"torch": "1.9.1+cpu", "av": None, "numpy": "2.10.0"})
    monkeypatch.setattr(module, "encoders", lambda: {"h264": "Encoder not found", "av1": "no"})
    monkeypatch.setattr(module, "disk_of", lambda purpose, path: module.Disk(purpose, str(path), 1, False))
    report = found()
    said = " ".join(report.failures)
    assert "torch is 1.9.1+cpu" in said and "av is missing" in said and "numpy" not in said
    assert "H.264" in said and "outputs cannot be written to" in said
    advice = " ".join(report.advice)
    assert "av1" in advice and "set HF_HOME" in advice and "0.0 GB free" in advice


def test_the_command_prints_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "everything needed works" in capsys.readouterr().out
    assert main(["doctor", "--json", "--online"]) == 1
    tree = json.loads(capsys.readouterr().out)
    assert tree["machine"]["placement"]["device"] and tree["failures"]
