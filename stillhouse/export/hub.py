"""A student on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from stillhouse.errors import ConfigError, first_line


def require_access(repo_id: str) -> None:
    """Raise `ConfigError` unless the hub can be reached by somebody whom it knows."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(f"--push-to-hub {repo_id!r}: this is no name of a repository ({error}); write NAME or "
                          "USER/NAME") from error
    if constants.HF_HUB_OFFLINE:
        raise ConfigError("--push-to-hub: the environment variable HF_HUB_OFFLINE says to stay off the hub; unset it, "
                          "or leave --push-to-hub out")
    if huggingface_hub.get_token() is None:
        raise ConfigError("--push-to-hub: there is no token, so the hub does not know who you are; log in with "
                          "hf auth login, or set the environment variable HF_TOKEN to a token that may write")
    with _told("--push-to-hub: the hub does not take the token, or cannot be reached",
               "; look after that first, or leave --push-to-hub out"):
        huggingface_hub.HfApi().whoami()


def upload(repo_id: str, student_dir: Path, export_dir: Path) -> str:
    """Upload a student with its model card, and what was exported into ``onnx`` beside it; gives the address.

    A repository that is not there yet is made, a private one. Raises `ConfigError` if the hub refuses.
    """
    api = huggingface_hub.HfApi()
    with _told(f"--push-to-hub {repo_id}: the upload failed",
               f". What was exported is in {export_dir}; export again to try again"):
        url = api.create_repo(repo_id, private=True, exist_ok=True)
        full_id = url.repo_id
        api.upload_folder(repo_id=full_id, folder_path=student_dir, ignore_patterns=["onnx/*"],
                          commit_message="Student distilled with Stillhouse")
        api.upload_folder(repo_id=full_id, folder_path=export_dir, path_in_repo="onnx",
                          commit_message="The same as ONNX")
    return str(url)


@contextmanager
def _told(what: str, remedy: str) -> Iterator[None]:
    """Raise `ConfigError` for whatever the network, a proxy or the hub says inside: what it means, and what to do."""
    try:
        yield
    except Exception as error:  # of any kind
        raise ConfigError(f"{what} ({first_line(error)[:300] or type(error).__name__}){remedy}") from error
