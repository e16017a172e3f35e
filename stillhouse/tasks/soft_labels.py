"""Soft labels that stand in the data: a column with what some teacher said about each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from stillhouse.errors import DataError
from stillhouse.sections import Section
from stillhouse.tasks.columns import place
from stillhouse.tasks.data_files import Rows
from stillhouse.teachers.given import Form, MissingMass, logits_row, looks_like_probabilities


class SoftLabels(Section):
    """A column of the training data that holds a teacher's answers, used instead of a model."""

    column: str
    """The column: a list with a number for each label in order, a mapping from label names to numbers, or the JSON text
    of either. A mapping may leave labels out, such as those a language model did not list. Empty: the row has none."""
    form: Form = "probabilities"
    """What the numbers are: probabilities, log_probabilities (natural logarithm) or logits. A probability of 0 counts
    as 1e-8."""
    missing_mass: MissingMass = "refuse"
    """Where a row's probabilities add up to less than 1: refuse; renormalize (scale them up, labels left out get 0); or
    spread (share the rest evenly among the labels left out)."""
    rows_without: Literal["labels", "refuse"] = "labels"
    """Rows without soft labels: labels (they learn from their own label alone) or refuse."""


def read_soft_labels(rows: Rows, spec: SoftLabels, label_names: Sequence[str]) -> list[list[float] | None]:
    """For each row a number for each label in order, or None for a row without soft labels.

    The numbers are finite: logits as they are, or logarithms of probabilities (see
    `stillhouse.teachers.given.logits_row`). Raises `DataError` for the first row that is wrong, and if no row has any.
    """
    found: list[list[float] | None] = []
    for index, value in enumerate(rows.column(spec.column)):
        try:
            row = None if value in (None, "") else logits_row(value, spec.form, missing_mass=spec.missing_mass,
                                                             label_names=label_names)
        except ValueError as error:
            raise DataError(f"{place(rows, index, spec.column)}: {error}") from error
        if row is None and spec.rows_without == "refuse":
            raise DataError(f"{place(rows, index, spec.column)}: there are no soft labels; leave the row out, or set "
                            "rows_without: labels, so that it learns from its label alone")
        found.append(row)
    known = [row for row in found if row is not None]
    if not known:
        raise DataError(f"{rows.source}, column {spec.column!r}: no row has soft labels; is it the right column?")
    if spec.form == "logits" and len(known) > 1 and all(map(looks_like_probabilities, known)):
        raise DataError(f"{rows.source}, column {spec.column!r}: the numbers of every row are from 0 to 1 and add up "
                        "to 1, as probabilities do and logits do not; set form: probabilities")
    return found


def num_without(values: Sequence[list[float] | None]) -> int:
    """How many rows have no soft labels. They learn nothing unless hard labels have a weight."""
    return sum(row is None for row in values)


def soft_label_tensor(values: Sequence[list[float] | None], num_labels: int) -> tuple[Tensor, Tensor]:
    """Soft labels as (N, C) of float32, zeros in rows without them, and which rows have them, (N, 1) of bool.

    The second is what such batches hold as ``logits_mask``.
    """
    nothing = [0.0] * num_labels
    soft_NC = torch.tensor([nothing if row is None else row for row in values], dtype=torch.float32)
    known_N1 = torch.tensor([row is not None for row in values], dtype=torch.bool).unsqueeze(1)
    return soft_NC.reshape(len(values), num_labels), known_N1
