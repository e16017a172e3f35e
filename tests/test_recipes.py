"""The shipped recipes: every one is read, and planned with tiny models and data of the same columns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer, ElectraConfig, ElectraModel

from stillhouse.recipe import Recipe, load_recipe, plan
from stillhouse.tasks import (
    DataSpec,
    MaskedLMData,
    QuestionAnsweringData,
    SentenceEmbeddingData,
    TextClassificationData,
    TokenClassificationData,
)
from stillhouse.tasks.data_files import read_rows
from stillhouse.tasks.pretrained import quiet_transformers

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "recipes"
RECIPES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.glob("*/*.yaml"))
SHARED = ROOT.parent / "shared" / "data"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
TAGS = ["O", "B-LOC", "I-LOC"]


def stages_of(recipe: Recipe) -> tuple[Recipe, ...]:
    return recipe.stages or (recipe,)


# Tiny models.


def save_model(name: str, folder: Path) -> str:
    """A random model of the family, depth and relative width that a name stands for, and a toy vocabulary."""
    depth = 6 if "minilm" in name else 4 if name.startswith("./") else 12
    width = 32 if "small" in name else 64
    sizes = {"vocab_size": len(WORDS), "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": 2,
             "intermediate_size": 64, "max_position_embeddings": 512}
    torch.manual_seed(0)
    model = (ElectraModel(ElectraConfig(**sizes, embedding_size=width)) if "electra" in name
             else BertModel(BertConfig(**sizes)))
    with quiet_transformers():
        model.save_pretrained(folder)
        BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The folder of the tiny model that stands in for a name."""
    saved: dict[str, str] = {}

    def stand_in(name: str) -> str:
        if name not in saved:
            saved[name] = save_model(name, tmp_path_factory.mktemp("model"))
        return saved[name]

    return stand_in


# Tiny data, with the columns that the recipe names.


def words(number: int, count: int = 5) -> list[str]:
    return [LETTERS[(7 * number + step * (1 + number // 26)) % 26] for step in range(count)]


def row_of(spec: DataSpec, split: str, number: int) -> dict[str, Any]:
    text = " ".join(words(number))
    match spec:
        case TextClassificationData():
            names = list(spec.label_names) if isinstance(spec.label_names, tuple) else ["low", "middle", "high"]
            pair = {} if spec.text_pair is None else {spec.text_pair: " ".join(words(number + 500))}
            label = names[number % len(names)] if not isinstance(spec.label_names, str) else number % 3
            return {spec.text: text, **pair, spec.label: label}
        case TokenClassificationData():
            tags = [(number + step) % 3 for step in range(5)]
            named = tags if isinstance(spec.label_names, str) else [TAGS[tag] for tag in tags]
            return {spec.tokens: words(number), spec.tags: named}
        case QuestionAnsweringData():
            context = " ".join(words(number, 40))
            answers = {"text": [context[4]], "answer_start": [4]}
            return {spec.question: text, spec.context: context, spec.answers: answers}
        case SentenceEmbeddingData() if split == "train":
            return {column: " ".join(words(number + 500 * i)) for i, column in enumerate(spec.text)}
        case SentenceEmbeddingData():
            return {**{column: " ".join(words(number + 500 * i)) for i, column in enumerate(spec.pair)},
                    spec.score: number / 10}
        case MaskedLMData():
            return {spec.text: text}
    raise AssertionError(f"no rows for {type(spec).__name__}")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def with_tiny_data(stage: Recipe, folder: Path) -> DataSpec:
    """The section ``data`` with files of a few rows in the place of its own."""
    folder.mkdir(exist_ok=True)
    soft = {} if stage.teacher.column is None else {stage.teacher.column: {"high": 0.75, "low": 0.25}}
    changes: dict[str, Any] = {}
    for start, split in ((0, "train"), (100, "validation"), (200, "test")):
        if getattr(stage.data, split) is not None:
            rows = [{**row_of(stage.data, split, start + i), **(soft if split == "train" else {})} for i in range(20)]
            changes[split] = write_rows(folder / f"{split}.jsonl", rows)
    if isinstance(getattr(stage.data, "label_names", None), str):
        names = TAGS if isinstance(stage.data, TokenClassificationData) else ["low", "middle", "high"]
        (folder / "names.json").write_text(json.dumps(names))
        changes["label_names"] = str(folder / "names.json")
    return stage.data.model_copy(update=changes)


def with_stand_ins(stage: Recipe, folder: Path, tiny: Callable[[str], str], made: set[str]) -> Recipe:
    """The same with tiny models and data. ``made`` are the students of earlier stages."""
    def model(path: str | None) -> str | None:
        return path if path is None or path in made else tiny(path)

    teacher = stage.teacher.model_copy(update={"model": model(stage.teacher.model)})
    assert teacher.models is None, "no recipe has them yet; then this test has to replace them too"
    student = stage.student.model_copy(update={"model": model(stage.student.model), "base": model(stage.student.base)})
    changes: dict[str, Any] = {"teacher": teacher, "student": student, "data": with_tiny_data(stage, folder)}
    if stage.augmentation is not None and stage.augmentation.unlabelled:
        rows = [row_of(stage.data, "train", 300 + i) for i in range(20)]
        files = (write_rows(folder / "unlabelled.jsonl", rows),)
        changes["augmentation"] = stage.augmentation.model_copy(update={"unlabelled": files})
    return stage.model_copy(update=changes)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_planned(
    name: str, tiny: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    recipe = load_recipe(FOLDER / name, ["training.device=cpu"])
    stages: list[Recipe] = []
    for number, stage in enumerate(stages_of(recipe)):
        made = {f"{earlier.output}/student" for earlier in stages}
        stages.append(with_stand_ins(stage, tmp_path / str(number), tiny, made))
    changed = recipe.model_copy(update={"stages": tuple(stages)}) if recipe.stages else stages[0]
    text = plan(changed)
    assert text.count("\nneeds ") == len(stages) and "run would refuse it" not in text


@pytest.mark.parametrize("name", RECIPES)
def test_a_stage_alone_is_what_it_is_in_the_whole(name: str) -> None:
    recipe = load_recipe(FOLDER / name)
    assert recipe.output == f"runs/{name.removesuffix('.yaml')}"
    for stage in recipe.stages:
        assert load_recipe(FOLDER / name, stage=stage.name) == stage
        assert stage.output == f"{recipe.output}/{stage.name}"


@pytest.mark.parametrize("name", RECIPES)
def test_editors_find_the_schema(name: str) -> None:
    first = (FOLDER / name).read_text(encoding="utf-8").split("\n")[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (FOLDER / name).parent.joinpath(first.partition("=")[2]).resolve() == ROOT / "docs" / "recipe.schema.json"


def test_every_experiment_of_the_paper_has_our_settings_beside_it() -> None:
    paper, ours = ({Path(name).name for name in RECIPES if name.startswith(folder)} for folder in ("paper", "ours"))
    assert paper == ours and len(paper) >= 9


def test_the_page_of_recipes_lists_them_all() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    shown = [name if name.startswith("small") else Path(name).name for name in RECIPES]
    assert not [name for name in shown if f"`{name}`" not in page]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data sets beside the repository")
@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("small")])
def test_the_small_recipes_name_columns_that_are_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for stage in stages_of(load_recipe(FOLDER / name)):
        for split in ("train", "validation", "test"):
            source = getattr(stage.data, split)
            if source is not None and not source.startswith("./runs"):
                wanted = set(row_of(stage.data, split, 0))
                assert wanted <= set(read_rows(source).columns), source
