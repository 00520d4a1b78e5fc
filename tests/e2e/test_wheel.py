"""What an installation gets: the built wheel has the model, the types and the licences, and no tests."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "stillmotion"


@pytest.mark.slow
def test_the_wheel_holds_the_package_the_embedded_model_and_the_licences(tmp_path: Path) -> None:
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *isolation, "-w", str(tmp_path), str(ROOT)]
    result = subprocess.run(build, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("stillmotion-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for path in (PACKAGE / "weights").rglob("*.safetensors"):
            assert archive.read(f"stillmotion/{path.relative_to(PACKAGE).as_posix()}") == path.read_bytes(), path
    for part in ("unet", "vae", "image_encoder", "image_decoder"):
        inside = [name for name in names if name.startswith(f"stillmotion/weights/tiny/{part}/")]
        assert {Path(name).suffix for name in inside} == {".safetensors", ".json"}, part
    sources = {f"stillmotion/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*.py")}
    assert sources <= names and "stillmotion/py.typed" in names
    beside = {name.partition(".dist-info/")[2] for name in names if ".dist-info/" in name}
    assert {"licenses/LICENSE", "licenses/NOTICE", "entry_points.txt", "METADATA"} <= beside
    # Nothing but the package and its description: no tests, docs or runs.
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"stillmotion"}
    assert not [name for name in names if "test" in name.lower() or "__pycache__" in name]
