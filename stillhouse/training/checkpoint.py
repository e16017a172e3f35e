"""Checkpoints: folders ``gs{step}`` that are complete or absent, and what a resume reads from the newest.

gs120/model.safetensors         the student's state dict, and config.json if it has a configuration
gs120/training_state/           what a resume needs beside it; only in the newest checkpoint
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from stillhouse.errors import CheckpointError
from stillhouse.training.packing import load_nested, load_tensors, save_nested, save_tensors

STATE_DIR = "training_state"
_NAME = re.compile(r"gs(\d+)")


def save(output_dir: Path, step: int, student: nn.Module, state: Mapping[str, Any], *, protect: Iterable[int] = (),
         keep_last: int | None = None) -> Path:
    """Write ``gs{step}``: aside first, then renamed, so that no reader ever sees half of it.

    Older checkpoints lose their training state; with ``keep_last``, all but so many newest and the steps in
    ``protect`` are removed.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    final, aside = output_dir / f"gs{step}", output_dir / f".writing-gs{step}"
    shutil.rmtree(aside, ignore_errors=True)
    (aside / STATE_DIR).mkdir(parents=True)
    save_tensors(student.state_dict(), aside / "model.safetensors")
    config: Any = getattr(student, "config", None)
    if hasattr(config, "save_pretrained"):
        config.save_pretrained(aside)
    save_nested(state, aside / STATE_DIR, "state")
    if final.exists():
        shutil.rmtree(final)
    os.replace(aside, final)
    _tidy(output_dir, newest=step, protect=set(protect), keep_last=keep_last)
    return final


def steps(output_dir: Path) -> list[int]:
    """The steps of the complete checkpoints, oldest first."""
    if not output_dir.is_dir():
        return []
    found = [_NAME.fullmatch(path.name) for path in output_dir.iterdir() if (path / "model.safetensors").exists()]
    return sorted(int(match[1]) for match in found if match)


def newest(output_dir: Path) -> Path | None:
    """The newest checkpoint that training can go on from, or None."""
    for step in reversed(steps(output_dir)):
        folder = output_dir / f"gs{step}"
        if (folder / STATE_DIR / "state.json").exists():
            return folder
    return None


def load_state(folder: Path) -> Any:
    """The training state of a checkpoint. Raises `CheckpointError`."""
    if not (folder / STATE_DIR).is_dir():
        raise CheckpointError(f"{folder} holds no training state (only the newest checkpoint does); "
                              "training can go on from the newest alone")
    return load_nested(folder / STATE_DIR, "state")


def load_student(folder: Path, student: nn.Module) -> None:
    """Bring a checkpoint's weights back into the student. Raises `CheckpointError` if they do not fit."""
    try:
        student.load_state_dict(load_tensors(folder / "model.safetensors"))
    except RuntimeError as error:
        raise CheckpointError(f"{folder} does not fit this student: {error}") from error


def _tidy(output_dir: Path, newest: int, protect: set[int], keep_last: int | None) -> None:
    others = [step for step in steps(output_dir) if step != newest]
    for step in others:
        shutil.rmtree(output_dir / f"gs{step}" / STATE_DIR, ignore_errors=True)
    if keep_last is not None:
        older = [step for step in others if step < newest]
        surplus = older[: max(0, len(older) - (keep_last - 1))]
        for step in set(surplus) - protect:
            shutil.rmtree(output_dir / f"gs{step}")
