"""An exported folder to the Hugging Face hub."""

from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from freeflow_lightning.students.export.folder import find_exported

MESSAGE = "Upload of freeflow export"


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    commit_message: str = MESSAGE,
    create_pr: bool = False,
    revision: str | None = None,
    is_space: bool = False,
    api: "huggingface_hub.HfApi | None" = None,
) -> str:
    """Upload an exported folder, checked file by file; makes the repository if there is none.

    Args:
        folder: that freeflow export wrote.
        repo_id: "owner/name".
        private: whether a new repository is private.
        token: with write access; the one of `hf auth login` or $HF_TOKEN if not given.
        commit_message: of the commit.
        create_pr: propose the commit in a pull request, rather than make it.
        revision: branch that it goes to; the repository's main one if not given.
        is_space: whether the folder goes to a Space, which runs its app.py.
        api: of the hub; one that uses the token if not given.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        ValueError: not the name of a repository, no permission, or the hub cannot be reached.
    """
    find_exported(folder)
    hub = huggingface_hub.HfApi(token=token) if api is None else api
    kind: dict[str, Any] = {"repo_type": "space", "space_sdk": "gradio"} if is_space else {}
    try:
        hub.create_repo(repo_id, private=private, exist_ok=True, **kind)
        done = hub.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message,
            create_pr=create_pr,
            revision=revision,
            repo_type=kind.get("repo_type"),
        )
    except HFValidationError as error:
        raise ValueError(f"expected the repository as owner/name, got {repo_id!r}") from error
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        raise ValueError(f"{_explain(error, repo_id)}. The folder is {folder}") from error
    except Exception as error:  # connections fail with the errors of any library below
        raise ValueError(
            f"the hub cannot be reached ({type(error).__name__}: {_first_line(error)}). The "
            f"folder is {folder}: on a machine with a network run `hf upload {repo_id} {folder}`"
        ) from error
    return str(getattr(done, "pr_url", None) or getattr(done, "commit_url", done))


def _explain(error: Exception, repo_id: str) -> str:
    """Return what the hub has refused, and what to do about it."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    advice = "try again"
    if status in (401, 403) or isinstance(error, LocalTokenNotFoundError):
        advice = "log in with `hf auth login`, or set HF_TOKEN to a token with write access"
    return f"the hub has refused {repo_id} ({_first_line(error)}): {advice}"


def _first_line(error: Exception) -> str:
    return next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    )
