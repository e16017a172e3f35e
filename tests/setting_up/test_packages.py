"""The table of packages says what pyproject.toml and constraints.txt say."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from stillhouse.setting_up.packages import PACKAGES

ROOT = Path(__file__).parents[2]
tomllib = pytest.importorskip("tomllib")  # of Python 3.11
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TESTED = {(requirement := Requirement(line)).name.lower(): str(requirement.specifier).removeprefix("==")
          for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
          if line and not line.startswith("#")}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_versions_are_those_of_the_project(package: object) -> None:
    found = next(one for one in PACKAGES if one is package)
    listed = PROJECT["optional-dependencies"][found.extra] if found.extra else PROJECT["dependencies"]
    versions = {Requirement(text).name.lower(): Requirement(text).specifier for text in listed}
    assert versions[found.name.lower()] == SpecifierSet(found.versions)
    assert TESTED[found.name.lower()] == found.tested


@pytest.mark.parametrize("extra", ["export", "wandb", "mlflow", "demo"])
def test_every_package_of_an_extra_is_looked_for(extra: str) -> None:
    assert {Requirement(text).name.lower() for text in PROJECT["optional-dependencies"][extra]} == {
        package.name.lower() for package in PACKAGES if package.extra == extra}
