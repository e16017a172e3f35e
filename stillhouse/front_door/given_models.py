"""Teachers and students as a user of Python has them: names, loaded models, descriptions; as sections of a recipe."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, final

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.batches import bytes_of
from stillhouse.cache_dirs import given_dir
from stillhouse.errors import ConfigError, unknown_name
from stillhouse.front_door.given import Given
from stillhouse.recipe.vocabulary import identity_of
from stillhouse.students import StudentSpec, known_networks, known_shapes
from stillhouse.tasks.pretrained import load_tokenizer, save_pretrained

ModelLike: TypeAlias = str | os.PathLike[str] | PreTrainedModel
TokenizerLike: TypeAlias = str | os.PathLike[str] | PreTrainedTokenizerBase | None
TeacherLike: TypeAlias = ModelLike | Sequence[ModelLike] | Mapping[str, Any]
StudentLike: TypeAlias = ModelLike | StudentSpec | Mapping[str, Any]

_SHAPE_LIKE = re.compile(r"[Tt]\d+(-\w+)?")
_SAYS_NOTHING = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
"""What saving a model changes in its configuration, or where the model is from: nothing of what it computes."""


@final
class GivenModels:
    """Turns models into what a recipe can name.

    Args:
        tokenizer: what the models read with that are given as objects; without one, each reads with the tokenizer that
            lies where it was loaded from.
        student_tokenizer: what a student reads with that is given as an object, if it is another.
    """

    def __init__(self, tokenizer: TokenizerLike, student_tokenizer: TokenizerLike) -> None:
        self.found: list[Given] = []
        """The models that were given as objects, so far."""
        self._tokenizer = tokenizer
        self._student_tokenizer = student_tokenizer
        self._idle = {name for name, value in (("tokenizer", tokenizer), ("student_tokenizer", student_tokenizer))
                      if value is not None}

    def teacher_section(self, teacher: TeacherLike) -> dict[str, Any]:
        """The section ``teacher`` of a recipe. Raises `ConfigError` for what is no teacher."""
        if isinstance(teacher, Mapping):
            section = dict(teacher)
            if "model" in section:
                section["model"] = self._place(section["model"], "teacher")
            if "models" in section:
                section["models"] = self._places(section["models"])
            return section
        if isinstance(teacher, (list, tuple)):
            places = self._places(teacher)
            return {"model": places[0]} if len(places) == 1 else {"models": places}
        return {"model": self._place(teacher, "teacher")}

    def student_section(self, student: StudentLike) -> dict[str, Any]:
        """The section ``student`` of a recipe. Raises `ConfigError` for what is no student."""
        if isinstance(student, StudentSpec):
            return {item.name: value for item in dataclasses.fields(student)
                    if (value := getattr(student, item.name)) is not None}
        if isinstance(student, Mapping):
            return {key: self._place(value, "student") if key in ("model", "base") else value
                    for key, value in student.items()}
        if isinstance(student, str) and student in known_shapes():
            return {"shape": student}
        if isinstance(student, str) and student in known_networks():
            return {"network": student}
        if isinstance(student, str) and _SHAPE_LIKE.fullmatch(student) and not Path(student).is_dir():
            raise ConfigError(f"student: {unknown_name('shape', student, known_shapes())}; or give a folder or hub id, "
                              "or a mapping such as {'keep': 'half'}")
        return {"model": self._place(student, "student")}

    def require_tokenizers_used(self) -> None:
        """Raise `ConfigError` for a tokenizer that belongs to nothing."""
        if self._idle:
            raise ConfigError(f"{' and '.join(sorted(self._idle))}: no effect, since no model that it would belong to "
                              "is given as an object; names of folders and hub ids bring their own tokenizer, so leave "
                              "it out")

    def _places(self, models: Any) -> list[str]:
        if not isinstance(models, (list, tuple)) or not models:
            raise ConfigError(f"teacher: {models!r:.80} is no list of models; give hub ids, folders or loaded models")
        return [self._place(model, "teacher" if len(models) == 1 else f"teacher number {number}")
                for number, model in enumerate(models, start=1)]

    def _place(self, model: Any, called: str) -> str:
        if isinstance(model, (str, os.PathLike)):
            return os.fspath(model)
        if isinstance(model, PreTrainedModel):
            given = _given(model, self._tokenizer_of(model, called), f"the given {called}")
            self.found.append(given)
            return str(given.path)
        if isinstance(model, nn.Module):
            raise ConfigError(f"{called}: a {type(model).__name__} is no PreTrainedModel of transformers, so a run "
                              "cannot save and load it; give the PreTrainedModel inside it, or train modules of your "
                              "own with stillhouse.GeneralDistiller, which takes any with adaptors")
        ways = ("a list of these, or a mapping such as {'model': ..., 'train': {'epochs': 3}}" if called != "student"
                else f"a StudentSpec, one of {', '.join(known_shapes())}, or a mapping such as {{'keep': 'half'}}")
        raise ConfigError(f"{called}: {model!r:.80} is of type {type(model).__name__}; give a hub id, a folder, a "
                          f"PreTrainedModel, {ways}")

    def _tokenizer_of(self, model: PreTrainedModel, called: str) -> PreTrainedTokenizerBase:
        keyword, tokenizer = "tokenizer", self._tokenizer
        if called == "student" and self._student_tokenizer is not None:
            keyword, tokenizer = "student_tokenizer", self._student_tokenizer
        self._idle.discard(keyword)
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            return tokenizer
        if isinstance(tokenizer, (str, os.PathLike)):
            return load_tokenizer(os.fspath(tokenizer))
        if tokenizer is not None:
            raise ConfigError(f"{keyword}: {tokenizer!r:.80} is of type {type(tokenizer).__name__}; give a tokenizer "
                              "of transformers, or the folder or hub id of one")
        return _own_tokenizer(model, called)


def _own_tokenizer(model: PreTrainedModel, called: str) -> PreTrainedTokenizerBase:
    """What lies where the model was loaded from."""
    origin = model.name_or_path
    reason = "the model does not say where it was loaded from"
    if origin:
        try:
            return load_tokenizer(origin)
        except ConfigError as error:
            reason = f"where it was loaded from, none is found: {error}"
    raise ConfigError(f"{called}: a model that is given as an object needs its tokenizer; give tokenizer=... "
                      f"({reason})")


def _given(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, called: str) -> Given:
    name = f"{type(model).__name__}-{_content_hash(model, tokenizer)}"
    return Given(called, given_dir() / "models" / name, lambda path: save_pretrained(model, tokenizer, path))


def _content_hash(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    settings = {name: value for name, value in model.config.to_dict().items() if name not in _SAYS_NOTHING}
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=16)
    digest.update(identity_of(tokenizer).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()
