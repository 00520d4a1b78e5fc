"""Whether the compiled code is there, and what is said where it is not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stillmotion.kernels import library as module

ROOT = Path(__file__).parents[3]


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Asks again what is asked once in a process."""
    monkeypatch.setattr(module, "_load", module._load.__wrapped__)
    return monkeypatch


@pytest.mark.parametrize("word", ["off", "0", "no", "OFF"])
def test_it_can_be_switched_off(anew: pytest.MonkeyPatch, word: str) -> None:
    anew.setenv(module.SWITCH, word)
    assert module.absence() == "switched off by STILLMOTION_KERNELS"


def test_a_system_for_which_it_is_not_built(anew: pytest.MonkeyPatch, tmp_path: Path) -> None:
    anew.setattr(module, "PATH", tmp_path / "none.so")
    assert module.absence() == "not built for this system"


def test_another_processor(anew: pytest.MonkeyPatch, tmp_path: Path) -> None:
    anew.setattr(module, "PATH", tmp_path / "some.so")
    module.PATH.touch()
    anew.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": False})
    assert module.absence() == "the processor lacks AVX-512 with bfloat16"


def test_a_damaged_library(anew: pytest.MonkeyPatch, tmp_path: Path) -> None:
    anew.setattr(module, "PATH", tmp_path / "some.so")
    module.PATH.write_bytes(b"no library")
    anew.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(module.FEATURES, True))
    said = module.absence()
    assert said is not None and said.startswith("not loaded: ") and "\n" not in said


def test_without_it_torch_does_the_work() -> None:
    """In another process, since what was found is kept."""
    program = (
        "import torch\n"
        "from stillmotion.kernels import operations\n"
        "from stillmotion.nn.products import Product\n"
        "assert not operations.are_here()\n"
        "x, w = torch.ones(3, 8).bfloat16(), torch.ones(16, 8).bfloat16()\n"
        "assert Product(w, None, 3)(x).tolist() == [[8.0] * 16] * 3\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"STILLMOTION_KERNELS": "off"})


@pytest.mark.skipif(sys.platform != "linux", reason="built on Linux alone")
def test_the_library_is_that_of_the_sources(tmp_path: Path) -> None:
    """The pinned compiler gives the same bytes, so that a stale build is found."""
    if importlib.util.find_spec("ziglang") is None or not module.PATH.is_file():
        pytest.skip("the compiler is installed with the dev extra, on x86-64 alone")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    hatch_build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hatch_build)
    folder = tmp_path / hatch_build.FOLDER
    folder.mkdir(parents=True)
    for path in (*module.PATH.parent.glob("*.c"), *module.PATH.parent.glob("*.h")):
        (folder / path.name).write_bytes(path.read_bytes())
    hatch_build.build(tmp_path)
    assert (tmp_path / hatch_build.LIBRARY).read_bytes() == module.PATH.read_bytes()
    (folder / "team.c").write_text("not C")
    with pytest.raises(subprocess.CalledProcessError):
        hatch_build.build(tmp_path)
    assert [path.suffix for path in folder.iterdir() if path.suffix not in (".c", ".h")] == [".so"]
