"""Models from the Hugging Face hub, through its cache; every one of its offline switches holds."""

from __future__ import annotations

import errno
import fnmatch
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .errors import HubError


def fetch(repo_id: str, *, revision: str | None = None, patterns: Sequence[str]) -> Path:
    """The local folder of a repository's files that match `patterns`, downloaded where the cache lacks them.

    Raises HubError, in one sentence that says what to accept or to download and where to put it, where there is no
    network, no permission, or no such repository, and where none of the files are there.
    """
    try:
        folder = Path(huggingface_hub.snapshot_download(repo_id, revision=revision, allow_patterns=list(patterns)))
    # The edge to the network: which classes its errors have changes with the hub's HTTP client.
    except Exception as error:
        raise HubError(_explain(error, repo_id, revision, patterns)) from error
    present = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if not any(fnmatch.fnmatch(name, pattern) for name in present for pattern in patterns):
        # Offline, the hub's client returns whatever snapshot there is, an empty one too.
        raise HubError(f"{repo_id} at {folder} has none of the files needed; {_remedy(repo_id, revision, patterns)}.")
    return folder


def _explain(error: Exception, repo_id: str, revision: str | None, patterns: Sequence[str]) -> str:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    page = f"{constants.ENDPOINT}/{repo_id}"
    remedy = _remedy(repo_id, revision, patterns)
    if isinstance(error, GatedRepoError) or status == 403:
        return (
            f"{repo_id} may not be read by this account: accept its licence at {page}, then log in with "
            "`hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision}; expected one that {page} lists."
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return (
            f"{repo_id} does not exist or is private: check the name at {page}, and if it is private log in with "
            "`hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} is not the name of a repository; expected owner/name."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{repo_id} does not fit on the disk of {constants.HF_HUB_CACHE}; free some space or set HF_HOME elsewhere."
        )
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        offline = constants.is_offline_mode()
        reason = "the hub is switched off (HF_HUB_OFFLINE)" if offline else "the hub cannot be reached"
        return f"{repo_id} is not complete in the cache and {reason}; {remedy}."
    first_line = (str(error).splitlines() or [""])[0].rstrip(".")
    return f"{repo_id} cannot be fetched ({type(error).__name__}: {first_line}); {remedy}."


def _remedy(repo_id: str, revision: str | None, patterns: Sequence[str]) -> str:
    at = f" --revision {revision}" if revision else ""
    weights = next((pattern for pattern in patterns if pattern.endswith(".safetensors")), "the safetensors weights")
    return (
        f"with a network, run `hf download {repo_id}{at}` (files such as {weights}) and put the result under "
        f"{constants.HF_HUB_CACHE}, or give the path of the model's folder instead of its name"
    )
