"""Who teaches in a run: one model or several; numbers that stand in the data; or a function of texts.

Each answers for itself what follows from that; once they are loaded, little else in the room asks which of them it is.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, final

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Self

from stillhouse.adaptors import GramOutputs, ModuleOutputs, StoppingEarly
from stillhouse.presets import TEACHER_FUNCTIONS
from stillhouse.recipe import teacher_store
from stillhouse.recipe.models_schema import TeacherSection
from stillhouse.recipe.quantization import Quantization
from stillhouse.recipe.training_schema import TeacherTraining
from stillhouse.tasks import EncodedSplit, Task
from stillhouse.tasks.batching import EncodedRows
from stillhouse.tasks.model_paths import full_path
from stillhouse.tasks.text_bytes import text_rows
from stillhouse.teachers import CalledTeacher, EnsembleTeacher, GivenTeacher, LiveTeacher, TeacherSource
from stillhouse.training import Precision


class Loaded(NamedTuple):
    """A model and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


StandIns = Mapping[str, Loaded]
"""For paths that an earlier stage has yet to write: a model of the same shape with the same tokenizer."""


@dataclass(frozen=True)
class Member:
    """One model that teaches.

    Attributes:
        path: where it is from.
        model: the base model until it has been fine-tuned, if it is to be.
        training: how it is fine-tuned first; None: it is used as it is.
        entry: where the fine-tuned model is kept.
        is_stand_in: whether an earlier stage has yet to train it.
        quantization: how it answers; None: as it is.
    """

    path: str
    model: PreTrainedModel
    training: TeacherTraining | None
    entry: teacher_store.Entry | None
    is_stand_in: bool
    quantization: Quantization | None = None

    @cached_property
    def answering(self) -> PreTrainedModel:
        """What answers: the model itself, or made from it, if it is quantized and has been trained.

        Its attention implementation is the one that the model has when this is first read.
        """
        if self.quantization is None or not self.is_trained or self.is_stand_in:
            return self.model
        return self.quantization.of(self.model, self.path if self.entry is None else str(self.entry.folder))

    def source(self, task: Task[Any], autocast_dtype: torch.dtype | None) -> LiveTeacher:
        """What answers for it alone."""
        adaptor = GramOutputs(StoppingEarly(ModuleOutputs(task.adaptor())))
        return LiveTeacher(self.answering, adaptor, self.precision(Precision(autocast_dtype)).autocast_dtype,
                           self._identity)

    @cached_property
    def _identity(self) -> str | None:
        """What names a quantized model, whose packed weights do not."""
        if self.quantization is None or self.answering is self.model:
            return None
        return self.quantization.fingerprint(self.model)

    def precision(self, of_run: Precision) -> Precision:
        """The precision in which it runs: the run's, unless its layers were loaded in types of their own."""
        if self.quantization is None or self.quantization.runs_on_cpu or self.answering is self.model:
            return of_run
        return Precision()

    @property
    def is_trained(self) -> bool:
        """Whether nothing has to fine-tune it any more."""
        return self.entry is None or self.entry.is_stored

    @property
    def full_origin(self) -> str:
        """Where it is from, for people in any folder."""
        fine_tuned = "" if self.training is None else ", fine-tuned"
        return full_path(self.path) + fine_tuned + ("" if self.quantization is None else f", in {self.quantization}")


@dataclass(frozen=True)
class Teaching(abc.ABC):
    """All that teaches together. Abstract.

    Attributes:
        section: what the recipe says.
        members: the models; none if numbers teach.
        tokenizer: the one of all models; None if numbers teach.
    """

    section: TeacherSection
    members: tuple[Member, ...] = ()
    tokenizer: PreTrainedTokenizerBase | None = None

    obstacle: ClassVar[str] = ""
    """Why its answers cannot be kept; empty if they can."""
    judged_from_cache: ClassVar[bool] = False
    """Whether it is dear enough that its evaluation, too, asks only once."""
    labels_new_texts: ClassVar[bool] = True
    """Whether it can say something of texts that are not in the data."""

    @property
    @abc.abstractmethod
    def origin(self) -> str:
        """Where its answers are from, for people."""

    @final
    @property
    def full_origin(self) -> str:
        """The same, for people in any folder."""
        return "; ".join(member.full_origin for member in self.members) or self.origin

    @abc.abstractmethod
    def source(self, task: Task[Any], autocast_dtype: torch.dtype | None) -> TeacherSource:
        """What answers for it."""

    @abc.abstractmethod
    def view(self, task: Task[Any], split: str, mine: EncodedSplit, *, reads_alike: bool) -> EncodedRows:
        """A split as it reads it: the student's rows, ``mine``, where both read the same."""

    @abc.abstractmethod
    def answers_all(self, mine: EncodedSplit) -> bool:
        """Whether it has something to say of every one of these rows."""

    @final
    @property
    def is_trained(self) -> bool:
        """Whether no model has to be fine-tuned any more."""
        return all(member.is_trained for member in self.members)

    @final
    @property
    def is_known(self) -> bool:
        """Whether the models are what will teach, and nothing is to train them first."""
        return self.is_trained and not any(member.is_stand_in for member in self.members)

    @final
    @property
    def quantization(self) -> dict[str, str]:
        """What ``metrics.json`` says of how the models are quantized; nothing if they are not."""
        return {} if self.section.quantization is None else {"quantization": str(self.members[0].quantization)}

    @final
    @property
    def matched(self) -> PreTrainedModel | None:
        """The model whose layers a student's may be matched with; of several the first if nothing else is said."""
        return self.members[self.section.match_teacher or 0].model if self.members else None

    @final
    def with_models(self, models: list[PreTrainedModel]) -> Self:
        """The same after its models were fine-tuned."""
        members = [replace(member, model=model) for member, model in zip(self.members, models, strict=True)]
        return replace(self, members=tuple(members))

    @final
    def move_to(self, device: torch.device) -> None:
        """Move the models that answer to a device. Quantized ones are where they can be."""
        for member in self.members:
            module: torch.nn.Module = member.model
            if member.quantization is None:
                module.to(device)


@final
@dataclass(frozen=True)
class ModelsTeaching(Teaching):
    """One model, or several by their mean."""

    @property
    def origin(self) -> str:
        return ", ".join(member.path for member in self.members)

    def source(self, task: Task[Any], autocast_dtype: torch.dtype | None) -> TeacherSource:
        sources = [member.source(task, autocast_dtype) for member in self.members]
        if len(sources) == 1:
            return sources[0]
        return EnsembleTeacher(sources, self.section.weights, self.section.average, self.section.match_teacher)

    def view(self, task: Task[Any], split: str, mine: EncodedSplit, *, reads_alike: bool) -> EncodedRows:
        if reads_alike:
            return mine
        assert self.tokenizer is not None  # models have one
        return task.encode(split, self.tokenizer)

    def answers_all(self, mine: EncodedSplit) -> bool:
        return True


@final
@dataclass(frozen=True)
class ColumnTeaching(Teaching):
    """Soft labels in a column of the data, which `stillhouse.recipe.reading` puts beside the student's inputs."""

    obstacle = "the teacher's numbers stand in the data"
    labels_new_texts = False

    @property
    def origin(self) -> str:
        return f"the {self.section.form} in column {self.section.column}"

    def source(self, task: Task[Any], autocast_dtype: torch.dtype | None) -> TeacherSource:
        return GivenTeacher(len(task.label_names))

    def view(self, task: Task[Any], split: str, mine: EncodedSplit, *, reads_alike: bool) -> EncodedRows:
        return mine

    def answers_all(self, mine: EncodedSplit) -> bool:
        return bool(mine.rows["logits_mask"].all())


@final
@dataclass(frozen=True)
class FunctionTeaching(Teaching):
    """A registered function of texts."""

    judged_from_cache = True

    @property
    def origin(self) -> str:
        return f"the function {self.section.function}"

    def source(self, task: Task[Any], autocast_dtype: torch.dtype | None) -> TeacherSource:
        section = self.section
        version = None if section.version is None else f"{section.function} {section.version}"
        return CalledTeacher(TEACHER_FUNCTIONS[str(section.function)], form=section.form, label_names=task.label_names,
                             missing_mass=section.missing_mass, version=version)

    def view(self, task: Task[Any], split: str, mine: EncodedSplit, *, reads_alike: bool) -> EncodedRows:
        examples = task.split(split)
        return text_rows(examples["text"], examples["text_pair"] if "text_pair" in examples.columns else None)

    def answers_all(self, mine: EncodedSplit) -> bool:
        return True
