"""Where the stages of a recipe leave their results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def stage_folder(folder: Path, stage: Mapping[str, Any]) -> Path | None:
    """The run folder of a stage, from the recipe in ``folder``, also if all folders were moved; None: not there yet."""
    output = Path(str(stage.get("output", ""))).expanduser()
    return next((place for place in (folder / output.name, output) if (place / "recipe.yaml").is_file()), None)
