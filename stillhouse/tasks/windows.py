"""Questions with long contexts as token ids: a context that is too long for one row becomes windows that overlap."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stillhouse.errors import ConfigError, DataError

_ROWS_AT_ONCE = 1_000  # a tokenizer's own result takes hundreds of bytes a token
_NO_TOKENS = frozenset({"offset_mapping", "overflow_to_sample_mapping", "attention_mask"})

Ints = np.ndarray[Any, np.dtype[np.int64]]
Offsets = np.ndarray[Any, np.dtype[np.int32]]
Span = tuple[int, int]
"""The character where a text begins, and the one after it."""


@final
@dataclass(frozen=True, eq=False)
class Windows:
    """Rows of a question and a window of its context, in the order of the questions; each question has one or more.

    Attributes:
        tokens: ``input_ids``, what else the tokenizer gives, and ``span_mask``, 1 where an answer may start or end: at
            the context's tokens, and at the position that stands for no answer. One value a token, without padding.
        questions: (W,): the question that a window is of, counted from 0.
        first: (W,): the position of the context's first token.
        no_answer: (W,): the position that stands for no answer: of the class token, or 0 if the tokenizer has none.
        offsets: of each window (n, 2): the characters of the context that its n tokens stand for.
    """

    tokens: Mapping[str, list[Sequence[int]]]
    questions: Ints
    first: Ints
    no_answer: Ints
    offsets: Sequence[Offsets]

    def __len__(self) -> int:
        return len(self.offsets)


def cut(tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], contexts: Sequence[str], *, max_length: int,
        stride: int, max_question_length: int) -> Windows:
    """Rows of at most ``max_length`` tokens, in which neighbouring windows share ``stride`` tokens of the context.

    Questions lose spaces around them and whatever comes after ``max_question_length`` tokens. Raises `ConfigError` for
    a tokenizer that pads to the left or cannot say where a token stands in the text, and `DataError` if a
    question leaves no more than ``stride`` tokens of room.
    """
    _require_fit(tokenizer)
    asked, lengths = _shortened(tokenizer, questions, max_question_length)
    _require_room(tokenizer, lengths, max_length, stride)
    tokens: dict[str, list[Sequence[int]]] = {}
    offsets: list[Offsets] = []
    places: list[tuple[int, int, int]] = []
    cls = tokenizer.cls_token_id
    for part in _parts(len(asked)):
        found = tokenizer(asked[part], list(contexts[part]), truncation="only_second", max_length=max_length,
                          stride=stride, padding=False, return_overflowing_tokens=True, return_offsets_mapping=True,
                          return_attention_mask=False)
        for name in (name for name in found if name not in _NO_TOKENS):
            code = "i" if name == "input_ids" else "b"  # a list of Python's own numbers takes up to 36 bytes a token
            tokens.setdefault(name, []).extend(array(code, values) for values in found[name])
        for row, question in enumerate(found["overflow_to_sample_mapping"]):
            ids, sides = found["input_ids"][row], found.sequence_ids(row)
            num = sides.count(1)
            first = sides.index(1) if num else len(sides)
            no_answer = ids.index(cls) if cls in ids else 0
            places.append((part.start + question, first, no_answer))
            kept = found["offset_mapping"][row][first : first + num]
            offsets.append(np.array(kept, dtype=np.int32).reshape(num, 2))
            tokens.setdefault("span_mask", []).append(_span_mask(len(ids), first, num, no_answer))
    columns = np.array(places, dtype=np.int64).reshape(-1, 3)
    return Windows(tokens, columns[:, 0], columns[:, 1], columns[:, 2], offsets)


def located(windows: Windows, spans: Sequence[Span | None]) -> Tensor:
    """(W, 2): the positions of the first and the last token of the answer of each window's question.

    ``spans`` has one for each question: an empty span for no answer, None if nobody knows. A window that does not hold
    the whole answer says no answer; where nobody knows stands -100.
    """
    positions = np.stack([windows.no_answer, windows.no_answer], axis=1)
    held = _held(windows, len(spans))
    for window, question in enumerate(windows.questions):
        span = spans[question]
        if span is None:
            positions[window] = -100
        elif span[0] < span[1] and held[window, 0] <= span[0] and span[1] <= held[window, 1]:
            offsets = windows.offsets[window]
            first = np.searchsorted(offsets[:, 1], span[0], side="right")
            last = np.searchsorted(offsets[:, 0], span[1], side="left") - 1
            if first <= last:  # otherwise the tokenizer left all of the answer's characters out
                positions[window] = windows.first[window] + first, windows.first[window] + last
    return torch.from_numpy(positions)


def _held(windows: Windows, num_questions: int) -> Ints:
    """(W, 2): from where to where in the context each window reaches.

    A tokenizer may leave out characters, so a context's outer windows reach as far as there is text.
    """
    endless = np.iinfo(np.int64).max
    held = np.array([(part[0, 0], part[-1, 1]) if len(part) else (endless, -1) for part in windows.offsets],
                    dtype=np.int64).reshape(-1, 2)
    begins, ends = np.full(num_questions, endless), np.full(num_questions, -1)
    np.minimum.at(begins, windows.questions, held[:, 0])
    np.maximum.at(ends, windows.questions, held[:, 1])
    filled = held[:, 1] >= 0
    held[filled & (held[:, 0] == begins[windows.questions]), 0] = 0
    held[filled & (held[:, 1] == ends[windows.questions]), 1] = endless
    return held


def _span_mask(length: int, first: int, num: int, no_answer: int) -> Sequence[int]:
    mask = array("b", [0] * first + [1] * num + [0] * (length - first - num))
    mask[no_answer] = 1
    return mask


def _shortened(tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], longest: int) -> tuple[list[str], Ints]:
    """The questions, stripped and cut to the first ``longest`` tokens, and how many tokens each has."""
    texts = [question.strip() for question in questions]
    lengths = np.zeros(len(texts), dtype=np.int64)
    for part in _parts(len(texts)):
        found = tokenizer(texts[part], add_special_tokens=False, return_offsets_mapping=True,
                          return_attention_mask=False, verbose=False)
        for index, ids, offsets in zip(range(part.start, part.stop), found["input_ids"], found["offset_mapping"],
                                       strict=True):
            lengths[index] = len(ids)
            kept = longest
            while lengths[index] > longest:  # again if the end of the cut text is split into more tokens than before
                texts[index] = questions[index].strip()[: offsets[kept - 1][1]] if kept else ""
                lengths[index] = len(tokenizer(texts[index], add_special_tokens=False)["input_ids"])
                kept -= 1
    return texts, lengths


def _require_fit(tokenizer: PreTrainedTokenizerBase) -> None:
    name = type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise ConfigError(f"{name} does not say which characters its tokens stand for, which question answering needs; "
                          "give a model with a fast tokenizer (one that has a tokenizer.json)")
    if tokenizer.padding_side == "left":
        raise ConfigError(f"{name} pads to the left, and question answering needs padding to the right; set "
                          "padding_side to 'right' in the tokenizer's folder, or give another model")


def _require_room(tokenizer: PreTrainedTokenizerBase, lengths: Ints, max_length: int, stride: int) -> None:
    if not len(lengths):
        return
    special, longest = tokenizer.num_special_tokens_to_add(pair=True), int(lengths.max())
    room = max_length - special - longest
    if room > stride:
        return
    less = f", or data.stride below {room}" if room > 0 else ""
    enough = special + longest + stride + 1
    raise DataError(f"data.max_length is {max_length}: question {int(lengths.argmax()) + 1} has {longest} tokens, "
                    f"which with {special} special ones leaves {max(0, room)} for its context, but neighbouring "
                    f"windows share {stride} (data.stride); set data.max_length to {enough} or more{less}")


def _parts(num_rows: int) -> Iterator[slice]:
    return (slice(start, min(start + _ROWS_AT_ONCE, num_rows)) for start in range(0, num_rows, _ROWS_AT_ONCE))
