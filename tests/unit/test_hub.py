"""The hub through its cache: offline, gated, missing; never the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from stillmotion import hub
from stillmotion.errors import HubError

REPO = "owner/name"
PATTERNS = ["*/config.json", "unet/model.safetensors"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, with the hub switched off."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def fill(cache: Path, files: dict[str, str]) -> Path:
    """Lay a repository out as the hub's client does."""
    folder = cache / "models--owner--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name, text in files.items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_text(text)
    return snapshot


def said(repo_id: str = REPO, revision: str | None = None) -> str:
    with pytest.raises(HubError) as caught:
        hub.fetch(repo_id, revision=revision, patterns=PATTERNS)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_a_filled_cache_works_offline(cache: Path) -> None:
    snapshot = fill(cache, {"unet/config.json": "{}", "unet/model.safetensors": ""})
    assert hub.fetch(REPO, patterns=PATTERNS) == snapshot
    assert hub.fetch(REPO, revision=COMMIT, patterns=PATTERNS) == snapshot


def test_an_empty_cache_offline_says_what_to_download_and_where(cache: Path) -> None:
    text = said()
    assert "switched off (HF_HUB_OFFLINE)" in text
    assert f"hf download {REPO}" in text
    assert str(cache) in text
    assert "--revision v2" in said(revision="v2")


def test_a_snapshot_without_the_files_is_not_a_model(cache: Path) -> None:
    fill(cache, {"README.md": ""})
    assert "none of the files needed" in said()


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_the_switches_of_the_environment_hold(tmp_path: Path, switch: str) -> None:
    code = (
        "import sys\n"
        "from stillmotion import hub\n"
        "from stillmotion.errors import HubError\n"
        "try:\n"
        "    hub.fetch('owner/name', patterns=['*.json'])\n"
        "except HubError as error:\n"
        "    sys.stdout.write(str(error))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {switch: "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "switched off" in done.stdout
    assert str(tmp_path) in done.stdout


class Response:
    """What the hub's errors read of an HTTP answer."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        self.headers: dict[str, str] = {}
        self.request = None


def test_a_refusal_that_the_client_wraps_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client says of a 403 for a file that the file is not in the cache."""

    def refuse(*_: Any, **__: Any) -> None:
        try:
            raise HfHubHTTPError("first line", response=Response(403))  # type: ignore[arg-type]
        except HfHubHTTPError as cause:
            raise LocalEntryNotFoundError("not found on the disk") from cause

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    assert "may not be read by this account" in said()


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (GatedRepoError, 403, "accept its licence at https://huggingface.co/owner/name"),
        (GatedRepoError, 401, "hf auth login"),
        (HfHubHTTPError, 403, "may not be read by this account"),
        (HfHubHTTPError, 401, "does not exist or is private"),
        (RepositoryNotFoundError, 404, "does not exist or is private"),
        (RevisionNotFoundError, 404, "no revision v9"),
        (HfHubHTTPError, 500, "cannot be fetched (HfHubHTTPError: first line)"),
    ],
)
def test_an_answer_of_the_hub_is_explained(
    monkeypatch: pytest.MonkeyPatch, error: type[HfHubHTTPError], status: int, expected: str
) -> None:
    refuse(monkeypatch, error("first line.\nsecond line", response=Response(status)))
    assert expected in said(revision="v9")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError("timed out"), "cannot be fetched (TimeoutError: timed out)"),
        (ConnectionError(), "cannot be fetched (ConnectionError: )"),
        (OSError(28, "No space left on device"), "does not fit on the disk"),
    ],
)
def test_a_failure_on_the_way_is_explained(monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str) -> None:
    refuse(monkeypatch, error)
    assert expected in said()


def test_a_name_that_is_none_is_explained(cache: Path) -> None:
    assert "expected owner/name" in said("a/b/c")


def test_only_what_matches_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def download(repo_id: str, **arguments: Any) -> str:
        asked.update(repo_id=repo_id, **arguments)
        (tmp_path / "unet").mkdir(exist_ok=True)
        (tmp_path / "unet" / "config.json").write_text("{}")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.fetch(REPO, revision="v1", patterns=PATTERNS) == tmp_path
    chosen = {"repo_id": REPO, "revision": "v1", "allow_patterns": PATTERNS}
    assert asked == chosen | {"cache_dir": None, "token": None, "local_files_only": False, "force_download": False}
    hub.fetch(REPO, revision="v1", patterns=PATTERNS, access=hub.Access("here", "secret", True, True))
    assert asked == chosen | {"cache_dir": "here", "token": "secret", "local_files_only": True, "force_download": True}


def test_a_token_is_never_shown() -> None:
    assert "secret" not in repr(hub.Access(token="secret"))


def test_only_local_files_of_a_cache_of_ones_own(tmp_path: Path) -> None:
    snapshot = fill(tmp_path, {"unet/config.json": "{}"})
    access = hub.Access(cache_dir=tmp_path, local_files_only=True)
    assert hub.fetch(REPO, patterns=PATTERNS, access=access) == snapshot
    with pytest.raises(HubError, match="local_files_only is set") as caught:
        hub.fetch("owner/other", patterns=PATTERNS, access=access)
    assert str(tmp_path) in str(caught.value)


def refuse(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
