"""The data of a run as its models read it: one and the same rows, or two views of them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from stillhouse.errors import ConfigError, DataError, PlanError
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.student_making import NewStudent
from stillhouse.recipe.teaching import Teaching
from stillhouse.recipe.vocabulary import difference
from stillhouse.tasks import TASKS, EncodedSplit, Task, TwoSided
from stillhouse.tasks.batching import EncodedRows
from stillhouse.tasks.data_files import Rows
from stillhouse.tasks.soft_labels import SoftLabels, num_without, read_soft_labels, soft_label_tensor

_SOFT = "soft_labels"


@dataclass(frozen=True)
class Reading:
    """The encoded rows of a run.

    Attributes:
        student: every split as the student reads it.
        teacher: every split as the teacher reads it; the student's own where both read the same.
    """

    student: Mapping[str, EncodedSplit]
    teacher: Mapping[str, EncodedRows]

    @property
    def is_shared(self) -> bool:
        """Whether one batch serves both."""
        return self.teacher["train"] is self.student["train"]

    @property
    def train(self) -> EncodedRows:
        """What the student is trained on."""
        return self.student["train"] if self.is_shared else TwoSided(self.student["train"], self.teacher["train"])


def load_task(recipe: Recipe) -> Task[Any]:
    """The recipe's task with its data, soft labels among it if they teach. Raises `DataError`."""
    task = TASKS[recipe.task](recipe.data)
    if recipe.teacher.column is None:
        task.load()
        return task
    task.read_also = _soft_label_reader(recipe, task)
    task.may_lack_labels = True
    task.load()
    train, validation = task.split("train"), task.split("validation")
    untaught = sum(label is None and soft is None for label, soft in zip(train["label"], train[_SOFT], strict=True))
    if untaught:
        raise DataError(f"{task.spec.train}: {untaught} of {len(train)} rows have neither a label nor soft labels; "
                        "leave them out")
    if recipe.contrast != "none" and not any(label is not None for label in train["label"]):
        raise ConfigError("contrast: no_teacher trains on labels, and no row of the training data has one; write none")
    if None in validation["label"]:
        raise DataError("data.validation: there is none, and rows of the training data without a label cannot stand in "
                        "for it; give rows with labels")
    return task


def labelled_rows(task: Task[Any], train: EncodedRows, tokenizer: PreTrainedTokenizerBase) -> EncodedRows:
    """The training rows that have labels: none that augmentation added, none with soft labels alone.

    They are encoded again if these are not all rows.
    """
    examples = task.split("train")
    labels = [examples[name] for name in task.label_columns]
    kept = [row for row in range(task.num_labelled) if all(column[row] is not None for column in labels)]
    return train if len(kept) == len(examples) else task.encoded(examples.pick(kept), tokenizer)


def _soft_label_reader(recipe: Recipe, task: Task[Any]) -> Any:
    section = recipe.teacher
    spec = SoftLabels(column=str(section.column), form=section.form, missing_mass=section.missing_mass,
                      rows_without=section.rows_without)

    def read(rows: Rows, split: str) -> dict[str, Any]:
        if split == "train":
            return {_SOFT: read_soft_labels(rows, spec, task.label_names)}
        if not any(rows.columns.get(spec.column, ())):
            return {_SOFT: [None] * len(rows)}  # there they are only needed to say how good the teacher is
        return {_SOFT: read_soft_labels(rows, spec.model_copy(update={"rows_without": "labels"}), task.label_names)}

    return read


def read_by_both(recipe: Recipe, task: Task[Any], teaching: Teaching, student: NewStudent) -> Reading:
    """Encode all splits for both models. Raises `PlanError` if these would have to read the same tokens and do not."""
    by_labels = recipe.distillation.hard_label_weight > 0
    mine = {split: _with_soft_labels(task, split, task.encode(split, student.tokenizer), by_labels)
            for split in task.num_rows}
    theirs = {split: teaching.view(task, split, rows, reads_alike=student.reads_as_teacher)
              for split, rows in mine.items()}
    reading, train = Reading(mine, theirs), theirs["train"]
    if teaching.tokenizer is not None and not reading.is_shared and isinstance(train, EncodedSplit):
        _require_comparable(recipe, task, mine["train"], student, train, teaching.tokenizer)
    return reading


def _require_comparable(recipe: Recipe, task: Task[Any], mine: EncodedSplit, student: NewStudent, theirs: EncodedSplit,
                        tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `PlanError` where a loss compares positions, and the two models cut texts at different places.

    It may also compare token by token what is said of each: there, every id has to mean the same.
    """
    which = difference(tokenizer, student.tokenizer, "the teacher's", "the student's")
    sides = tokenizer.padding_side, student.tokenizer.padding_side
    if sides[0] != sides[1]:
        which += f"; the teacher's pads to the {sides[0]}, the student's to the {sides[1]}"
    remedy = ("take a student made from the teacher ({shape: T3}, {keep: half}), or a model with the teacher's own "
              "tokenizer")
    if task.classes_are_tokens and _ids_of(tokenizer) != _ids_of(student.tokenizer):
        trimmed = ("leave student.vocabulary: trimmed out, and trim in a later stage"
                   if recipe.student.vocabulary == "trimmed" else remedy)
        raise PlanError(f"the student's vocabulary is not the teacher's, and in {task.name} each logit is that of a "
                        f"token, so that those of different words would be compared ({which}): {trimmed}")
    if _same_tokens(mine, student.tokenizer, theirs, tokenizer):
        return
    if not task.answers_rows:
        raise PlanError(f"the student's vocabulary is not the teacher's, and in {task.name} a student learns from the "
                        f"teacher's answer at every token ({which}): {remedy}")
    if recipe.distillation.matches:
        raise PlanError("distillation.matches: the student's vocabulary is not the teacher's, so the positions of "
                        f"their layers are not the same ({which}); take the matches out, or {remedy}")


def _ids_of(tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, int], set[int]]:
    """What the ids mean, and which of them are no part of a text."""
    return tokenizer.get_vocab(), set(tokenizer.all_special_ids)


def _same_tokens(mine: EncodedSplit, my_tokenizer: PreTrainedTokenizerBase, theirs: EncodedSplit,
                 their_tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether all texts are cut into the same tokens at the same places, whatever their numbers are."""
    if my_tokenizer.padding_side != their_tokenizer.padding_side:
        return False
    if len(mine) != len(theirs) or not np.array_equal(mine.lengths, theirs.lengths):
        return False
    numbers = their_tokenizer.get_vocab()
    translated = np.full(max(my_tokenizer.get_vocab().values()) + 1, -1)
    for token, number in my_tokenizer.get_vocab().items():
        translated[number] = numbers.get(token, -1)
    return bool(np.array_equal(translated[mine.tokens["input_ids"].flat], theirs.tokens["input_ids"].flat))


def _with_soft_labels(task: Task[Any], split: str, encoded: EncodedSplit, is_taught_otherwise: bool) -> EncodedSplit:
    examples = task.split(split)
    if _SOFT not in examples.columns:
        return encoded
    if split == "train" and not is_taught_otherwise and (without := num_without(examples[_SOFT])):
        warnings.warn(f"{without} of {len(examples)} training rows have no soft labels and teach nothing, for "
                      "distillation.hard_label_weight is 0; raise it, or leave these rows out", stacklevel=2)
    soft, known = soft_label_tensor(examples[_SOFT], len(task.label_names))
    return dataclasses.replace(encoded, rows={**encoded.rows, _SOFT: soft, "logits_mask": known.long()})
