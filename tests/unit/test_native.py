"""Compiled loops: kept on disk where that is possible, and whole without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stillmotion import native as module
from stillmotion.errors import StillmotionError
from stillmotion.native import native

KERNEL = """
import sys
import numpy as np
from stillmotion.native import native

FACTOR = int(sys.argv[1])

@native("int64(int64[::1])")
def total(values):
    found = 0
    for value in values:
        found += doubled(value)
    return found

@native()
def doubled(value):
    return FACTOR * value

print(total(np.arange(5)))
"""


def run(folder: Path, factor: int = 2, **environment: str) -> subprocess.CompletedProcess[str]:
    source = Path(module.__file__).parents[1]
    given = {"PYTHONPATH": str(source), "PATH": "/usr/bin:/bin", "HOME": str(folder), **environment}
    command = [sys.executable, "-B", str(folder / "kernel.py"), str(factor)]
    return subprocess.run(command, env=given, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_what_was_compiled_is_kept(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(KERNEL)
    cache = tmp_path / "cache"
    for _ in range(2):
        found = run(tmp_path, NUMBA_CACHE_DIR=str(cache))
        assert (found.stdout, found.stderr) == ("20\n", "")
    assert len(list(cache.rglob("*.nbc"))) == 1  # the inner function is part of the outer
    # Numba itself would take the old one: the file is as old as it was.
    assert run(tmp_path, 3, NUMBA_CACHE_DIR=str(cache)).stdout == "30\n"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_what_a_power_failure_left_is_compiled_anew(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "kernel.py").write_text(KERNEL)
    cache = tmp_path / "cache"
    run(tmp_path, NUMBA_CACHE_DIR=str(cache))
    (kept,) = cache.rglob(f"*.{suffix}")
    kept.write_bytes(kept.read_bytes()[:20])
    for _ in range(2):
        found = run(tmp_path, NUMBA_CACHE_DIR=str(cache))
        assert (found.stdout, found.stderr) == ("20\n", "")
    assert len(list(cache.rglob("*_anew*.nbc"))) == 1


def test_a_folder_that_cannot_be_written_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(KERNEL)
    (tmp_path / "file").write_text("")
    found = run(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "file" / "below"))
    assert (found.stdout, found.stderr) == ("20\n", "")


def test_a_full_disk_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    numba = pytest.importorskip("numba")
    compiler = numba.njit

    def njit(*arguments: object, cache: bool = False, **named: object) -> object:
        if cache:
            raise OSError(28, "No space left on device")
        return compiler(*arguments, **named)

    monkeypatch.setattr(numba, "njit", njit)
    assert native("int64(int64)")(lambda value: value + 1)(4) == 5


def test_without_numba_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(StillmotionError, match=r"Numba is missing; expected .*pip install stillmotion\[curate\]"):
        native()(lambda value: value)(1)


def test_a_wrong_type_is_refused() -> None:
    kernel = native("int64(uint8[::1])")(lambda values: values[0])
    assert kernel(np.array([7], np.uint8)) == 7
    with pytest.raises(TypeError):
        kernel(np.array([7.5]))
