"""Precision, recall and F1 of each type of entity, found as `stillhouse.metrics.entity_metrics` finds them."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.metrics.tagging import is_chunked, readable
from stillhouse.report.classes import ClassScore, class_score

__all__ = ["entity_scores", "is_chunked", "type_of"]

Entity = tuple[int, str, int, int]
"""Sentence, type, first and last token."""


def type_of(tag: str) -> str:
    """The type of an entity that a tag is a part of: ``B-PER`` is PER, ``O`` is O, a tag without a type is itself."""
    return tag.partition("-")[2] or tag


def entity_scores(gold: Sequence[Sequence[str]], said: Sequence[Sequence[str]]) -> list[ClassScore]:
    """A score for each type of entity that occurs, by name. An entity is right if type, first and last token are."""
    wanted, found = _entities(gold), _entities(said)
    types = sorted({entity[1] for entity in wanted | found})
    return [
        class_score(name, sum(entity[1] == name for entity in wanted & found),
                    sum(entity[1] == name for entity in found), sum(entity[1] == name for entity in wanted))
        for name in types]


def _entities(sentences: Sequence[Sequence[str]]) -> set[Entity]:
    from seqeval.metrics.sequence_labeling import get_entities

    return {(number, str(kind), int(start), int(end))
            for number, tags in enumerate(sentences)
            for kind, start, end in get_entities(readable(tags))}
