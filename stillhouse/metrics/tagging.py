"""Metrics of tagging: one tag a token, entities of one or more tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from stillhouse.errors import DataError

_CHUNK_TAG = re.compile(r"O|[BIESLUM](-.+)?")

# BILOU and BMES are IOBES in other letters; seqeval reads only the latter.
_LETTERS = {"L": "E", "U": "S", "M": "I"}


def is_chunked(label_names: Iterable[str]) -> bool:
    """Whether the labels mark entities of several tokens, so that `entity_metrics` makes sense.

    That is so if each is "O" or a position, B, I, E, S, L, U or M, alone or with a type as in "B-PER" (the schemes
    IOB, IOE, IOBES, BILOU and BMES), and not all are "O". Part-of-speech tags, for instance, are not.
    """
    names = set(label_names)
    return bool(names - {"O"}) and all(_CHUNK_TAG.fullmatch(name) for name in names)


def entity_metrics(predicted: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> dict[str, float]:
    """``precision``, ``recall`` and ``f1`` of whole entities, and ``token_accuracy`` of single tags, all 0 to 1.

    Both are N sentences of tags, as many a sentence. An entity is right if its type, first and last token are; it is
    found as by CoNLL's script conlleval (seqeval's default mode), which lets an entity begin without a B. All types
    count together (micro average). A score without anything to divide by, such as precision without predicted
    entities, is 0. Raises `DataError` for unequal lengths, no tokens, or a tag of no such scheme (see `is_chunked`).
    """
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    pairs = _pairs(predicted, wanted)
    precision, recall, f1, _ = precision_recall_fscore_support(
        [readable(tags) for tags in wanted], [readable(tags) for tags in predicted], average="micro", zero_division=0)
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1),
            "token_accuracy": sum(a == b for a, b in pairs) / len(pairs)}


def readable(tags: Sequence[str]) -> list[str]:
    """The tags of a sentence in seqeval's letters."""
    return [_LETTERS.get(tag[0], tag[0]) + tag[1:] for tag in tags]


def _pairs(predicted: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Predicted and wanted tag of each token, checked."""
    if len(predicted) != len(wanted):
        raise DataError(f"{len(predicted)} sentences of predicted tags and {len(wanted)} of wanted ones: "
                        "give as many, in the same order")
    for i, (found, right) in enumerate(zip(predicted, wanted, strict=True)):
        if len(found) != len(right):
            raise DataError(f"sentence {i} (counted from 0) has {len(found)} predicted tags and {len(right)} wanted "
                            "ones: give one a token")
    pairs = [pair for rows in zip(predicted, wanted, strict=True) for pair in zip(*rows, strict=True)]
    if not pairs:
        raise DataError("no tokens to score: give at least one tag")
    for tag in sorted({tag for pair in pairs for tag in pair}):
        if not _CHUNK_TAG.fullmatch(tag):
            raise DataError(f"the tag {tag!r} marks no part of an entity: tags are O or one of B, I, E, S, L, U, M "
                            "with a type, such as B-PER; score other tags as classes, with accuracy and macro_f1")
    return pairs
