"""Promises of the windows: every token of a context, as much overlap as asked for, and answers where they stand."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stillhouse.errors import ConfigError, DataError
from stillhouse.tasks import windows as module
from stillhouse.tasks.pretrained import load_tokenizer
from stillhouse.tasks.windows import Windows, cut, located

SIZES = {"max_length": 24, "stride": 6, "max_question_length": 8}


@pytest.fixture
def tokenizer(encoder: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(encoder)


@pytest.fixture
def bytes_alone() -> PreTrainedTokenizerBase:
    """A tokenizer with a token a byte and no special tokens but for the padding."""
    letters = sorted(ByteLevel.alphabet())
    backend = Tokenizer(BPE(vocab={"<pad>": 0} | {letter: i for i, letter in enumerate(letters, start=1)}, merges=[]))
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")


def letters(draw: random.Random, least: int, most: int) -> str:
    return " ".join(draw.choices("abcdefghij", k=draw.randint(least, most)))


def asked(count: int = 20) -> tuple[list[str], list[str]]:
    draw = random.Random(3)
    return [letters(draw, 1, 7) for _ in range(count)], [letters(draw, 1, 60) for _ in range(count)]


def ids_alone(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def rows_of(windows: Windows, question: int) -> list[int]:
    return [row for row in range(len(windows)) if windows.questions[row] == question]


def plain(windows: Windows) -> list[Any]:
    tokens = {name: [list(row) for row in rows] for name, rows in windows.tokens.items()}
    places = [column.tolist() for column in (windows.questions, windows.first, windows.no_answer)]
    return [tokens, *places, [part.tolist() for part in windows.offsets]]


def test_windows_of_a_context_follow_each_other_and_share_the_stride(tokenizer: PreTrainedTokenizerBase) -> None:
    questions, contexts = asked()
    windows = cut(tokenizer, questions, contexts, **SIZES)
    assert windows.questions.tolist() == sorted(windows.questions.tolist())
    for number, (question, context) in enumerate(zip(questions, contexts, strict=True)):
        inside, before = ids_alone(tokenizer, context), ids_alone(tokenizer, question)
        room = 24 - 3 - len(before)
        at = 0
        for row in rows_of(windows, number):
            part = inside[at : at + room]
            cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
            assert list(windows.tokens["input_ids"][row]) == [cls, *before, sep, *part, sep]
            assert list(windows.tokens["token_type_ids"][row]) == [0] * (len(before) + 2) + [1] * (len(part) + 1)
            end, at = at + room, at + room - 6
        assert end >= len(inside) > end - room


def test_answers_may_be_at_the_contexts_tokens_and_at_the_class_token_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    questions, contexts = asked()
    windows = cut(tokenizer, questions, contexts, **SIZES)
    assert windows.no_answer.tolist() == [0] * len(windows)
    for row, mask in enumerate(windows.tokens["span_mask"]):
        types = windows.tokens["token_type_ids"][row]
        assert list(mask) == [1, *list(types)[1:-1], 0]
        assert windows.first[row] == list(types).index(1)


def test_offsets_say_which_characters_a_token_stands_for(tokenizer: PreTrainedTokenizerBase) -> None:
    questions, contexts = asked()
    windows = cut(tokenizer, questions, [f"  {context} " for context in contexts], **SIZES)
    for row, question in enumerate(windows.questions):
        ids = list(windows.tokens["input_ids"][row])[windows.first[row] : -1]
        said = [f"  {contexts[question]} "[begin:end] for begin, end in windows.offsets[row].tolist()]
        assert said == tokenizer.convert_ids_to_tokens(ids)


def test_an_answer_is_located_in_every_window_that_holds_all_of_it(tokenizer: PreTrainedTokenizerBase) -> None:
    questions, contexts = asked(60)
    draw = random.Random(4)
    spans = []
    for context in contexts:
        first = draw.randrange(len(context.split()))
        last = min(first + draw.randrange(6), len(context.split()) - 1)
        spans.append((2 * first, 2 * last + 1))
    windows = cut(tokenizer, questions, contexts, **SIZES)
    positions = located(windows, spans).tolist()
    cut_off = 0
    for number, (begin, end) in enumerate(spans):
        answer, found = ids_alone(tokenizer, contexts[number][begin:end]), 0
        for row in rows_of(windows, number):
            held = windows.offsets[row][0, 0] <= begin and end <= windows.offsets[row][-1, 1]
            first, last = positions[row]
            if held:
                assert list(windows.tokens["input_ids"][row])[first : last + 1] == answer
                assert windows.offsets[row][first - windows.first[row], 0] == begin
                found += 1
            else:
                assert [first, last] == [0, 0]
                cut_off += int(windows.offsets[row][0, 0] < end and begin < windows.offsets[row][-1, 1])
        assert found  # answers have at most as many tokens as windows share
    assert cut_off > 5


def test_no_answer_is_the_class_token_and_an_unknown_one_is_left_out(tokenizer: PreTrainedTokenizerBase) -> None:
    windows = cut(tokenizer, ["a", "b"], ["c " * 40, "d " * 40], **SIZES)
    expected = [[0, 0] if question == 0 else [-100, -100] for question in windows.questions]
    assert located(windows, [(0, 0), None]).tolist() == expected


def test_an_answer_inside_a_token_is_that_token(tokenizer: PreTrainedTokenizerBase) -> None:
    windows = cut(tokenizer, ["a"], ["b xyz c"], **SIZES)
    assert located(windows, [(3, 4)]).tolist() == [[4, 4]]


def test_characters_that_the_tokenizer_leaves_out_do_not_lose_an_answer(tokenizer: PreTrainedTokenizerBase) -> None:
    windows = cut(tokenizer, ["a"] * 3, ["\u200bb c d\u200b"] * 3, **SIZES)
    whole, last, nothing = located(windows, [(0, 7), (5, 7), (6, 7)]).tolist()
    assert whole == [3, 5]
    assert last == [5, 5]
    assert nothing == [0, 0]


def test_a_cut_context_reaches_no_further_than_its_own_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.truncation_side = "left"
    context = letters(random.Random(0), 60, 60)
    windows = cut(tokenizer, ["a"], [context], **SIZES)
    assert len(windows) > 2
    assert windows.offsets[0][0, 0] > 0
    for row, (first, last) in enumerate(located(windows, [(0, 3)]).tolist()):
        assert [first, last] == ([3, 4] if windows.offsets[row][0, 0] == 0 else [0, 0])


def test_long_questions_are_cut_and_lose_outer_spaces(tokenizer: PreTrainedTokenizerBase) -> None:
    questions = [" \n a b c d e f g h i j ", "a b c d e f g h "]
    short, fit = (list(row) for row in cut(tokenizer, questions, ["a"] * 2, **SIZES).tokens["input_ids"])
    assert short == fit == tokenizer("a b c d e f g h", "a")["input_ids"]


def test_every_window_holds_the_whole_question_even_if_it_is_longer_than_the_context(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    question, context = "a b c d e f g h", "i j i j i j i"
    windows = cut(tokenizer, [question], [context], max_length=14, stride=1, max_question_length=8)
    rows = [list(row) for row in windows.tokens["input_ids"]]
    asked_ids = ids_alone(tokenizer, question)
    assert len(rows) > 1 and all(row[1 : 1 + len(asked_ids)] == asked_ids for row in rows)


def test_a_question_is_never_cut_inside_a_character(bytes_alone: PreTrainedTokenizerBase) -> None:
    sizes = {"max_length": 12, "stride": 2, "max_question_length": 3}
    rows = cut(bytes_alone, ["a\N{GRINNING FACE}", "\N{GRINNING FACE}", "ab"], ["x"] * 3, **sizes).tokens["input_ids"]
    assert [bytes_alone.decode(list(row)) for row in rows] == ["ax", "x", "abx"]


def test_without_a_class_token_the_first_position_stands_for_no_answer(bytes_alone: PreTrainedTokenizerBase) -> None:
    windows = cut(bytes_alone, ["ab"], ["x\N{GRINNING FACE}yz"], max_length=10, stride=4, max_question_length=3)
    assert len(windows) == 1
    assert windows.no_answer.tolist() == [0]
    assert list(windows.tokens["span_mask"][0]) == [1, 0, 1, 1, 1, 1, 1, 1, 1]
    assert located(windows, [(1, 2)]).tolist() == [[3, 6]]
    assert located(windows, [(0, 0)]).tolist() == [[0, 0]]


def test_a_context_without_tokens_still_is_a_row(tokenizer: PreTrainedTokenizerBase) -> None:
    windows = cut(tokenizer, ["a", "b"], ["", "c"], **SIZES)
    assert [len(part) for part in windows.offsets] == [0, 1]
    assert list(windows.tokens["span_mask"][0]) == [1, 0, 0, 0]
    assert located(windows, [(0, 0), (0, 1)]).tolist() == [[0, 0], [3, 3]]


def test_rows_are_the_same_however_many_are_tokenised_at_once(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plain(cut(tokenizer, *asked(), **SIZES))
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 3)
    assert plain(cut(tokenizer, *asked(), **SIZES)) == whole


def test_a_stride_that_leaves_no_new_tokens_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    questions, contexts = ["a", "a b c"], ["d " * 40] * 2
    sizes = {"max_length": 12, "max_question_length": 8}
    with pytest.raises(DataError, match=r"max_length is 12: question 2 has 3 tokens, which with 3 special ones leaves "
                                        r"6 for its context, .* share 6 \(data.stride\); set data.max_length to 13 or "
                                        "more, or data.stride below 6"):
        cut(tokenizer, questions, contexts, stride=6, **sizes)
    assert len(cut(tokenizer, questions, contexts, stride=5, **sizes)) > 40
    assert len(cut(tokenizer, questions, contexts, stride=6, **sizes | {"max_length": 13})) > 40
    with pytest.raises(DataError, match=r"leaves 0 for its context.* set data.max_length to 7 or more$"):
        cut(tokenizer, questions, contexts, stride=0, max_length=5, max_question_length=8)


def test_tokenizers_that_do_not_fit_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.padding_side = "left"
    with pytest.raises(ConfigError, match="pads to the left, and question answering needs padding to the right"):
        cut(tokenizer, ["a"], ["b"], **SIZES)
    slow: Any = SimpleNamespace(is_fast=False, padding_side="right")
    with pytest.raises(ConfigError, match="give a model with a fast tokenizer"):
        cut(slow, ["a"], ["b"], **SIZES)
