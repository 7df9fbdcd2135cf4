"""Files of the Hugging Face hub: pinned revisions, the local cache, and what to do where the hub
cannot be reached.
"""

from pathlib import Path
from typing import NamedTuple

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)


class HubAccess(NamedTuple):
    """Which files of the hub, how they are fetched, and where they are kept: see `hub_file`."""

    revision: str | None = None
    cache_dir: str | Path | None = None
    offline: bool = False
    token: str | bool | None = None

    def file(self, repo_id: str, filename: str) -> Path:
        """Return the local path of a file of a repository."""
        return hub_file(repo_id, filename, **self._asdict())


def hub_file(
    repo_id: str,
    filename: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    offline: bool = False,
    token: str | bool | None = None,
) -> Path:
    """Return the local path of a file of a hub repository, downloaded unless it is in the cache.

    Args:
        repo_id: "owner/name".
        filename: path of the file in the repository.
        revision: commit, tag or branch; a commit pins the file for good, None is the newest.
        cache_dir: where files are kept; $HF_HOME/hub if not given.
        offline: look into the cache alone (as HF_HUB_OFFLINE=1 does).
        token: with read access; the one of `hf auth login` or $HF_TOKEN if not given, none if False.

    Raises:
        FileNotFoundError: not to be had; the message says how to get it here from a machine with a
            network.
        ValueError: not the name of a repository.
    """
    try:
        return Path(
            hf_hub_download(
                repo_id,
                filename,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=offline,
                token=token,
            )
        )
    except HFValidationError as error:
        raise ValueError(f"expected repo_id as 'owner/name', got {repo_id!r}") from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{filename} of the hub repository {repo_id}{_at(revision)} is not in the cache, and "
            f"the hub {'was not asked (offline)' if offline else 'cannot be reached'}: on a "
            f"machine with a network run `hf download {repo_id} "
            f"{filename}{_option('--revision', revision)} --local-dir weights`, copy the file "
            "here and give its path as the checkpoint"
        ) from error
    except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
        # no such file, repository or revision; no permission
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"the hub has no {filename} in {repo_id}{_at(revision)} for you: {reason}"
        ) from error


def _at(revision: str | None) -> str:
    return f" at {revision}" if revision else ""


def _option(name: str, value: str | None) -> str:
    return f" {name} {value}" if value else ""
