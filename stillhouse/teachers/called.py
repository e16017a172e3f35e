"""A teacher that is a function of texts: a service, a large language model, a rule, anything that can be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from stillhouse.batches import num_rows
from stillhouse.errors import OutputError, PlanError
from stillhouse.teachers.base import TeacherSource
from stillhouse.teachers.given import Form, MissingMass, logits_row, looks_like_probabilities, require_logits_only
from stillhouse.types import LOGITS, Batch, Features, Key

END_OF_TEXT = 256
"""What follows the bytes of each text in a batch, so that an empty text has a position too."""

Texts = list[str] | list[tuple[str, str]]


@final
class CalledTeacher(TeacherSource):
    """Asks a function, once a batch, what the labels' probabilities are.

    Its batches carry the texts as bytes (`stillhouse.tasks.text_bytes.text_rows` makes them), so that a `CachedTeacher`
    around it asks for each text once, ever. ``rows_forwarded`` counts the texts asked for.

    Args:
        function: called with a list of different texts, or of pairs of texts. Gives a row for each: an array
            (rows, labels), or a list of lists or of mappings from label names to numbers. What a forward takes beside
            its inputs is passed on as keyword arguments.
        form: what the numbers are.
        num_labels: how many labels there are; None: what comes.
        version: names what the function answers, for caches that outlive the process. Change it with the function.
        decode: turns a batch's teacher inputs into a list of texts, or of tuples of texts, for batches of another make.
        label_names: the labels in order, where the function gives mappings. They may leave labels out.
        missing_mass: what to do where a row's probabilities add up to less than 1: refuse, renormalize, or spread the
            rest over the labels that a mapping leaves out.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        form: Form = "probabilities",
        num_labels: int | None = None,
        version: str | None = None,
        decode: Callable[[Any], Sequence[Any]] | None = None,
        label_names: Sequence[str] | None = None,
        missing_mass: MissingMass = "refuse",
    ) -> None:
        self.function, self.form, self.version, self.missing_mass = function, form, version, missing_mass
        self.label_names = None if label_names is None else tuple(label_names)
        self.decode = texts_of if decode is None else decode
        if self.label_names is not None and num_labels not in (None, len(self.label_names)):
            raise PlanError(f"num_labels={num_labels}, but label_names are {len(self.label_names)}: "
                            f"{', '.join(self.label_names)}; leave num_labels out")
        self.num_labels = num_labels if self.label_names is None else len(self.label_names)
        self._rows_forwarded = 0

    @property
    def fingerprint(self) -> str | None:
        if self.version is None:
            return None
        return f"called/1 {self.version!r} {self.form} {self.missing_mass} {self.label_names}"

    @property
    def rows_forwarded(self) -> int:
        return self._rows_forwarded

    def check(self, keys: frozenset[Key]) -> None:
        require_logits_only(keys, "a function of texts gives numbers")

    def width(self, key: Key) -> int | None:
        return self.num_labels if key == LOGITS else None

    def signals(self, batch: Batch, keys: frozenset[Key], extra: Mapping[str, Any] | None = None) -> Features:
        if not keys:
            return {}
        self.check(keys)
        if batch.teacher_outputs is not None:
            raise PlanError("batches with 'teacher_cache' hold the outputs of a model, and this teacher is a function "
                            "of texts; leave 'teacher_cache' out, or give the model and a FunctionAdaptor")
        texts = list(self.decode(batch.teacher))
        different = list(dict.fromkeys(texts))
        self._rows_forwarded += len(different)
        with torch.no_grad():
            answer = self.function(different, **(extra or {}))
        rows = dict(zip(different, self._logits(answer, different), strict=True))
        return {LOGITS: torch.tensor([rows[text] for text in texts], dtype=torch.float32)}

    def _logits(self, answer: Any, texts: Sequence[Any]) -> list[list[float]]:
        rows = answer.tolist() if isinstance(answer, (Tensor, np.ndarray)) else answer
        if not isinstance(rows, (list, tuple)) or len(rows) != len(texts):
            found = f"{len(rows)} rows" if isinstance(rows, (list, tuple)) else f"a {type(answer).__name__}"
            labels = self.num_labels or "labels"
            raise OutputError(f"the teacher's function was called with {len(texts)} texts and gave {found}; it must "
                              f"give an array ({len(texts)}, {labels}), or a list with a row for each text")
        found_rows = [self._row(row, number, texts[number]) for number, row in enumerate(rows)]
        sizes = sorted({len(row) for row in found_rows})
        if len(sizes) > 1:
            raise OutputError(f"the teacher's function gave rows of {sizes[0]} and of {sizes[-1]} numbers; every row "
                              "has one for each label")
        if self.form == "logits" and len(rows) > 1 and all(map(looks_like_probabilities, found_rows)):
            raise OutputError("the teacher's function is said to give logits, but every row is a distribution; set "
                              "form='probabilities'")
        return found_rows

    def _row(self, row: Any, number: int, text: Any) -> list[float]:
        values = row.tolist() if isinstance(row, (Tensor, np.ndarray)) else row
        try:
            found = logits_row(values, self.form, missing_mass=self.missing_mass, num_labels=self.num_labels,
                               label_names=self.label_names)
        except ValueError as error:
            raise OutputError(f"the teacher's function, row {number + 1} ({text!r:.60}): {error}") from error
        if found is None:
            raise OutputError(f"the teacher's function, row {number + 1} ({text!r:.60}): {values!r:.60} says nothing "
                              "about any label; leave such texts out of the data")
        return found


def texts_of(inputs: Any) -> Texts:
    """The texts, or pairs of texts, of a batch of bytes. Raises `OutputError` for a batch of anything else.

    ``input_ids`` (B, L) are bytes of UTF-8 with `END_OF_TEXT` behind each text; ``attention_mask`` (B, L) says which
    count; where ``token_type_ids`` (B, L) are 1 the second text of a pair is, in every row or in none.
    """
    if not isinstance(inputs, Mapping) or "input_ids" not in inputs or num_rows(inputs) is None:
        raise OutputError("this batch does not carry texts; make the teacher's side with "
                          "stillhouse.tasks.text_bytes.text_rows, or give decode=, a function from batch to texts")
    ids_BL = inputs["input_ids"].detach().cpu()
    kept_BL = inputs["attention_mask"].detach().cpu().ne(0) if "attention_mask" in inputs else torch.ones_like(ids_BL)
    second_BL = inputs["token_type_ids"].detach().cpu().ne(0) if "token_type_ids" in inputs else None
    kept_BL = kept_BL.bool() & ids_BL.ne(END_OF_TEXT)
    if second_BL is None or not bool(second_BL.any()):
        return [_text(ids[kept]) for ids, kept in zip(ids_BL, kept_BL, strict=True)]
    return [(_text(ids[kept & ~second]), _text(ids[kept & second]))
            for ids, kept, second in zip(ids_BL, kept_BL, second_BL, strict=True)]


def _text(ids: Tensor) -> str:
    try:
        return bytes(ids.tolist()).decode()
    except ValueError as error:
        raise OutputError(f"these input_ids are not the bytes of a text ({error}), but perhaps a tokenizer's; make the "
                          "teacher's side with stillhouse.tasks.text_bytes.text_rows, or give decode=, a function from "
                          "batch to texts") from error
