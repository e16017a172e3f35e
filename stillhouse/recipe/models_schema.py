"""What a recipe says about the models: the sections ``teacher`` and ``student``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from stillhouse.recipe import yaml_files
from stillhouse.recipe.training_schema import TeacherTraining
from stillhouse.recipe.values import Keep, LayerNumbers, QuantizationChoice, TeacherFunctionName
from stillhouse.sections import Section, unknown_key
from stillhouse.sections.values import NotNegative, as_tuple

_BITS = ("load_in_8bit", "load_in_4bit")
_TEACHERS = ("model", "models", "run", "column", "function")
_STUDENTS = ("shape", "layers", "keep", "config", "network", "model", "run")


class TeacherSection(Section):
    """The teacher: a model, fine-tuned on the task already or by ``train``; several; or numbers without a model."""

    model: str | None = None
    """A folder with a model and its tokenizer, or a hub id."""
    models: Annotated[tuple[str, ...] | None, BeforeValidator(as_tuple)] = None
    """Several such, with one vocabulary, that teach together."""
    run: str | None = None
    """The name of an earlier stage, whose student teaches."""
    column: str | None = None
    """No model: the column of the training data with soft labels, a list of numbers or a mapping from labels to
    numbers."""
    function: TeacherFunctionName | None = None
    """No model: a registered function from texts to probabilities (see docs/extending.md)."""
    train: TeacherTraining | None = None
    """Fine-tune the model, or each of them, on the training data first."""
    seeds: Annotated[tuple[int, ...] | None, BeforeValidator(as_tuple), Field(min_length=2)] = None
    """Fine-tune the model once with each of these seeds; the results teach together."""
    quantization: QuantizationChoice = None
    """The teacher answers with small whole numbers, after any fine-tuning; the student is still made of its full
    weights. int8-dynamic is for CPUs; 8bit and 4bit need a CUDA device and bitsandbytes, whose options may stand here
    instead, as in {load_in_4bit: true, bnb_4bit_quant_type: fp4}."""
    weights: Annotated[tuple[NotNegative, ...] | None, BeforeValidator(as_tuple)] = None
    """Of several teachers, one number each; equal if nothing is said."""
    average: Literal["logits", "probabilities"] = "logits"
    """What of several teachers is averaged."""
    match_teacher: Annotated[int, Field(ge=0)] | None = None
    """Of several teachers, the number (from 0) of the one whose layers are matched."""
    form: Literal["probabilities", "log_probabilities", "logits"] = "probabilities"
    """What the numbers of a column or function are."""
    missing_mass: Literal["refuse", "renormalize", "spread"] = "refuse"
    """What to do with probabilities that add up to less than 1: refuse them, scale them up, or spread the rest evenly
    over the labels that are not mentioned."""
    rows_without: Literal["labels", "refuse"] = "labels"
    """Rows without soft labels: labels lets only their hard labels count, refuse is an error."""
    version: str | None = None
    """Of a function: names its answers, so that they are kept on disk for later runs too."""

    @model_validator(mode="after")
    def _one_way(self) -> TeacherSection:
        given = [name for name in _TEACHERS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give one of model: PATH_OR_HUB_ID, models: [...], run: NAME_OF_AN_EARLIER_STAGE, column: "
                             f"COLUMN or function: NAME; got {' and '.join(given) or 'none'}")
        idle = [name for name, fits in self._fits(given[0]).items()
                if not fits and getattr(self, name) != type(self).model_fields[name].default]
        if idle:
            raise ValueError(f"{', '.join(idle)} {'has' if len(idle) == 1 else 'have'} no effect beside {given[0]}; "
                             "leave it out")
        if isinstance(self.quantization, Mapping) and [
                self.quantization.get(name, False) for name in _BITS].count(True) != 1:
            raise ValueError(f"quantization: {_flow(self.quantization)} does not say in how many bits; set one of "
                             f"{' and '.join(_BITS)} to true")
        if self.seeds is not None and self.train is None:
            raise ValueError("seeds are for fine-tuning, so they need train: {...}")
        if self.weights is not None and len(self.weights) != self.size:
            raise ValueError(f"weights: {len(self.weights)} numbers for {self.size} teachers")
        if self.weights is not None and not any(self.weights):
            raise ValueError("weights: all are 0, so nobody teaches; give at least one teacher more")
        if self.match_teacher is not None and self.match_teacher >= self.size:
            raise ValueError(f"match_teacher: {self.match_teacher} is none of the {self.size} teachers, 0 to "
                             f"{self.size - 1}")
        return self

    def has_effect(self, name: str) -> bool:
        """Whether a setting means something beside the way in which this teacher is given."""
        way = next(way for way in _TEACHERS if getattr(self, way) is not None)
        return self._fits(way).get(name, True)

    def _fits(self, way: str) -> dict[str, bool]:
        is_model, are_several = way in ("model", "models", "run"), bool(self.models or self.seeds)
        are_numbers = way in ("column", "function")
        return {"train": is_model, "quantization": is_model, "seeds": way in ("model", "run"),
                "weights": are_several, "average": are_several, "match_teacher": are_several, "form": are_numbers,
                "missing_mass": are_numbers, "rows_without": way == "column", "version": way == "function"}

    @property
    def paths(self) -> tuple[str, ...]:
        """The models that teach, one for each seed; none if numbers do."""
        paths = self.models or ((self.model,) if self.model is not None else ())
        return tuple(path for path in paths for _ in self.seeds or (None,))

    @property
    def trainings(self) -> tuple[TeacherTraining | None, ...]:
        """How each of them is fine-tuned first, if at all."""
        if self.train is None or self.seeds is None:
            return (self.train,) * len(self.paths)
        return tuple(self.train.model_copy(update={"seed": seed}) for seed in self.seeds)

    @property
    def size(self) -> int:
        """How many models teach."""
        return len(self.models or (None,)) * len(self.seeds or (None,))


class StudentSection(Section):
    """The student, described in exactly one way. Other keys are values of the teacher's configuration to replace."""

    shape: str | None = None
    """A named shape: T6, T3 (from the teacher's layers), T3-small, T4-tiny, T12-nano (from scratch)."""
    layers: LayerNumbers = None
    """The teacher's layers to keep, counted from 0."""
    keep: Keep = None
    """half, or how many of the teacher's layers to keep, evenly spread."""
    config: Mapping[str, Any] | None = None
    """A new shape from scratch, such as {num_hidden_layers: 4, hidden_size: 160}; its keys may stand here directly."""
    network: Literal["BiGRU", "BiLSTM", "CNN"] | None = None
    """Another kind of network, with the teacher's word embeddings; sizes may stand beside it, as in {network: BiGRU,
    hidden_size: 512}."""
    model: str | None = None
    """A folder with a model of your own and its tokenizer, or a hub id."""
    run: str | None = None
    """The name of an earlier stage, whose student is trained further."""
    base: str | None = None
    """A folder or hub id: the student is made from this model and not from the teacher, and reads its tokens."""
    vocabulary: Literal["whole", "trimmed"] = "whole"
    """trimmed: only the tokens that occur in the training data stay in the student's vocabulary."""

    @model_validator(mode="before")
    @classmethod
    def _gather_config(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        own = list(cls.model_fields)
        loose = {key: value for key, value in values.items() if key not in own}
        for key in loose:
            if difflib.get_close_matches(str(key), own, n=1, cutoff=0.75):
                raise ValueError(f"{key}: {unknown_key(str(key), own)}; or keys of the teacher's configuration")
        if loose and values.get("config") is not None:
            raise ValueError(f"{', '.join(map(str, loose))}: write all values either inside config or beside it")
        rest = {key: value for key, value in values.items() if key in own}
        return {**rest, "config": loose} if loose else rest

    @model_validator(mode="after")
    def _one_way(self) -> StudentSection:
        given = [name for name in _STUDENTS if getattr(self, name) is not None]
        if len(given) != 1 and given != ["config", "network"]:
            ways = " or ".join(f"--set 'student={_flow({name: getattr(self, name)})}'" for name in given)
            raise ValueError("describe the student in exactly one way: {shape: T3}, {layers: [0, 2, 4]}, {keep: half}, "
                             "{num_hidden_layers: 4, ...}, {network: BiGRU}, {model: PATH} or {run: STAGE}; "
                             f"got {' and '.join(given) or 'none'}"
                             f"{f' (the command line replaces it whole: {ways})' if ways else ''}")
        if self.base is not None and (self.model or self.run):
            raise ValueError(f"base has no effect beside {given[0]}, which is a whole student; leave one of them out")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether the student is a model that is there, and not made from another."""
        return self.model is not None


def _flow(value: Mapping[str, Any]) -> str:
    """As one would write it on the command line."""
    plain = {key: list(item) if isinstance(item, tuple) else item for key, item in value.items()}
    return yaml_files.dump_line(plain)
