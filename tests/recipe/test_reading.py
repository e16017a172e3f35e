"""Promises of what two models read: nothing is compared that does not mean the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import BertForMaskedLM, BertTokenizer

from stillhouse.errors import PlanError
from stillhouse.recipe import Recipe
from stillhouse.recipe.prepare import prepare
from stillhouse.tasks.pretrained import quiet_transformers

from .conftest import WORDS, MakeRecipe, make_rows, save_encoder

LOGITS_ONLY = {"temperature": 4, "matches": None}


@pytest.fixture
def masked_lm(make_recipe: MakeRecipe, tmp_path: Path) -> Any:
    (tmp_path / "plain.txt").write_text("\n".join(row["text"] for row in make_rows("train")))

    def recipe(student: dict[str, Any]) -> Recipe:
        values = make_recipe(task="masked-lm", distillation=LOGITS_ONLY, student=student)
        values["data"] = {"train": str(tmp_path / "plain.txt"), "max_length": 16}
        return Recipe.from_dict(values)

    return recipe


def saved(folder: Path, words: list[str], padding_side: str = "right") -> str:
    """An encoder with a tokenizer of these words."""
    save_encoder(folder, words)
    with quiet_transformers():
        BertTokenizer(vocab={word: number for number, word in enumerate(words)},
                      padding_side=padding_side).save_pretrained(folder)
    return str(folder)


def test_a_masked_language_model_does_not_learn_another_word_s_logit(masked_lm: Any, tmp_path: Path) -> None:
    """As many words, cut the same way, and numbered otherwise."""
    other = saved(tmp_path / "other", [*WORDS[:5], *reversed(WORDS[5:])])
    with pytest.raises(PlanError, match=r"each logit is that of a token.*\(16 of 21 ids differ; id 5 is 'a' in the "
                                        r"teacher's, 'p' in the student's\): take a student made from the teacher"):
        prepare(masked_lm({"model": other}))
    same = saved(tmp_path / "same", WORDS)
    assert prepare(masked_lm({"model": same})).distilling.reading.is_shared


def test_a_vocabulary_is_trimmed_in_a_later_stage(masked_lm: Any, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    large = saved(tmp_path / "large", [*WORDS[:5], "unused", *WORDS[5:]])
    recipe = masked_lm({"keep": "half", "vocabulary": "trimmed"})
    recipe = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"model": large})})
    with pytest.raises(PlanError, match=r"leave student\.vocabulary: trimmed out, and trim in a later stage"):
        prepare(recipe)


def test_texts_that_are_padded_on_another_side_have_other_positions(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """The same words with other numbers: their layers can be compared, if they stand at the same places."""
    words = [*WORDS[:5], *reversed(WORDS[5:])]
    right = saved(tmp_path / "right", words)
    prepare(Recipe.from_dict(make_recipe(student={"model": right})))
    left = saved(tmp_path / "left", words, "left")
    with pytest.raises(PlanError, match="the teacher's pads to the right, the student's to the left"):
        prepare(Recipe.from_dict(make_recipe(student={"model": left})))


def test_a_masked_language_model_may_teach_what_vectors_its_encoder_gives(
    make_recipe: MakeRecipe, encoder: str, tmp_path: Path
) -> None:
    """An encoder is often saved with the head that it was trained with."""
    with quiet_transformers():
        BertForMaskedLM.from_pretrained(encoder).save_pretrained(tmp_path / "masked")
        BertTokenizer.from_pretrained(encoder).save_pretrained(tmp_path / "masked")
    texts = [row["text"] for row in make_rows("train")]
    (tmp_path / "plain.txt").write_text("\n".join(texts))
    pairs = [{"sentence1": first, "sentence2": second, "score": number}
             for number, (first, second) in enumerate(zip(texts[:8], texts[8:16], strict=True))]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    values = make_recipe(task="sentence-embedding", teacher={"model": str(tmp_path / "masked")}, contrast="none")
    values["distillation"] = {}
    values["data"] = {"train": str(tmp_path / "plain.txt"), "validation": str(tmp_path / "pairs.jsonl"),
                      "max_length": 16}
    prepared = prepare(Recipe.from_dict(values))
    assert [type(member.model).__name__ for member in prepared.teaching.members] == ["BertModel"]
