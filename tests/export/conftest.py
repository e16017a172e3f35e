"""Finished runs of every task, each made and exported once for all tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.export.tiny_runs import KINDS, Run, make_run

if TYPE_CHECKING:
    from stillhouse.export import Exported


@pytest.fixture(scope="session")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """The run of a kind, made when it is first asked for; not to be changed."""
    made: dict[str, Run] = {}

    def get(kind: str) -> Run:
        if kind not in made:
            made[kind] = make_run(KINDS[kind], tmp_path_factory.mktemp(kind))
        return made[kind]

    return get


@pytest.fixture(scope="session")
def exported_of(run_of: Callable[[str], Run]) -> Callable[[str], Exported]:
    """What was exported of it, 8 bits too; not to be changed."""
    from stillhouse.export import export_onnx

    made: dict[str, Exported] = {}

    def get(kind: str) -> Exported:
        if kind not in made:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "8 bits cost")  # of students that nothing has trained
                made[kind] = export_onnx(run_of(kind).path, int8=True)
        return made[kind]

    return get


@pytest.fixture
def fresh_run(tmp_path: Path) -> Run:
    """A run of a text classification that a test may change."""
    return make_run(KINDS["single"], tmp_path / "fresh")
