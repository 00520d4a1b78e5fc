"""Models from the Hugging Face hub, through its cache; every one of its offline switches holds."""

from __future__ import annotations

import dataclasses
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


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """How the hub is reached, as its client takes it."""

    # None is the cache of the environment (HF_HOME, HF_HUB_CACHE).
    cache_dir: str | Path | None = None
    # True is the one that is logged in, False none; a text is the token itself.
    token: str | bool | None = dataclasses.field(default=None, repr=False)
    local_files_only: bool = False
    # Download again what is in the cache.
    force_download: bool = False


BY_ENVIRONMENT = Access()


def fetch(
    repo_id: str, *, revision: str | None = None, patterns: Sequence[str], access: Access = BY_ENVIRONMENT
) -> Path:
    """The local folder of a repository's files that match `patterns`, downloaded where the cache lacks them.

    Raises HubError, in one sentence that says what to accept or to download and where to put it, where there is no
    network, no permission, or no such repository, and where none of the files are there.
    """
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                repo_id,
                revision=revision,
                allow_patterns=list(patterns),
                cache_dir=access.cache_dir,
                token=access.token,
                local_files_only=access.local_files_only,
                force_download=access.force_download,
            )
        )
    # The edge to the network: which classes its errors have changes with the hub's HTTP client.
    except Exception as error:
        raise HubError(_explain(error, repo_id, revision, patterns, access)) from error
    present = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if not any(fnmatch.fnmatch(name, pattern) for name in present for pattern in patterns):
        # Offline, the hub's client returns whatever snapshot there is, an empty one too.
        remedy = _remedy(repo_id, revision, patterns, access)
        raise HubError(f"{repo_id} at {folder} has none of the files needed; {remedy}.")
    return folder


def _explain(error: Exception, repo_id: str, revision: str | None, patterns: Sequence[str], access: Access) -> str:
    if isinstance(error.__cause__, HfHubHTTPError):
        error = error.__cause__  # the client wraps most refusals in its word for an unreachable hub
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    page = f"{constants.ENDPOINT}/{repo_id}"
    remedy = _remedy(repo_id, revision, patterns, access)
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
        cache = access.cache_dir or constants.HF_HUB_CACHE
        return f"{repo_id} does not fit on the disk of {cache}; free some space or set HF_HOME elsewhere."
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        offline = constants.is_offline_mode()
        reason = "the hub is switched off (HF_HUB_OFFLINE)" if offline else "the hub cannot be reached"
        if access.local_files_only:
            reason = "local_files_only is set"
        return f"{repo_id} is not complete in the cache and {reason}; {remedy}."
    first_line = (str(error).splitlines() or [""])[0].rstrip(".")
    return f"{repo_id} cannot be fetched ({type(error).__name__}: {first_line}); {remedy}."


def _remedy(repo_id: str, revision: str | None, patterns: Sequence[str], access: Access) -> str:
    at = f" --revision {revision}" if revision else ""
    weights = next((pattern for pattern in patterns if pattern.endswith(".safetensors")), "the safetensors weights")
    return (
        f"with a network, run `hf download {repo_id}{at}` (files such as {weights}) and put the result under "
        f"{access.cache_dir or constants.HF_HUB_CACHE}, or give the path of the model's folder instead of its name"
    )
