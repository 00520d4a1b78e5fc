"""What the README and the pages of docs/ tell a reader to run, runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITHOUT_CODE = {"decisions.md", "gpu.md"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a reader runs once, on his own machine: such blocks are `console`.
NOT_HERE = re.compile(r"^\s*(make |pip install|git clone)", re.MULTILINE)
PAGE_SECONDS = 600


def blocks(page: Path, language: str) -> list[str]:
    """The code of one language on a page, block by block."""
    return [code for found, code in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def script(page: Path, language: str) -> str:
    """The page's code of one language as one program, each line at its own number in the page."""
    text = page.read_text(encoding="utf-8")
    lines = [""] * (text.count("\n") + 1)
    for block in FENCE.finditer(text):
        if block[1] == language:
            first = text.count("\n", 0, block.start(2))
            for number, line in enumerate(block[2].splitlines(), start=first):
                lines[number] = line
    return "\n".join(lines) + "\n"


def run(command: list[str], folder: Path) -> None:
    """Run a program as a reader would: beside examples/, with `stillmotion` on the path, and without a network."""
    (folder / "examples").symlink_to(ROOT / "examples")
    shim = folder / "bin" / "stillmotion"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m stillmotion "$@"\n')
    shim.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hub"),
    }
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PAGE_SECONDS, check=False
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"


def having(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_has_code_that_is_run(page: Path) -> None:
    found = [*blocks(page, "python"), *blocks(page, "bash")]
    assert found or page.name in WITHOUT_CODE, f"{page.name} has no block that a test runs"
    for code in found:
        assert not NOT_HERE.search(code), f"{page.name}: this block belongs under ```console:\n{code}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    languages = {language for language, _ in FENCE.findall(page.read_text(encoding="utf-8"))}
    assert languages <= {"python", "bash", "console", "text", "yaml"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.slow
@pytest.mark.parametrize("page", having("python"), ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    program = tmp_path / f"page_{page.stem}.py"  # a page may have the name of a module of Python's own
    program.write_text(script(page, "python"), encoding="utf-8")
    run([sys.executable, program.name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", having("bash"), ids=lambda page: page.name)
def test_the_bash_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    program = tmp_path / f"{page.stem}.sh"
    program.write_text("set -eo pipefail;" + script(page, "bash"), encoding="utf-8")
    run(["bash", program.name], tmp_path)
