"""What all parts of a recipe are."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from stillhouse.sections.problems import config_error


class Section(BaseModel):
    """A part of a recipe: frozen, without conversions, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True,
                              validate_default=False)

    @classmethod
    def of(cls, **values: Any) -> Self:
        """The section with these values. Raises one `ConfigError` that lists every problem."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise config_error(error, cls, cls.__name__) from error
