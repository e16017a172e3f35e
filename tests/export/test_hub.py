"""Uploading: refused before anything is exported where it cannot work, and what lands where."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")  # which needs onnx

import huggingface_hub
from huggingface_hub import constants

from stillhouse.errors import ConfigError
from stillhouse.export import exporting, hub
from stillhouse.finished import open_run
from tests.export.tiny_runs import Run


class FakeHub:
    """Keeps what it is told; ``error`` is raised instead."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error: Exception | None = None

    def whoami(self) -> dict[str, str]:
        if self.error is not None:
            raise self.error
        return {"name": "me"}

    def create_repo(self, repo_id: str, **options: Any) -> huggingface_hub.RepoUrl:
        self.calls.append(("create", {"repo_id": repo_id, **options}))
        return huggingface_hub.RepoUrl(f"https://hub.example/me/{repo_id}", endpoint="https://hub.example")

    def upload_folder(self, **options: Any) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(("upload", options))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    made = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_word")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return made


def test_the_student_and_its_export_are_uploaded_side_by_side(fake: FakeHub, tmp_path: Path) -> None:
    address = hub.upload("mine", tmp_path / "student", tmp_path / "onnx")
    (_, made), (_, student), (_, export) = fake.calls
    assert made == {"repo_id": "mine", "private": True, "exist_ok": True}
    assert (student["repo_id"], student["folder_path"]) == ("me/mine", tmp_path / "student")
    assert "path_in_repo" not in student
    assert (export["folder_path"], export["path_in_repo"]) == (tmp_path / "onnx", "onnx")
    assert address == "https://hub.example/me/mine"


def test_an_upload_that_fails_says_where_the_files_are(fake: FakeHub, tmp_path: Path) -> None:
    fake.error = OSError("no space for you")
    with pytest.raises(ConfigError, match=rf"the upload failed \(no space for you\).* is in {tmp_path / 'onnx'}"):
        hub.upload("mine", tmp_path / "student", tmp_path / "onnx")


def test_nothing_is_exported_for_a_hub_that_cannot_be_reached(fake: FakeHub, fresh_run: Run,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "write_graph", None)
    with pytest.raises(ConfigError, match="no name of a repository"):
        exporting.export_onnx(fresh_run.path, push_to_hub="a/b/c")
    fake.error = ConnectionError("no route to host")
    with pytest.raises(ConfigError, match=r"does not take the token, or cannot be reached \(no route to host\)"):
        exporting.export_onnx(fresh_run.path, push_to_hub="me/mine")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ConfigError, match=r"there is no token.* HF_TOKEN"):
        exporting.export_onnx(fresh_run.path, push_to_hub="me/mine")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE"):
        exporting.export_onnx(fresh_run.path, push_to_hub="me/mine")
    assert fake.calls == []
    assert not (fresh_run.path / "onnx").exists()


def test_a_model_of_the_hub_needs_a_folder_and_is_there_already(fake: FakeHub, fresh_run: Run, tmp_path: Path) -> None:
    away = dataclasses.replace(open_run(fresh_run.student), path=Path("me/model"), student_dir=Path("me/model"))
    with pytest.raises(ConfigError, match=r"the model me/model is on the hub.* --output FOLDER"):
        exporting.export_onnx(away)
    with pytest.raises(ConfigError, match="the model me/model is on the hub already"):
        exporting.export_onnx(away, output=tmp_path / "there", push_to_hub="me/mine")
