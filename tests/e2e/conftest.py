"""The command line inside this process, for what a process of its own would not prove better."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from stillmotion.cli import main

Said = subprocess.CompletedProcess[str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs `stillmotion` with these arguments; what it returns and says is that of a process."""

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, said.out, said.err)

    return run
