"""The whole program on tiny shapes: both sides give the same results, and every row of both suites is measured."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# numpy 2 warns of how diffusers hands it tensors.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers"),
]
# Those that need a process for each side.
WITH_CHILDREN = {
    "memory-of-decode",
    "memory-of-video-float32",
    "memory-of-video-bfloat16",
    "memory-of-video",
    "start-up",
}


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """The program; importing it imports diffusers."""
    return importlib.import_module("bench")


def rows_of(bench: ModuleType, suite: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The experiments of a suite that run in this process."""
    assert bench.main(["--suite", suite, "--device", "cpu", "--list", "--results", str(folder)]) == 0
    names = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert set(names) & WITH_CHILDREN
    return [name for name in names if name not in WITH_CHILDREN]


def stored(folder: Path) -> dict[str, dict[str, Any]]:
    (path,) = folder.glob("*-small/bench.json")
    return json.loads(path.read_text())["rows"]


# The gpu suite compiles, and the compiler warns of its own insides.
GPU = pytest.param("gpu", marks=pytest.mark.filterwarnings("ignore"))


@pytest.mark.parametrize("suite", ["cpu", GPU])
def test_every_row_of_one_process_runs(
    suite: str,
    bench: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench.machine, "source_digest", lambda small: "the same")
    names = rows_of(bench, suite, tmp_path, capsys)
    asked = ["--suite", suite, "--device", "cpu", "--small", "--results", str(tmp_path), "--rows", ",".join(names)]
    status, said = bench.main(asked), capsys.readouterr().out
    assert "failed" not in said
    assert status == 0
    rows = stored(tmp_path)
    for name, row in rows.items():
        assert row["ours"] is not None and row["value"] is not None, name
        near = row["details"].get("distance")
        assert near is None or near < (1e-4 if "float32" in name else 0.5), name
        assert row["details"].get("psnr_db") is None or row["details"]["psnr_db"] > 30, name
    assert bench.main(asked) == 0
    assert capsys.readouterr().out.count("(stored)") == len(rows)


def test_one_side_alone_in_a_process_of_its_own(bench: ModuleType, tmp_path: Path) -> None:
    asked = ["--small", "--results", str(tmp_path), "--rows", "memory-of-decode"]
    assert bench.main(asked) == 0
    row = stored(tmp_path)["decode-memory"]
    assert 0 < row["ours"] < 1 and 0 < row["peer"] < 1  # GB


@pytest.mark.parametrize(
    "asked", [["--rows", "nothing"], ["--rows", ","], ["--device", "nowhere"], ["--device", "meta", "--suite", "gpu"]]
)
def test_bad_requests_end_in_a_sentence(
    asked: list[str], bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main([*asked, "--small", "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().out
    assert said.startswith("error: ") and said.endswith(".\n") and said.count("\n") == 1


def test_a_page_of_no_figures_is_refused(bench: ModuleType, tmp_path: Path) -> None:
    assert bench.main(["--document", "--results", str(tmp_path), "--page", str(tmp_path / "page.md")]) == 2
    assert not (tmp_path / "page.md").exists()
