"""The command table: what is imported when, and Ctrl-C while it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from stillmotion import cli

# What takes a second and more to import, and no generation needs.
HEAVY = ("transformers", "torch._dynamo", "sympy", "scipy")
ROCKET = Path(__file__).parents[3] / "examples" / "rocket.jpg"


def pressed(swallowed: bool) -> SimpleNamespace:
    """In place of importlib: an import during which Ctrl-C is pressed, and which may swallow it."""

    def import_module(name: str, package: str) -> object:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if not swallowed:
                raise
        return SimpleNamespace(app=None)

    return SimpleNamespace(import_module=import_module)


@pytest.fixture
def default_handler() -> object:
    """Python's own handler, which pytest has unless it was started in the background of a shell."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.mark.usefixtures("default_handler")
@pytest.mark.parametrize("swallowed", [False, True])
def test_ctrl_c_during_an_import_stops_whatever_the_import_makes_of_it(
    swallowed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "importlib", pressed(swallowed))
    assert cli.main(["generate", "--steps", "1000"]) == 130
    assert capsys.readouterr().err == "Stopped; nothing was left half-written.\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("default_handler")
def test_a_signal_that_is_ignored_stays_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with cli._heeding_ctrl_c():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_command_runs_in_a_thread_where_no_handler_can_be_set(capfd: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(cli.main(["generate", "--help"])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_generation_needs_nothing_heavy(tmp_path: Path) -> None:
    code = f"""
import sys
from stillmotion.cli import main
made = main(["generate", {str(ROCKET)!r}, "-o", {str(tmp_path / "a.mp4")!r}, "--steps", "1", "--frames", "2", "--json"])
sys.exit(made or ", ".join(name for name in {HEAVY} if name in sys.modules) or 0)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "x" * 300),
        ("generate", str(ROCKET), "--model", "x" * 300, "--dry-run"),
        ("generate", str(ROCKET), "--model", "./a.safetensors", "--config", "x" * 300, "--dry-run"),
        ("convert", "tiny", "x" * 300, "--to", "diffusers"),
        ("inspect", "x" * 300),
        ("repeat", "x" * 300),
        ("score", "x" * 300),
    ],
    ids=lambda arguments: " ".join(arguments)[:30],
)
def test_a_name_that_no_disk_takes_is_one_sentence(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and error.count("\n") == 1


def test_what_steers_a_terminal_is_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = {"schema": "stillmotion/recipe", "version": 1, "\x1b[2J\nError: all is well": 1}
    (tmp_path / "evil.json").write_text(json.dumps(document))
    assert cli.main(["repeat", str(tmp_path / "evil.json")]) == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_name_that_is_no_text_is_printed_all_the_same(tmp_path: Path) -> None:
    image = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Image.new("RGB", (64, 64)).save(os.fsdecode(image))
    quick = ("--steps", "1", "--frames", "1", "--size", "32x32", "--json", "-o", str(tmp_path / "out"))
    command = [sys.executable, "-m", "stillmotion", "generate", image, *quick]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"})
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["path"]).exists()


@pytest.mark.slow
def test_json_has_no_number_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", str(ROCKET), "--model", "svd", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert found["video"]["sampler"]["churn_max"] == "Infinity"
