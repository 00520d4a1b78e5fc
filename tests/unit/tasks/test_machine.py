"""What of the machine may be used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stillmotion.tasks import machine


@pytest.mark.parametrize(
    ("said", "cores"),
    [(("200000 100000\n",), 2), (("150000 100000",), 2), (("10000 100000",), 1), (("max 100000",), 8), ((), 8)],
)
def test_a_container_s_quota_limits_the_cores(
    said: tuple[str, ...], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in said:
        (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(machine, "CGROUP_QUOTAS", (str(tmp_path / "cpu.max"),))
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine.sys, "platform", "linux")
    assert machine.usable_cores() == cores


def test_a_quota_in_two_files_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quota").write_text("100000\n")
    (tmp_path / "period").write_text("100000\n")
    monkeypatch.setattr(machine, "CGROUP_QUOTAS", (f"{tmp_path}/quota {tmp_path}/period",))
    assert machine.usable_cores() == 1


def test_torch_gets_no_more_threads_than_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(machine, "usable_cores", lambda: 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    machine.compute_on_usable_cores()
    monkeypatch.delenv("OMP_NUM_THREADS")
    machine.compute_on_usable_cores()
    assert given == [3]
