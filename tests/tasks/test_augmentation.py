"""Promises of augmentation: rows without labels, none that models are judged by, the same for the same choice."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillhouse.errors import ConfigError, DataError
from stillhouse.tasks import TextClassification, TextClassificationData
from stillhouse.tasks.augmentation import FUNCTIONS, Augmentation, Augmented, augmented
from stillhouse.tasks.base import Task
from stillhouse.tasks.multiple_choice import MultipleChoice, MultipleChoiceData
from stillhouse.tasks.question_answering import QuestionAnswering, QuestionAnsweringData
from stillhouse.tasks.sentence_embedding import SentenceEmbedding, SentenceEmbeddingData
from stillhouse.tasks.token_classification import TokenClassification, TokenClassificationData

Write = Callable[..., str]


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choices("abcdefghij", k=draw.randint(4, 9)))


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [{"text": sentence(draw), "other": sentence(draw), "label": n % 2} for n in range(count)]


def loaded(write: Write, **settings: Any) -> TextClassification:
    task = TextClassification(TextClassificationData.of(
        train=write("train.jsonl", *rows(20, 0)), validation=write("validation.jsonl", *rows(5, 1)),
        test=write("test.jsonl", *rows(5, 2)), max_length=16, **settings))
    task.load()
    return task


def lines(folder: Path, *texts: str) -> str:
    (folder / "more.txt").write_text("\n".join(texts), encoding="utf-8")
    return str(folder / "more.txt")


def copies(task: Task[Any], functions: Any, mask: str | None = "[MASK]", **settings: Any) -> Augmented:
    return augmented(task, Augmentation.of(functions=functions, **settings), mask)


def test_copies_are_further_rows_without_labels(write: Write, encoder: str) -> None:
    task = loaded(write)
    before = list(task.split("train")["text"])
    found = copies(task, list(FUNCTIONS), copies=3)
    assert len(found.examples) == found.num_copies == 60 - found.num_repeated - found.num_unchanged
    assert set(found.examples.columns) == {"text", "label"} and set(found.examples["label"]) == {None}
    assert not set(found.examples["text"]) & set(before) and len(set(found.examples["text"])) == found.num_copies
    task.add_examples(found.examples)
    encoded = task.encode("train", task.load_tokenizer(encoder))
    assert encoded.rows["labels"].tolist() == [n % 2 for n in range(20)] + [-100] * found.num_copies
    assert task.num_rows["train"] == 20 + found.num_copies


def test_the_same_choice_gives_the_same_rows_and_no_global_generator_moves(write: Write) -> None:
    np.random.seed(0)
    random.seed(0)
    torch.manual_seed(0)
    one, same = (copies(loaded(write), list(FUNCTIONS), copies=2, seed=3).examples["text"] for _ in range(2))
    other = copies(loaded(write), list(FUNCTIONS), copies=2, seed=4).examples["text"]
    assert one == same and one != other
    assert (np.random.random(), random.random(), torch.rand(()).item()) == (
        np.random.RandomState(0).random(), random.Random(0).random(),
        torch.rand((), generator=torch.Generator().manual_seed(0)).item())


def test_one_copy_more_leaves_the_others_as_they_were(write: Write) -> None:
    few, more = (copies(loaded(write), ["deleting"], copies=count).examples["text"] for count in (1, 2))
    assert set(few) <= set(more) and len(more) > len(few)


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_a_copy_is_what_its_function_makes_of_a_row(name: str, write: Write) -> None:
    task = loaded(write)
    sources = [text.split() for text in task.split("train")["text"]]
    choice = {name: {"length": 0.5}} if name == "long_disorder" else name  # the rows are too short for its own length
    found = [text.split() for text in copies(task, choice).examples["text"]]
    assert found
    for words in found:
        if name == "masking":
            assert "[MASK]" in words and any(
                len(words) == len(source) and all(w in (s, "[MASK]") for w, s in zip(words, source, strict=True))
                for source in sources)
        elif name in ("deleting", "n_gram_sampling"):
            assert any(len(words) < len(source) and _is_part(words, source) for source in sources)
        else:
            assert any(sorted(words) == sorted(source) and words != source for source in sources)


def _is_part(words: list[str], source: list[str]) -> bool:
    rest = iter(source)
    return all(word in rest for word in words)


def test_arguments_reach_the_functions(write: Write) -> None:
    task = loaded(write)
    everything = copies(task, {"masking": {"p": 1.0, "mask": "<m>"}}, mask=None).examples["text"]
    assert everything and {word for text in everything for word in text.split()} == {"<m>"}
    single = copies(task, [{"n_gram_sampling": {"p_ng": [1.0], "l_ng": [2]}}]).examples["text"]
    assert {len(text.split()) for text in single} == {2}


def test_a_copy_that_would_be_empty_or_unchanged_is_left_out(write: Write) -> None:
    task = loaded(write)
    for function in ({"deleting": {"p": 1.0}}, {"masking": {"p": 0.0}}):
        found = copies(task, function, copies=2)
        assert len(found.examples) == found.num_copies == 0 and found.num_unchanged == 40
        assert set(found.examples.columns) == {"text", "label"}


def test_chinese_is_cut_into_characters_and_other_letters_stay_whole(write: Write) -> None:
    texts = ["我喜欢这部iPhone手机", "iPhone 手机很好用我喜欢它", "我 爱 北京", "한국어 문장 입니다"]
    task = TextClassification(TextClassificationData.of(
        train=write("t.jsonl", *({"text": text, "label": n % 2} for n, text in enumerate(texts))),
        validation=write("v.jsonl", *rows(2, 1))))
    task.load()
    found = copies(task, {"masking": {"p": 0.3, "mask": "_"}}, copies=30).examples["text"]
    assert {len(text.split()) for text in found if " " in text} <= {2, 3}
    shapes = {"".join(c if c in "_ " else "x" for c in text) for text in found}
    assert any("xx_xx" in shape for shape in shapes), "a single character is masked"
    spaced = [text for text in found if "喜欢它" in text]
    assert any("_" in text.split()[-1] for text in spaced), "a space does not make one word of a long sentence"
    whole = [text for text in found if "北" in text or "京" in text]
    assert whole and all("北京" in text for text in whole), "words that spaces cut out stay whole"
    assert all("iPhone" in text for text in found if any(c in text for c in "iPhone"))


def test_both_texts_of_a_pair_are_changed(write: Write) -> None:
    task = loaded(write, text_pair="other")
    found = copies(task, {"masking": {"p": 1.0}})
    assert set(found.examples.columns) == {"text", "text_pair", "label"} and found.num_copies > 0
    assert {word for name in ("text", "text_pair") for text in found.examples[name] for word in text.split()} == {
        "[MASK]"}


# Texts without labels


def test_unlabelled_rows_come_first_and_are_copied_too(write: Write, tmp_path: Path) -> None:
    task = loaded(write)
    file = lines(tmp_path, "a new text", "", "and one more")
    found = augmented(task, Augmentation.of(unlabelled=file, functions=["short_disorder"]), None)
    assert found.examples["text"][:2] == ["a new text", "and one more"] and found.num_unlabelled == 2
    copied = {" ".join(sorted(text.split())) for text in found.examples["text"][2:]}
    assert {"a new text", "and more one"} & copied
    assert set(found.examples["label"]) == {None}


def test_rows_that_models_are_judged_by_and_repetitions_are_left_out(write: Write, tmp_path: Path) -> None:
    task = loaded(write)
    judged = [task.split(split)["text"][0] for split in ("validation", "test")]
    known = task.split("train")["text"][3]
    file = lines(tmp_path, "new", judged[0], judged[1].replace(" ", "  "), known, "new", "newer")
    found = augmented(task, Augmentation.of(unlabelled=[file]), None)
    assert list(found.examples["text"]) == ["new", "newer"]
    assert (found.num_unlabelled, found.num_held_out, found.num_repeated, found.num_copies) == (2, 2, 2, 0)
    assert found.description == ("augmentation: 2 unlabelled rows and 0 changed copies, labelled by the teacher "
                                 "(left out: 2 in the validation or test data, 2 there already)")


def test_a_copy_that_models_are_judged_by_is_left_out(write: Write) -> None:
    task = TextClassification(TextClassificationData.of(
        train=write("t.jsonl", {"text": "a b", "label": 0}, {"text": "a b c d e f", "label": 1}),
        validation=write("v.jsonl", {"text": "b a", "label": 0})))
    task.load()
    found = copies(task, {"short_disorder": {"p": [0, 1, 0, 0, 0]}})
    assert list(found.examples["text"]) == ["b a d c f e"] and found.num_held_out == 1


def test_columns_are_those_of_the_training_data_or_named(write: Write) -> None:
    task = loaded(write, text_pair="other")
    more = write("more.jsonl", {"text": "one", "other": "two", "label": 7}, {"text": "three", "other": "four"})
    found = augmented(task, Augmentation.of(unlabelled=more), None).examples
    assert (found["text"], found["text_pair"]) == (["one", "three"], ["two", "four"])
    found = augmented(task, Augmentation.of(unlabelled=more, text=["other", "text"], limit=1), None).examples
    assert (found["text"], found["text_pair"]) == (["two"], ["one"])
    with pytest.raises(ConfigError, match=r"text names 1 columns \(other\), and the task has 2: text, text_pair"):
        augmented(task, Augmentation.of(unlabelled=more, text="other"), None)


def test_files_that_do_not_fit_are_refused(write: Write, tmp_path: Path) -> None:
    choice = Augmentation.of(unlabelled=write("more.jsonl", {"txt": "one"}))
    with pytest.raises(DataError, match="unknown column 'text': did you mean 'txt'"):
        augmented(loaded(write), choice, None)
    with pytest.raises(DataError, match="unknown column 'other'"):
        augmented(loaded(write, text_pair="other"), Augmentation.of(unlabelled=lines(tmp_path, "a b")), None)


# Other tasks


def test_words_are_changed_and_lose_their_tags(write: Write, tmp_path: Path) -> None:
    words = [sentence(random.Random(n)).split() for n in range(6)]
    tagged = [{"tokens": row, "tags": ["O"] * (len(row) - 1) + ["B-X"]} for row in words]
    task = TokenClassification(TokenClassificationData.of(train=write("t.jsonl", *tagged[:4]),
                                                          validation=write("v.jsonl", *tagged[4:])))
    task.load()
    file = lines(tmp_path, "new words here", "我爱 你们大家人")
    found = augmented(task, Augmentation.of(unlabelled=file, text="text", functions=["deleting"]), None).examples
    assert list(found["tokens"][:2]) == [["new", "words", "here"], ["我爱", "你们大家人"]]
    assert set(found["tags"]) == {None} and len(found) > 2
    assert all(isinstance(word, str) for row in found["tokens"] for word in row)


def test_of_a_question_only_the_question_is_changed(write: Write) -> None:
    asked = [{"question": sentence(random.Random(n)), "context": f"it is {n} here",
              "answers": {"text": [str(n)], "answer_start": [6]}} for n in range(6)]
    task = QuestionAnswering(QuestionAnsweringData.of(train=write("t.jsonl", *asked[:4]),
                                                      validation=write("v.jsonl", *asked[4:])))
    task.load()
    found = copies(task, {"masking": {"p": 1.0}}).examples
    assert list(found["context"]) == [row["context"] for row in asked[:4]] and set(found["answers"]) == {None}
    assert {word for text in found["question"] for word in text.split()} == {"[MASK]"}
    more = write("more.jsonl", {"question": "why?", "context": asked[0]["context"]},
                 {"question": asked[5]["question"], "context": asked[5]["context"]})
    found = augmented(task, Augmentation.of(unlabelled=more), None).examples
    assert (found["question"], found["context"]) == (["why?"], [asked[0]["context"]])


def test_choices_stay_and_rows_without_them_cannot_be_added(write: Write) -> None:
    asked = [{"question": sentence(random.Random(n)), "choices": ["x y", "z"], "label": n % 2} for n in range(4)]
    task = MultipleChoice(MultipleChoiceData.of(train=write("t.jsonl", *asked[:3]),
                                                validation=write("v.jsonl", *asked[3:])))
    task.load()
    found = copies(task, ["n_gram_sampling"]).examples
    assert len(found) and all(row == ["x y", "z"] for row in found["choices"]) and set(found["label"]) == {None}
    with pytest.raises(ConfigError, match=r"the task multiple-choice are more than texts \(they have choices\)"):
        augmented(task, Augmentation.of(unlabelled=write("more.jsonl", {"question": "a"})), None)


def test_texts_for_an_embedding_are_none_of_the_pairs_that_judge_it(write: Write) -> None:
    pairs = [{"sentence1": "a b", "sentence2": "c d", "score": 1.0}, {"sentence1": "e", "sentence2": "f", "score": 2.0}]
    task = SentenceEmbedding(SentenceEmbeddingData.of(
        train=write("t.jsonl", {"one": "g h", "two": "i"}), text=["one", "two"], validation=write("v.jsonl", *pairs)))
    task.load()
    more = write("more.jsonl", {"one": "new", "two": "c d"}, {"one": "i", "two": "newer"}, {"one": "e", "two": "new"})
    found = augmented(task, Augmentation.of(unlabelled=more), None)
    assert list(found.examples["text"]) == ["new", "newer"]
    assert (found.num_held_out, found.num_repeated) == (2, 2)


# What is refused before anything is read


def test_masking_needs_a_mask(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"this tokenizer has none; leave masking out, or name a token.*\{masking"):
        copies(loaded(write), ["masking"], mask=None)


@pytest.mark.parametrize(("settings", "message"), [
    ({}, "nothing is added; give unlabelled: FILE"),
    ({"functions": ["maskin"]}, r"functions\.0: unknown augmentation 'maskin': did you mean 'masking'"),
    ({"functions": [{"masking": {"q": 0.1}}]}, "unknown argument of masking 'q'. Known: mask, p"),
    ({"functions": [{"masking": {"p": 2}}]}, "masking: p=2 is not a probability"),
    ({"functions": [{"masking": {"p": "x"}}]}, "masking: "),
    ({"functions": [{"masking": {"mask": 5}}]}, "masking: the mask 5 is no text"),
    ({"functions": {"masking": {}, "deleting": {}}}, "write a name, or a name with arguments"),
    ({"functions": [3]}, "3: write a name"),
    ({"functions": ["deleting"], "copies": 0}, "copies: 0"),
    ({"functions": ["deleting"], "limit": 5}, "limit says something about unlabelled, of which there are none"),
    ({"unlabelled": "more.txt", "copies": 2}, "copies says something about functions, of which there are none"),
])
def test_a_choice_that_cannot_be_meant_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation.of(**settings)


def test_a_choice_can_be_written_down_and_read_again() -> None:
    choice = Augmentation.of(unlabelled="a.txt", functions=["masking", {"deleting": {"p": 0.2}}], copies=2)
    assert Augmentation.model_validate_json(choice.model_dump_json()) == choice
