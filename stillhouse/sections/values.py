"""Kinds of values that sections of every kind have, each with the message for a value that is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator


def as_tuple(value: Any) -> Any:
    """A list as a tuple; anything else is left for the check that follows."""
    return tuple(value) if isinstance(value, list) else value


def listed(value: Any) -> list[Any]:
    """The items of a list or tuple; none of anything else."""
    return list(value) if isinstance(value, (list, tuple)) else []


def one_or_more(value: Any) -> Any:
    """Nothing, one mapping or text, or a list of them, as a tuple."""
    return () if value is None else (value,) if isinstance(value, (Mapping, str)) else as_tuple(value)


def _label_names(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    names = listed(value)
    if names and all(isinstance(name, str) for name in names):
        return tuple(names)
    raise ValueError(f"{value!r}: write a file, or a list of names in the order of the numbers (texts, in quotes if "
                     "they look like numbers)")


AS_IT_IS = PlainSerializer(lambda value: value, return_type=Any)
OneOrMore = BeforeValidator(one_or_more)
"""Nothing, one mapping or name or a list, as a tuple."""

LabelNames = Annotated[str | tuple[str, ...] | None, PlainValidator(_label_names), AS_IT_IS]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Columns = Annotated[tuple[str, ...], OneOrMore, Field(min_length=1)]
"""One column, or a list of columns."""
Files = Annotated[tuple[str, ...], OneOrMore]
"""One file, folder or hub id, or a list of such."""
