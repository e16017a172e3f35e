"""Promises of loading models: the labels in the configuration, no noise, and errors for what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    GPT2Config,
    GPT2Model,
    pipeline,
)
from transformers.utils import logging

from stillhouse.errors import ConfigError, PlanError
from stillhouse.tasks.pretrained import (
    ModelWanted,
    load_model,
    load_tokenizer,
    quiet_transformers,
    require_fit,
    save_pretrained,
    with_head,
)

NAMES = ("no", "yes", "maybe")


def wanted(names: Sequence[str] = NAMES, **others: Any) -> ModelWanted:
    return ModelWanted(**{"auto_class": AutoModelForSequenceClassification, "head": "ForSequenceClassification",
                          "names": names, "max_length": 32, **others})


def test_a_new_head_carries_the_label_names_and_the_encoder_its_weights(encoder: str) -> None:
    model = load_model(encoder, wanted())
    assert model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert model.config.label2id == {"no": 0, "yes": 1, "maybe": 2}
    assert model.config.num_labels == 3
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    saved = load_file(Path(encoder) / "model.safetensors")
    assert all(torch.equal(model.state_dict()[f"bert.{name}"], tensor) for name, tensor in saved.items())


def test_a_new_head_is_drawn_from_the_global_generator(encoder: str) -> None:
    def head(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return load_model(encoder, wanted()).get_parameter("classifier.weight")

    assert torch.equal(head(3), head(3))
    assert not torch.equal(head(3), head(4))


def test_a_half_precision_checkpoint_is_trained_in_float32(classifier: Callable[..., str]) -> None:
    path = classifier(*NAMES)
    with quiet_transformers():
        BertForSequenceClassification.from_pretrained(path).half().save_pretrained(path)
    model = load_model(path, wanted())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_attention_implementation_can_be_chosen(encoder: str) -> None:
    assert load_model(encoder, wanted(), "eager").config._attn_implementation == "eager"


@pytest.mark.parametrize("own", [NAMES, ("No", "YES", "maybe"), ("LABEL_0", "LABEL_1", "LABEL_2")])
def test_a_fitting_head_stays(classifier: Callable[..., str], own: tuple[str, ...]) -> None:
    path = classifier(*own)
    model = load_model(path, wanted())
    saved = load_file(Path(path) / "model.safetensors")
    assert torch.equal(model.state_dict()["classifier.weight"], saved["classifier.weight"])
    assert model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}


def test_a_model_is_told_what_kind_of_labels_it_has(encoder: str) -> None:
    assert load_model(encoder, wanted()).config.problem_type is None
    config = load_model(encoder, wanted(problem_type="multi_label_classification")).config
    assert (config.problem_type, config.num_labels) == ("multi_label_classification", 3)
    regression = load_model(encoder, wanted(("value",), problem_type="regression"))
    assert regression.get_parameter("classifier.weight").shape == (1, 8)


def test_heads_without_labels_leave_the_model_its_own(encoder: str, tmp_path: Path) -> None:
    asked = wanted((), auto_class=AutoModelForQuestionAnswering, head="ForQuestionAnswering")
    model = load_model(encoder, asked)
    assert type(model).__name__ == "BertForQuestionAnswering" and model.config.num_labels == 2
    save_pretrained(model, load_tokenizer(encoder), tmp_path)
    again = load_model(str(tmp_path), asked)
    assert again.state_dict()["qa_outputs.weight"].equal(model.state_dict()["qa_outputs.weight"])


def test_a_new_head_stands_on_the_same_encoder(encoder: str) -> None:
    torch.manual_seed(0)
    masked = load_model(encoder, wanted((), auto_class=AutoModelForMaskedLM, head="ForMaskedLM"))
    model = with_head(masked, wanted(problem_type="single_label_classification"))
    assert type(model).__name__ == "BertForSequenceClassification"
    assert model.config.id2label == dict(enumerate(NAMES)) and masked.config.num_labels == 2
    assert model.config.problem_type == "single_label_classification"
    encoder_weights = masked.base_model.state_dict()
    assert encoder_weights and all(model.base_model.state_dict()[name].equal(weight)
                                   for name, weight in encoder_weights.items())
    assert next(model.parameters()).data_ptr() != next(masked.parameters()).data_ptr()
    torch.manual_seed(4)
    first = with_head(masked, wanted()).get_parameter("classifier.weight")
    torch.manual_seed(4)
    assert with_head(masked, wanted()).get_parameter("classifier.weight").equal(first)


def test_a_model_that_has_the_head_stays_itself(encoder: str) -> None:
    model = load_model(encoder, wanted())
    assert with_head(model, wanted()) is model


def test_a_family_without_such_a_head_is_refused() -> None:
    model = GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1))
    with pytest.raises(PlanError, match="there is no ForMultipleChoice model of the family of GPT2Model"):
        with_head(model, wanted((), auto_class=AutoModelForMultipleChoice, head="ForMultipleChoice"))


def test_a_head_for_other_labels_is_refused(classifier: Callable[..., str]) -> None:
    with pytest.raises(PlanError, match=r"into 2 labels \(no, yes\), but the data has 3 \(no, yes, maybe\)"):
        load_model(classifier("no", "yes"), wanted())
    with pytest.raises(PlanError, match=r"in another order: yes, no, maybe; the data's is no, yes, maybe\. With"):
        load_model(classifier("yes", "no", "maybe"), wanted())
    with pytest.warns(UserWarning, match="calls its labels nein, ja, vielleicht, the data no, yes, maybe"):
        load_model(classifier("nein", "ja", "vielleicht"), wanted())


def test_a_saved_model_is_what_a_pipeline_loads(encoder: str, tmp_path: Path) -> None:
    with quiet_transformers():
        load_model(encoder, wanted()).save_pretrained(tmp_path)
        load_tokenizer(encoder).save_pretrained(tmp_path)
        classify = pipeline("text-classification", model=str(tmp_path), device="cpu", top_k=None)
        answers = classify(["a b"])[0]
        assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.id2label[2] == "maybe"
    assert {answer["label"] for answer in answers} == set(NAMES)
    assert sum(answer["score"] for answer in answers) == pytest.approx(1)


def test_loading_makes_no_noise_and_leaves_the_settings(
    encoder: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    verbosity = logging.get_verbosity()
    try:
        logging.set_verbosity_info()
        load_model(encoder, wanted())
        load_tokenizer(encoder)
        assert logging.get_verbosity() == logging.get_log_levels_dict()["info"]
    finally:
        logging.set_verbosity(verbosity)
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""
    assert logging.is_progress_bar_enabled()


def test_settings_come_back_after_an_error() -> None:
    verbosity = logging.get_verbosity()
    with pytest.raises(KeyError), quiet_transformers():
        raise KeyError
    assert logging.get_verbosity() == verbosity
    assert logging.is_progress_bar_enabled()


def test_rows_longer_than_the_model_reads_are_refused(encoder: str) -> None:
    with pytest.raises(PlanError, match=r"max_length is 33, but model .* reads at most 32 tokens"):
        load_model(encoder, wanted(max_length=33))


SIZES = {"vocab_size": 20, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
         "max_position_embeddings": 16, "pad_token_id": 3, "bos_token_id": 0, "eos_token_id": 2}
OTHER_SIZES: dict[str, dict[str, Any]] = {
    "longformer": {"attention_window": [4]}, "layoutlmv3": {"visual_embed": False, "coordinate_size": 4,
                                                            "shape_size": 4},
    "esm": {"position_embedding_type": "absolute", "mask_token_id": 4, "token_dropout": False},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"}, "luke": {"entity_vocab_size": 5,
                                                                            "entity_emb_size": 4},
    "markuplm": {"xpath_unit_hidden_size": 2}}


@pytest.mark.parametrize("family", [
    "bert", "electra", "distilbert", "deberta-v2", "roberta", "xlm-roberta", "camembert", "mpnet", "data2vec-text",
    "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "roberta-prelayernorm", "xlm-roberta-xl",
    "xmod"])
def test_the_longest_row_that_is_let_in_is_the_longest_that_a_family_reads(family: str) -> None:
    config = AutoConfig.for_model(family, **SIZES, **OTHER_SIZES.get(family, {}))
    with quiet_transformers():
        model = AutoModel.from_config(config).eval()

    def is_let_in(length: int) -> bool:
        try:
            require_fit("m", config, wanted((), max_length=length))
        except PlanError as error:
            assert f"max_length is {length}, but model 'm' reads at most {longest(length)} tokens" in str(error)
            return False
        return True

    def longest(refused: int) -> int:
        return max(length for length in range(2, refused) if is_let_in(length))

    def is_read(length: int) -> bool:
        try:
            with torch.no_grad():
                model(input_ids=torch.full((1, length), 5))
        except (IndexError, RuntimeError):
            return False
        return True

    lengths = range(10, 18)
    assert [is_let_in(length) for length in lengths] == [is_read(length) for length in lengths]


@pytest.mark.parametrize("load", [lambda path: load_model(path, wanted()), load_tokenizer])
def test_what_is_no_model_is_a_configuration_error(load: Callable[[str], object], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"there is no folder {tmp_path}/nothing"):
        load(f"{tmp_path}/nothing")
    with pytest.raises(ConfigError, match=r"'owner/nothing': neither a folder here \(/.*/owner/nothing\) nor"):
        load("owner/nothing")
    (tmp_path / "notes.md").touch()
    with pytest.raises(ConfigError, match=r"holds notes.md; it needs what save_pretrained writes"):
        load(str(tmp_path))


def test_broken_files_are_a_configuration_error(classifier: Callable[..., str]) -> None:
    folder = Path(classifier(*NAMES))
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:100])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_model(str(folder), wanted())
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_model(str(folder), wanted())


def test_a_checkpoint_of_another_size_is_a_configuration_error(classifier: Callable[..., str]) -> None:
    folder = Path(classifier(*NAMES))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 4}), encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_model(str(folder), wanted())


def test_an_encoder_with_missing_weights_is_not_filled_with_random_ones(classifier: Callable[..., str]) -> None:
    path = classifier(*NAMES)
    weights = load_file(Path(path) / "model.safetensors")

    def save_without(part: str) -> None:
        kept = {name: tensor for name, tensor in weights.items() if part not in name}
        assert len(kept) == len(weights) - 2
        save_file(kept, Path(path) / "model.safetensors", {"format": "pt"})

    save_without("pooler")
    assert isinstance(load_model(path, wanted()), BertForSequenceClassification)
    save_without("query")
    with pytest.raises(ConfigError, match=r"lacks 2 weights of a BertForSequenceClassification, bert\.encoder"):
        load_model(path, wanted())


def test_a_tokenizer_that_cannot_pad_is_refused(encoder: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(encoder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": None}), encoding="utf-8")
    with pytest.raises(ConfigError, match="has no padding token"):
        load_tokenizer(str(tmp_path))
