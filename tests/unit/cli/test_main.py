"""The command table: what is imported when, and Ctrl-C while it is."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

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
