"""A teacher that is only numbers: which numbers may stand for its answers, and the source that gives them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, final

from torch import Tensor

from stillhouse.batches import num_rows
from stillhouse.errors import OutputError, PlanError, unknown_name
from stillhouse.teachers.base import TeacherSource
from stillhouse.types import ALL_LOGITS, LOGITS, Batch, Features, Key

Form = Literal["probabilities", "log_probabilities", "logits"]
"""What numbers from outside are."""

MissingMass = Literal["refuse", "renormalize", "spread"]
"""What to do where a row's probabilities add up to less than 1."""

LOWEST_PROBABILITY = 1e-8
"""What stands for a probability of 0, whose logarithm no loss can use; or the row's smallest other, if that is less."""

TOLERANCE = 1e-3
"""How far the sum of a row's probabilities may be from 1, for numbers that were rounded."""


@final
class GivenTeacher(TeacherSource):
    """Answers with the logits that the batch itself holds: ``soft_labels``, (B, C), beside the model's inputs.

    Rows without soft labels hold zeros there, and the student's ``logits_mask`` leaves them out of every comparison
    with the teacher. There is nothing to be computed, so nothing to be cached: ``map_leaves`` leaves it as it is.

    Args:
        num_labels: C, checked against every batch; None: what comes.
    """

    def __init__(self, num_labels: int | None = None) -> None:
        self.num_labels = num_labels

    @property
    def fingerprint(self) -> str:
        return "given/1"

    def check(self, keys: frozenset[Key]) -> None:
        require_logits_only(keys, "soft labels are numbers")

    def width(self, key: Key) -> int | None:
        return self.num_labels if key == LOGITS else None

    def map_leaves(self, wrap: Callable[[TeacherSource], TeacherSource]) -> TeacherSource:
        return self

    def signals(self, batch: Batch, keys: frozenset[Key], extra: Mapping[str, Any] | None = None) -> Features:
        if not keys:
            return {}
        self.check(keys)
        inputs = batch.teacher
        soft_BC = inputs.get("soft_labels") if isinstance(inputs, Mapping) else None
        if not isinstance(soft_BC, Tensor):
            found = ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else f"a {type(inputs).__name__}"
            raise OutputError(f"the batch holds no tensor 'soft_labels' but {found}; put the teacher's logits there, "
                              "(rows, labels)")
        rows = num_rows({name: value for name, value in inputs.items() if name != "soft_labels"})
        fits = soft_BC.dim() == 2 and rows in (None, len(soft_BC)) and self.num_labels in (None, soft_BC.shape[1])
        if not fits or not soft_BC.is_floating_point():
            wanted = f"({rows or 'rows'}, {self.num_labels or 'labels'})"
            raise OutputError(f"soft_labels are {tuple(soft_BC.shape)} of {soft_BC.dtype}; give floating-point numbers "
                              f"of {wanted}, a logit for each row and label")
        return {LOGITS: soft_BC.detach()}


def require_logits_only(keys: frozenset[Key], why: str) -> None:
    """Raise `PlanError` for any key but the first logits."""
    others = sorted(str(key) for key in keys - {LOGITS, ALL_LOGITS})
    if others:
        raise PlanError(f"{why} for each label and cannot give {', '.join(others)}: there are no layers behind them; "
                        "drop the matches, or give a model as the teacher")


def logits_row(
    values: object,
    form: Form,
    *,
    missing_mass: MissingMass = "refuse",
    num_labels: int | None = None,
    label_names: Sequence[str] | None = None,
) -> list[float] | None:
    """One row's answer as finite logits, a number for each label in order; None if no label has a number.

    Probabilities become their logarithms, and so do logits from log-probabilities; logits stay as they are. A
    probability of 0 becomes `LOWEST_PROBABILITY`.

    Args:
        values: a list of ``num_labels`` numbers; a mapping from ``label_names`` to numbers, which may leave labels out
            (or give None for them); or the JSON text of either.
        form: what the numbers are.
        missing_mass: see `stillhouse.tasks.soft_labels.SoftLabels`.
        num_labels: None: as many as come.
        label_names: in order; without them mappings are refused.

    Raises `ValueError` that says what is wrong with the row, and the remedy, but not which row it is.
    """
    numbers = _numbers(values, len(label_names) if label_names is not None else num_labels, label_names)
    known = [number for number in numbers if number is not None]
    if not known and numbers:
        return None
    if any(math.isnan(number) or number == math.inf or (number == -math.inf and form != "log_probabilities")
           for number in known):
        raise ValueError(f"{_shown(numbers)} holds a value that is not finite; leave the row without soft labels, or "
                         "correct it")
    if form == "logits":
        if len(known) < len(numbers):
            raise ValueError(f"only {len(known)} of {len(numbers)} labels have a logit, which says nothing about the "
                             "others; give all, or give form: log_probabilities, whose missing labels have no mass")
        return known
    _require_form(known, form)
    logs = [_log(number) if form == "probabilities" and number is not None else number for number in numbers]
    return _with_a_floor(_completed(logs, form, missing_mass))


def looks_like_probabilities(values: Sequence[float]) -> bool:
    """Whether numbers are a distribution, and so hardly logits or log-probabilities."""
    return all(0 <= value <= 1 for value in values) and abs(sum(values) - 1) <= TOLERANCE


def _numbers(values: object, size: int | None, label_names: Sequence[str] | None) -> list[float | None]:
    if isinstance(values, str):
        try:
            values = json.loads(values)
        except ValueError:
            raise ValueError(f"{_shown(values)} is no list of numbers, no mapping from labels to numbers, and no JSON "
                             "text of either") from None
    if isinstance(values, Mapping):
        values = _in_order({str(name): number for name, number in values.items()}, label_names)
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{_shown(values)} is a {type(values).__name__}; give a list of numbers, one for each label, "
                         "or a mapping from labels to numbers")
    if not values or (size is not None and len(values) != size):
        there_are = f", and there are {size} labels" if size else ""
        raise ValueError(f"{_shown(values)} has {len(values)} numbers{there_are}; give one for each label")
    return [None if value is None else _number(value) for value in values]


def _in_order(values: Mapping[str, object], label_names: Sequence[str] | None) -> list[object]:
    if label_names is None:
        raise ValueError(f"{_shown(values)} is a mapping, and the labels have no names here; give label_names, or a "
                         "list of numbers")
    unknown = next((name for name in values if name not in label_names), None)
    if unknown is not None:
        raise ValueError(unknown_name("label", unknown, label_names))
    return [values.get(name) for name in label_names]


def _number(value: object) -> float:
    if isinstance(value, str):
        raise ValueError(f"{value!r:.40} is a text; write numbers without quotes")
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{value!r:.40} is a {type(value).__name__} and no number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{_shown(value)} is too large a number") from None


def _require_form(known: Sequence[float], form: Form) -> None:
    if form == "probabilities":
        wrong = next((value for value in known if not 0 <= value <= 1 + TOLERANCE), None)
        logs = all(value <= 0 for value in known) and sum(map(math.exp, known)) <= 1 + TOLERANCE
        hint = "these look like log-probabilities: set form: log_probabilities" if logs else (
            "if these are logits, set form: logits")
        allowed = "a probability is from 0 to 1"
    else:
        wrong = next((value for value in known if value > TOLERANCE), None)
        hint = "these look like probabilities: set form: probabilities" if looks_like_probabilities(known) else (
            "if these are logits, set form: logits")
        allowed = "the logarithm of a probability is at most 0"
    if wrong is not None:
        raise ValueError(f"{wrong:g} in {_shown(known)}: {allowed}; {hint}")


def _completed(logs: Sequence[float | None], form: Form, missing_mass: MissingMass) -> list[float]:
    """Log-probabilities of all labels, minus infinity where there is no mass."""
    total = math.fsum(math.exp(value) for value in logs if value is not None)
    if total > 1 + TOLERANCE:
        remedy = "divide them by their sum" if form == "probabilities" else "if these are logits, set form: logits"
        raise ValueError(f"the probabilities add up to {total:.6g}, more than 1; {remedy}")
    unmentioned = sum(value is None for value in logs)
    rest = -math.inf
    if missing_mass == "spread" and unmentioned:
        rest = _log(max(0.0, 1 - total) / unmentioned)
    elif total < 1 - TOLERANCE:
        if missing_mass != "renormalize" or total == 0:
            raise ValueError(_missing(total, len(logs) - unmentioned, len(logs), missing_mass))
        logs = [None if value is None else value - math.log(total) for value in logs]
    return [rest if value is None else value for value in logs]


def _missing(total: float, mentioned: int, size: int, missing_mass: MissingMass) -> str:
    found = f"the probabilities of {mentioned} of {size} labels add up to {total:.6g} and not to 1"
    if missing_mass == "refuse":
        return (f"{found}; set missing_mass: renormalize to scale them up, or missing_mass: spread to share the rest "
                "among the labels that are not mentioned")
    if missing_mass == "spread":
        return f"{found}, and no label is left to share the rest; set missing_mass: renormalize to scale them up"
    return f"{found}, and nothing can be scaled up to 1; leave the row without soft labels"


def _with_a_floor(logs: Sequence[float]) -> list[float]:
    """Minus infinity replaced by what is no larger than any other value, so that the labels' order stays."""
    lowest = min([math.log(LOWEST_PROBABILITY), *(value for value in logs if value > -math.inf)])
    return [max(value, lowest) for value in logs]


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
