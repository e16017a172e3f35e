"""Fine-tuned teachers, kept by content: what would train the same teacher finds it trained."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse import __version__
from stillhouse.cache_dirs import BEING_WRITTEN, TEACHER_FILE, teachers_dir
from stillhouse.cache_use import hold
from stillhouse.errors import StoreError, UsageError, first_line
from stillhouse.recipe.training_schema import TeacherTraining
from stillhouse.recipe.vocabulary import identity_of
from stillhouse.tasks import Task
from stillhouse.tasks.pretrained import save_pretrained
from stillhouse.teachers import model_fingerprint
from stillhouse.training import Precision, distributed
from stillhouse.whole_files import write_json

_DECIDE_NOTHING = {"log_every", "keep_last"}  # settings that leave the weights as they are


@dataclass(frozen=True)
class Entry:
    """The place of one fine-tuned teacher."""

    folder: Path
    """``config.json``, weights, tokenizer and ``teacher.json``; complete if it is there."""
    identity: Mapping[str, Any]
    """What the folder's name is a hash of."""
    about: Mapping[str, str]
    """What it is, for people who look after the cache."""

    @property
    def is_stored(self) -> bool:
        """Whether it has been trained."""
        return (self.folder / TEACHER_FILE).exists()

    def metrics(self) -> dict[str, float]:
        """The validation metrics of the stored teacher. Raises `StoreError`."""
        try:
            record = json.loads((self.folder / TEACHER_FILE).read_text(encoding="utf-8"))
            return {str(name): float(value) for name, value in record["metrics"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(error) from error

    def load(self, task: Task[Any]) -> PreTrainedModel:
        """The stored teacher, which nobody prunes until this process ends. Raises `StoreError`."""
        hold(self.folder / TEACHER_FILE)
        try:
            return task.load_model(str(self.folder))
        except UsageError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StoreError:
        reason = first_line(error)
        return StoreError(f"the fine-tuned teacher in {self.folder} is damaged ({reason}); delete that folder, and it "
                          "will be trained again")

    def store(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, metrics: Mapping[str, float]) -> None:
        """Write aside, then rename. Another process that was faster wins: it stored the same."""
        aside = self.folder.with_name(f"{BEING_WRITTEN}{uuid.uuid4().hex}")  # two processes may train the same teacher
        try:
            aside.mkdir(parents=True)
            save_pretrained(model, tokenizer, aside)
            write_json(aside / TEACHER_FILE, {"about": dict(self.about), "metrics": dict(metrics), **self.identity})
            os.replace(aside, self.folder)
        except OSError as error:
            if not self.is_stored:
                raise StoreError(f"the fine-tuned teacher cannot be kept in {self.folder}: {error}; make room there, "
                                 "or name another folder in the environment variable STILLHOUSE_CACHE") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def entry_for(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task[Any], settings: TeacherTraining,
              precision: Precision, origin: str) -> Entry:
    """The place of the teacher that these parts would make; ``origin`` is where the base is from, for people."""
    identity = {
        "stillhouse": __version__,
        "base": model_fingerprint(base),
        "tokenizer": _hash(identity_of(tokenizer)),
        "data": [task.split_fingerprint(split) for split in ("train", "validation")],  # the test rows decide nothing
        "processes": distributed.world_size(),
        "settings": settings.model_dump(mode="json", exclude=_DECIDE_NOTHING) | {"precision": str(precision)},
    }
    return Entry(teachers_dir() / _hash(identity), identity, {"teacher": origin, "task": task.name})


def _hash(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
