"""Measured choices outlive the process, and no file can do harm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stillmotion.nn.backends import Choices
from stillmotion.tasks.kernels import choices_file, keep_choices, recall_choices


def fresh() -> Choices:
    return Choices(lambda run: 1.0)


def test_choices_come_back(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "choices.json"
    first, second = fresh(), fresh()
    first.remember({"a": "flash", "b": "default"})
    keep_choices(file, {}, first)
    recall_choices(file, second)
    assert second.chosen == {"a": "flash", "b": "default"}


def test_what_another_process_has_added_stays(tmp_path: Path) -> None:
    file = tmp_path / "choices.json"
    for case in ("a", "b"):
        choices = fresh()
        choices.remember({case: "cudnn"})
        keep_choices(file, {}, choices)
    found = fresh()
    recall_choices(file, found)
    assert found.chosen == {"a": "cudnn", "b": "cudnn"}


def test_nothing_is_written_where_nothing_was_measured(tmp_path: Path) -> None:
    choices = fresh()
    choices.remember({"a": "flash"})
    keep_choices(tmp_path / "choices.json", choices.chosen, choices)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"[1, 2]", b'{"a": 3, "b": "no such kernel"}', b"[" * 100_000, b" " * (2**20 + 1)]
)
def test_a_damaged_file_holds_nothing(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "choices.json"
    file.write_bytes(text)
    choices = fresh()
    recall_choices(file, choices)
    recall_choices(tmp_path, choices)
    assert choices.chosen == {}


def test_a_folder_that_takes_no_file_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    choices = fresh()
    choices.remember({"a": "flash"})
    keep_choices(tmp_path / "file" / "choices.json", {}, choices)
    assert choices.chosen == {"a": "flash"}


def test_the_file_lies_in_the_users_cache_and_names_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = choices_file()
    assert file.parent == tmp_path / "stillmotion" and torch.__version__ in file.name
