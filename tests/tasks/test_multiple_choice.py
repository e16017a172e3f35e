"""Promises of multiple choice: every choice is read with its question, and a row is all of its choices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stillhouse.batches import as_batch, row_keys
from stillhouse.errors import DataError, OutputError
from stillhouse.tasks import MultipleChoice, MultipleChoiceData
from stillhouse.teachers import CachedTeacher, LiveTeacher
from stillhouse.teachers.stores import MemoryStore
from stillhouse.types import LOGITS, Key

Write = Callable[..., str]
ROWS = [
    {"question": "a b", "choices": ["c", "d e f", "g"], "label": 1},
    {"question": "b", "choices": ["a", "b", "c"], "label": 0},
    {"question": "c d e f", "choices": ["j i h", "b", "c d"], "label": 2},
]


def loaded(write: Write, *rows: Any, **settings: Any) -> MultipleChoice:
    path = write("rows.jsonl", *(rows or ROWS))
    task = MultipleChoice(MultipleChoiceData.of(train=path, validation=path, **{"max_length": 16, **settings}))
    task.load()
    return task


def test_each_choice_is_encoded_with_its_question(write: Write, encoder: str) -> None:
    task = loaded(write)
    tokenizer = task.load_tokenizer(encoder)
    encoded = task.encode("train", tokenizer)
    assert len(encoded) == 3 and encoded.lengths.tolist() == [8, 5, 10]
    batch = encoded.batch([2, 0])
    assert batch["labels"].tolist() == [2, 1]
    for index, row in enumerate((ROWS[2], ROWS[0])):
        for number, choice in enumerate(row["choices"]):
            alone = tokenizer(row["question"], choice)
            for name, values in alone.items():
                found = batch[name][index, number]
                assert found[: len(values)].tolist() == values
                assert not found[len(values) :].any()
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["token_type_ids"].shape == (2, 3, 10)


def test_choices_may_be_columns(write: Write) -> None:
    row = {"start": "a", "ending0": "b", "ending1": "c", "label": 1}
    task = loaded(write, row, question="start", choices=["ending0", "ending1"])
    assert list(task.split("train")["choices"]) == [["b", "c"]]
    assert (task.num_choices, task.label_names) == (2, ())


@pytest.mark.parametrize(("labels", "numbers"), [
    ((0, 2), [0, 2]), (("A", "C"), [0, 2]), (("a", "B"), [0, 1]), (("0", "2"), [0, 2]), ((1.0, 2), [1, 2]),
])
def test_the_right_choice_is_a_number_or_a_letter(write: Write, labels: Any, numbers: list[int]) -> None:
    task = loaded(write, *({**ROWS[0], "answer": label} for label in labels), label="answer")
    assert list(task.split("train")["label"]) == numbers


def test_numbers_in_csv_files_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("question,x,y,label\na,b,c,1\nd,e,f,0\n", encoding="utf-8")
    task = MultipleChoice(MultipleChoiceData.of(train=str(path), validation=str(path), choices=["x", "y"]))
    task.load()
    assert list(task.split("train")["label"]) == [1, 0]


@pytest.mark.parametrize(("change", "problem"), [
    ({"label": 3}, "column 'label': 3 is none of the choices; write a number from 0 to 2, or a letter from A to C"),
    ({"label": -1}, "column 'label': -1 is none of the choices"),
    ({"label": "d e f"}, "column 'label': 'd e f' is none of the choices"),
    ({"label": True}, "column 'label': True is none of the choices"),
    ({"label": 0.5}, "column 'label': 0.5 is none of the choices"),
    ({"label": None}, "column 'label': there is no answer"),
    ({"label": ""}, "column 'label': there is no answer"),
    ({"choices": ["a", "b"]}, "column 'choices': the number of choices is 2, but 3 in the first row that was read"),
    ({"choices": "a"}, "column 'choices': 'a' is no list of texts"),
    ({"question": None}, "column 'question': there is no text"),
])
def test_a_bad_row_is_named(write: Write, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=f"row 2, {problem}"):
        loaded(write, ROWS[0], ROWS[1] | change)


def test_a_letter_beyond_the_choices_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match="row 2, column 'label': 'D' is none of the choices"):
        loaded(write, ROWS[0] | {"label": "B"}, ROWS[1] | {"label": "D"})


def test_one_choice_is_none_and_letters_do_not_go_with_numbers(write: Write) -> None:
    with pytest.raises(DataError, match="row 1, column 'choices': there is one choice; give at least 2 a row"):
        loaded(write, {"question": "a", "choices": ["b"], "label": 0})
    with pytest.raises(DataError, match="row 2, column 'label': '1' is a number, but other rows have letters"):
        loaded(write, ROWS[0] | {"label": "B"}, ROWS[1] | {"label": "1"})


def test_other_splits_have_as_many_choices(write: Write) -> None:
    train, test = write("train.jsonl", *ROWS), write("test.jsonl", ROWS[0] | {"choices": ["a", "b", "c", "d"]})
    with pytest.raises(DataError, match=r"test\.jsonl, row 1, column 'choices': the number of choices is 4, but 3 in"):
        MultipleChoice(MultipleChoiceData.of(train=train, validation=train, test=test)).load()


def test_the_answer_is_the_choice_with_the_largest_logit(write: Write, encoder: str) -> None:
    task = loaded(write)
    model, tokenizer = task.load_model(encoder).eval(), task.load_tokenizer(encoder)
    judgement = task.evaluate(model, task.encode("train", tokenizer), batch_size=2)
    with torch.no_grad():
        scores = [[float(model(**{name: torch.tensor([[values]]) for name, values in
                                  tokenizer(row["question"], choice).items()}).logits) for choice in row["choices"]]
                  for row in ROWS]
    wanted = [max(range(3), key=row.__getitem__) for row in scores]
    assert judgement.answers.tolist() == wanted
    right = sum(row["label"] == answer for row, answer in zip(ROWS, wanted, strict=True))
    assert judgement.metrics == {"accuracy": pytest.approx(right / 3)}


def test_a_model_with_other_choices_is_not_judged(write: Write, encoder: str) -> None:
    task = loaded(write)
    encoded = task.encode("train", task.load_tokenizer(encoder))
    with pytest.raises(OutputError, match=r"logits of \(3, 2\) for 3 rows of 3 choices"):
        task.judged(encoded, iter([([0, 1, 2], {LOGITS: torch.zeros(3, 2)})]))


def test_a_cache_keeps_a_row_with_all_of_its_choices_whatever_the_padding(write: Write, encoder: str) -> None:
    task = loaded(write)
    live = LiveTeacher(task.load_model(encoder, attn_implementation="eager"), task.adaptor())
    cached, keys = CachedTeacher(live, MemoryStore()), frozenset({LOGITS, Key("hidden", 1), Key("attention", 0)})
    encoded = task.encode("train", task.load_tokenizer(encoder))
    cached.signals(as_batch(encoded.batch([0, 1])), keys)
    cached.signals(as_batch(encoded.batch([2])), keys)
    assert cached.rows_forwarded == 3
    inputs = encoded.batch([1, 2, 0])
    found, expected = (source.signals(as_batch(inputs), keys) for source in (cached, live))
    assert cached.rows_forwarded == 3 + 3, "three more for the live teacher itself"
    torch.testing.assert_close(found[LOGITS], expected[LOGITS])
    kept = inputs["attention_mask"].flatten(0, 1).ne(0)
    hidden, maps = Key("hidden", 1), Key("attention", 0)
    assert found[hidden].shape == expected[hidden].shape == (9, 10, 8)
    torch.testing.assert_close(found[hidden][kept], expected[hidden][kept])
    pairs = (kept[:, None, :, None] & kept[:, None, None, :]).expand_as(expected[maps])
    torch.testing.assert_close(found[maps][pairs], expected[maps][pairs])


def test_a_row_is_named_by_all_of_its_choices(write: Write, encoder: str) -> None:
    changed = [ROWS[0], *({**ROWS[0], "choices": choices} for choices in (["c", "d e f", "h"], ["d e f", "c", "g"]))]
    task = loaded(write, *changed)
    encoded = task.encode("train", task.load_tokenizer(encoder))
    assert len(set(row_keys(encoded.batch([0, 1, 2])))) == 3
