"""Sentence embedding: the student learns the vectors that its teacher gives texts; no labels are needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal, NoReturn, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from transformers import AutoModel, PreTrainedTokenizerBase

from stillhouse.adaptors.sentence_embedding import EMBEDDING, SentenceEmbeddingAdaptor
from stillhouse.errors import OutputError, PlanError
from stillhouse.metrics import pearson, spearman
from stillhouse.sections.values import Columns
from stillhouse.tasks.answering import Answers
from stillhouse.tasks.base import DataSpec, Examples, Task, TextColumns
from stillhouse.tasks.batching import EncodedSplit
from stillhouse.tasks.columns import numbers, texts
from stillhouse.tasks.data_files import Rows
from stillhouse.tasks.judgement import Judgement
from stillhouse.tasks.said import Said, number
from stillhouse.tasks.tokenizing import tokenized


class SentenceEmbeddingData(DataSpec):
    """The data of a sentence embedding: texts to train on, and pairs with a score of how alike they are."""

    validation: str
    """Pairs of sentences with a score, which pick the best checkpoint; the training texts have no scores, so that none
    of them can be held out."""
    test: str | None = None
    """Such pairs, which are reported in the end; without them the validation data is."""
    text: Columns = ("text",)
    """The training data's column with the texts, or a list of columns: then the texts of all of them are trained on. A
    text that comes twice is trained on once."""
    pair: Annotated[Columns, Field(min_length=2, max_length=2)] = ("sentence1", "sentence2")
    """The two columns with the sentences of a pair, in the validation and test data."""
    score: str = "score"
    """The column with the score there: a number, higher for sentences that are more alike, on any scale."""
    pooling: Literal["mean", "cls", "max"] = "mean"
    """How both models make one vector of a text: the mean of its tokens' vectors, the first of them, or the largest
    value of each feature. It must be what the teacher was trained with (the model's page says so)."""
    normalize: bool = True
    """Whether the vectors are brought to length 1."""

    decides = ("max_length", "pooling", "normalize")
    name_columns = ("text", "pair", "score")


@final
class SentenceEmbedding(Task[SentenceEmbeddingData]):
    """Rank correlation of the cosine of two sentences' vectors with how alike people find them.

    What is said of a pair: ``score``, the cosine; of a text alone: ``embedding``, its vector.
    """

    name = "sentence-embedding"
    data = SentenceEmbeddingData
    auto_class = AutoModel
    head = "Model"
    metric = "spearman"
    reads = frozenset({EMBEDDING})
    answers_rows = True
    has_labels = False
    text_columns: ClassVar[TextColumns] = {"text": "text", "text_pair": "text"}
    signal = "embedding"

    def examples(self, rows: Rows, split: str) -> Examples:
        spec = self.spec
        if split == "train":
            every = chain.from_iterable(zip(*(texts(rows, column) for column in spec.text), strict=True))
            return Examples({"text": list(dict.fromkeys(every))})
        first, second = (texts(rows, column) for column in spec.pair)
        return Examples({"text": first, "text_pair": second, "score": numbers(rows, spec.score)})

    def read_inputs(self, rows: Rows) -> dict[str, Sequence[Any]]:
        """Texts alone, from the first of the columns that ``data.text`` names."""
        return {"text": texts(rows, self.spec.text[0])}

    def gold(self, examples: Examples) -> list[float | None]:
        return list(examples["score"]) if "score" in examples.columns else [None] * len(examples)

    def adaptor(self) -> SentenceEmbeddingAdaptor:
        return SentenceEmbeddingAdaptor(self.spec.pooling, self.spec.normalize)

    def hard_loss(self) -> NoReturn:
        raise PlanError("the data of a sentence embedding has no labels to learn from, only texts; train with a "
                        "teacher (distillation.embedding), and give one that is trained already (no teacher.train)")

    def encoded(self, examples: Examples, tokenizer: PreTrainedTokenizerBase) -> EncodedSplit:
        """Training texts are a row each; of a pair, each sentence is one, the second after the first."""
        rows, scores = examples["text"], None
        if "score" in examples.columns:
            rows = list(chain.from_iterable(zip(rows, examples["text_pair"], strict=True)))
            scores = examples["score"]
        tokens = tokenized(tokenizer, rows, max_length=self.spec.max_length)
        return EncodedSplit.of(tokenizer, tokens, {}, details=scores)

    def judged(self, encoded: EncodedSplit, outputs: Answers) -> Judgement:
        vectors_NH = _in_order(outputs, len(encoded))
        if encoded.details is None:
            return Judgement(_refuse_to_judge, vectors_NH.numpy(), lambda: [
                {"embedding": list(map(number, vector_H))} for vector_H in vectors_NH.tolist()])
        cosines = F.cosine_similarity(vectors_NH[0::2], vectors_NH[1::2], dim=-1)
        return Judgement(partial(_correlations, cosines, encoded.details), cosines.numpy(), partial(_scores, cosines))


def _correlations(cosines_N: Tensor, right: Sequence[float]) -> dict[str, float]:
    scores_N = torch.tensor(right, dtype=torch.float64)
    return {"spearman": spearman(cosines_N, scores_N), "pearson": pearson(cosines_N, scores_N)}


def _scores(cosines_N: Tensor) -> list[Said]:
    return [{"score": number(cosine)} for cosine in cosines_N.tolist()]


def _refuse_to_judge() -> NoReturn:
    raise OutputError("texts alone cannot be judged, for they have no scores; give pairs, such as the validation split")


def _in_order(outputs: Answers, num_rows: int) -> Tensor:
    """Each row's vector, (N, H) in float64."""
    order: list[int] = []
    parts: list[Tensor] = []
    for rows, features in outputs:
        vectors = features[EMBEDDING]
        if vectors.dim() != 2 or len(vectors) != len(rows):
            raise OutputError(f"the model gave vectors of {tuple(vectors.shape)} for {len(rows)} texts; there must be "
                              "one for each")
        order += rows
        parts.append(vectors.double())
    found = torch.cat(parts)
    ordered = torch.empty(num_rows, found.shape[1], dtype=torch.float64)
    ordered[torch.tensor(order)] = found
    return ordered
