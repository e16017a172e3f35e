"""Small tokenizers of the encoder families, each trained with the algorithm of its own, and tiny models for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    BertTokenizer,
    DebertaV2Tokenizer,
    MPNetTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from stillhouse.students.vocabulary import Vocabulary, plan_trimming

DATA = (
    "The still is cleaned before every distillation.",
    "Spirits rest in oak; the oak gives them colour.",
    "Is the café at number 42 open today?",
    "天气很好。",
    "the thinner, the better",
)
OTHER = (
    "Barley is malted, mashed, fermented and distilled twice.",
    "Größere Fässer reifen langsamer als kleinere.",
    "A master blender noses hundreds of samples a day!",
    "Peat smoke dries the green malt (at 60 degrees).",
    "我们今天去看电影。",
    "Whether the water is soft or hard matters less than people think.",
    "Nothing unnecessary: restless, spirited, colourless, thinking, cleaner, distillers.",
)
UNSEEN = (*OTHER, "Żółw ☕ 한국어 语 jazz-quiz @ ½", "")
ANGULAR = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SQUARE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def trained(model: Any, pre_tokenizer: Any, trainer: Any) -> dict[str, Any]:
    """The model section of a small tokenizer trained on all the texts."""
    whole = Tokenizer(model)
    whole.normalizer = normalizers.Lowercase()
    whole.pre_tokenizer = pre_tokenizer
    whole.train_from_iterator([*DATA, *OTHER], trainer)
    section: dict[str, Any] = json.loads(whole.to_str())["model"]
    return section


def word_pieces(special: list[str]) -> dict[str, int]:
    trainer = trainers.WordPieceTrainer(vocab_size=260, special_tokens=special, show_progress=False)
    vocab: dict[str, int] = trained(models.WordPiece(unk_token="[UNK]"), pre_tokenizers.BertPreTokenizer(),
                                    trainer)["vocab"]
    return vocab


def unigram(special: list[str], unk: str) -> list[tuple[str, float]]:
    trainer = trainers.UnigramTrainer(vocab_size=180, special_tokens=special, unk_token=unk, show_progress=False)
    return [(piece, score) for piece, score in trained(models.Unigram(), pre_tokenizers.Metaspace(), trainer)["vocab"]]


def byte_level(special: list[str]) -> dict[str, Any]:
    trainer = trainers.BpeTrainer(vocab_size=430, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return trained(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), trainer)


def roberta_tokenizer() -> PreTrainedTokenizerBase:
    section = byte_level(ANGULAR)
    return RobertaTokenizer(vocab=section["vocab"], merges=[tuple(merge) for merge in section["merges"]])


def modernbert_tokenizer() -> PreTrainedTokenizerBase:
    """Byte-level BPE whose special tokens stand behind all others."""
    section = byte_level([])
    backend = Tokenizer(models.BPE(section["vocab"], [tuple(merge) for merge in section["merges"]]))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(SQUARE)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"])


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bert": lambda: BertTokenizer(vocab=word_pieces(SQUARE)),
    "electra": lambda: BertTokenizer(vocab=word_pieces(SQUARE)),
    "distilbert": lambda: BertTokenizer(vocab=word_pieces(SQUARE)),
    "mpnet": lambda: MPNetTokenizer(vocab=word_pieces([*ANGULAR, "[UNK]"])),
    "roberta": roberta_tokenizer,
    "xlm_roberta": lambda: XLMRobertaTokenizer(vocab=[*unigram(ANGULAR[:4], "<unk>"), ("<mask>", 0.0)]),
    "deberta_v2": lambda: DebertaV2Tokenizer(vocab=unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]"], "[UNK]")),
    "modernbert": modernbert_tokenizer,
}
CLASSES = {"bert": "Bert", "electra": "Electra", "distilbert": "DistilBert", "mpnet": "MPNet", "roberta": "Roberta",
           "xlm_roberta": "XLMRoberta", "deberta_v2": "DebertaV2", "modernbert": "ModernBert"}
SPECIAL: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "deberta_v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 16},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
}


def make_model(family: str, tokenizer: PreTrainedTokenizerBase, head: str = "SequenceClassification",
               **values: Any) -> PreTrainedModel:
    """A tiny model for that tokenizer, every weight random."""
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                             "intermediate_size": 64}
    if family == "distilbert":
        sizes = {}
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id,
           "eos_token_id": tokenizer.sep_token_id}
    if family == "modernbert":
        ids |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    config = getattr(transformers, f"{CLASSES[family]}Config")(
        vocab_size=len(tokenizer) + 3,  # as many models do, more rows than the tokenizer has tokens
        max_position_embeddings=80, num_labels=3, **{**sizes, **ids, **SPECIAL.get(family, {}), **values})
    model: PreTrainedModel = getattr(transformers, f"{CLASSES[family]}For{head}")(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def trimmed_to(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **more: Any) -> Vocabulary:
    return plan_trimming(tokenizer, (number for text in texts for number in tokenizer(text)["input_ids"]), **more)


def logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *texts: Sequence[str]) -> Tensor:
    """The model's answers to padded rows."""
    batch = tokenizer(*map(list, texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        answer: Tensor = model(**batch).logits
    return answer


def spelled(tokenizer: PreTrainedTokenizerBase, *texts: str) -> list[str]:
    tokens: list[str] = tokenizer.convert_ids_to_tokens(tokenizer(*texts)["input_ids"])
    return tokens
