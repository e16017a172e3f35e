"""Promises of the package's own model classes beside those of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from stillhouse.students import own_models
from stillhouse.tasks.pretrained import quiet_transformers

FAMILIES = {"recurrent": own_models.RECURRENT, "convolutional": own_models.CONVOLUTIONAL}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_automatic_classes_know_them_however_often_they_are_registered(name: str) -> None:
    family = FAMILIES[name]
    own_models.register()
    own_models.register()
    config = transformers.AutoConfig.for_model(family.config.model_type, vocab_size=9, hidden_size=4)
    assert type(config) is family.config
    for ending, model in family.models.items():
        automatic = getattr(transformers, f"AutoModel{ending.removeprefix('Model')}")
        assert type(automatic.from_config(config)) is model


@pytest.mark.parametrize("name", FAMILIES)
def test_the_tokenizer_beside_a_student_loads_too(name: str, tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "still": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    family = FAMILIES[name]
    with quiet_transformers():
        family.models["ForTokenClassification"](family.config(vocab_size=3, hidden_size=4)).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path)
    rows = loaded(["still", "still still waters"], padding=True, return_tensors="pt")
    assert rows["input_ids"].tolist() == [[2, 0, 0], [2, 2, 1]]
    assert model(**rows).logits.shape == (2, 3, 2)
