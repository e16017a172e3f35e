"""What the students that are no transformers share: word embeddings, masks and heads.

They are transformers *models* (`from_pretrained`, `save_pretrained`, labels in the configuration), so all that reads a
model by its outputs reads them too. Whatever stands in padding, and however much of it there is on either side, a row's
answer is the same: layers see where the words are, and every hidden state is 0 elsewhere.
"""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"
# The base classes of transformers are untyped in places.

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils.generic import ModelOutput, can_return_tuple

from stillhouse.errors import PlanError


@strict
class WordConfig(PretrainedConfig):
    """The sizes that every such student has. Abstract: a family adds its own and a ``model_type``.

    Rows may be of any length, so there is no ``max_position_embeddings``; without attention, no heads either.
    """

    vocab_size: int = 30522
    embedding_size: int = 768
    """Width of the word embeddings, the teacher's as a rule."""
    hidden_size: int = 512
    """Width of every hidden state, that of the embedding output included."""
    num_hidden_layers: int = 1
    dropout: float | int = 0.1
    """After the embeddings, between layers and before the head."""
    initializer_range: float = 0.02
    pad_token_id: int | None = 0

    def validate_sizes(self) -> None:
        """Raise ``ValueError`` for sizes that no such model can have (called by transformers)."""
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}: give a whole number from 1")
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout!r}: give a number from 0 to below 1")


class WordModel(PreTrainedModel, abc.ABC):
    """Embeddings, mapped to the hidden width if theirs is another, normalised, then layers. Abstract.

    Hidden state 0 is what the first layer reads, as wide as all others. A layer maps states (B, T, ``hidden_size``)
    and a mask (B, T), True where words are, to new states; what it gives elsewhere is set to 0.
    """

    base_model_prefix = "encoder"
    _input_embed_layer = "word_embeddings"

    def __init__(self, config: WordConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.embeddings_project: nn.Module = nn.Identity()
        if config.embedding_size != config.hidden_size:
            self.embeddings_project = nn.Linear(config.embedding_size, config.hidden_size)
        self.embeddings_norm = nn.LayerNorm(config.hidden_size)
        self.layers = nn.ModuleList(self.new_layer(config) for _ in range(config.num_hidden_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    @abc.abstractmethod
    def new_layer(self, config: WordConfig) -> nn.Module:
        """One layer, called as ``layer(states, mask)``."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutput:
        """The last hidden state (B, T, H); with ``output_hidden_states`` all ``num_hidden_layers`` + 1 of them.

        Without ``attention_mask`` everything is a word. ``token_type_ids`` are taken, since tokenizers give them, and
        not used. Raises `PlanError` if attention maps are asked for.
        """
        if output_attentions or (output_attentions is None and self.config.output_attentions):
            raise PlanError(f"{type(self).__name__} has no attention maps: ask for hidden states or logits, or take a "
                            "transformer as the student")
        if inputs_embeds is None:
            if input_ids is None:
                raise PlanError(f"{type(self).__name__} was given no words: give input_ids, or inputs_embeds")
            inputs_embeds = self.word_embeddings(input_ids)
        mask = _words(attention_mask, inputs_embeds)
        states = _zero_elsewhere(self.embeddings_norm(self.embeddings_project(inputs_embeds)), mask)
        every = [states]
        for layer in self.layers:
            states = _zero_elsewhere(layer(self.dropout(states), mask), mask)
            every.append(states)
        asked = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return BaseModelOutput(last_hidden_state=states, hidden_states=tuple(every) if asked else None)


class _Head(PreTrainedModel, abc.ABC):
    """An encoder and one linear layer over its dropped-out features. Abstract."""

    base_model_prefix = "encoder"
    encoder_class: ClassVar[type[WordModel]]

    def __init__(self, config: WordConfig) -> None:
        super().__init__(config)
        self.encoder = self.encoder_class(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = self.new_classifier(config)
        self.post_init()

    @abc.abstractmethod
    def new_classifier(self, config: WordConfig) -> nn.Linear:
        """The linear layer."""


class _Classifier(_Head):
    """A head whose answers have labels. Abstract."""

    @abc.abstractmethod
    def answered(self, states_BTH: Tensor, words_BT: Tensor, labels: Tensor | None) -> ModelOutput:
        """Logits, and with labels the loss."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> ModelOutput:
        """Logits; with ``labels`` also the mean loss."""
        outputs = self.encoder(input_ids, attention_mask, token_type_ids, inputs_embeds, output_hidden_states,
                               output_attentions, return_dict=True)
        states = outputs.last_hidden_state
        answer = self.answered(states, _words(attention_mask, states), labels)
        answer.hidden_states = outputs.hidden_states
        return answer


class WordModelForSequenceClassification(_Classifier):
    """One answer a row, (B, C), from the largest and the mean value of each feature over the row's words. Abstract.

    Both poolings read every word; the last state of a recurrent student alone forgets the ends of long rows. The loss
    is the one that the configuration's ``problem_type`` names.
    """

    def new_classifier(self, config: WordConfig) -> nn.Linear:
        return nn.Linear(2 * config.hidden_size, config.num_labels or 0)

    def answered(self, states_BTH: Tensor, words_BT: Tensor, labels: Tensor | None) -> SequenceClassifierOutput:
        logits = self.classifier(self.dropout(_max_and_mean(states_BTH, words_BT)))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class WordModelForTokenClassification(_Classifier):
    """One answer a word, (B, T, C); labels (B, T) count where they are not -100. Abstract."""

    def new_classifier(self, config: WordConfig) -> nn.Linear:
        return nn.Linear(config.hidden_size, config.num_labels or 0)

    def answered(self, states_BTH: Tensor, words_BT: Tensor, labels: Tensor | None) -> TokenClassifierOutput:
        logits = self.classifier(self.dropout(states_BTH))
        loss = None if labels is None else self.loss_function(logits, labels, self.config)
        return TokenClassifierOutput(loss=loss, logits=logits)


class WordModelForQuestionAnswering(_Head):
    """Where an answer starts and ends. Abstract."""

    def new_classifier(self, config: WordConfig) -> nn.Linear:
        return nn.Linear(config.hidden_size, 2)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> QuestionAnsweringModelOutput:
        """Start and end logits (B, T) each; with both positions (B,) also the mean of their two cross-entropies."""
        outputs = self.encoder(input_ids, attention_mask, token_type_ids, inputs_embeds, output_hidden_states,
                               output_attentions, return_dict=True)
        start, end = self.classifier(self.dropout(outputs.last_hidden_state)).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(start, end, start_positions, end_positions)
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start, end_logits=end,
                                            hidden_states=outputs.hidden_states)


def _words(attention_mask: Tensor | None, features_BTH: Tensor) -> Tensor:
    """Where words are, (B, T)."""
    if attention_mask is None:
        return torch.ones(features_BTH.shape[:2], dtype=torch.bool, device=features_BTH.device)
    return attention_mask.ne(0)


def _zero_elsewhere(states: Tensor, mask: Tensor) -> Tensor:
    return states.masked_fill(~mask.unsqueeze(-1), 0)


def _max_and_mean(states: Tensor, mask: Tensor) -> Tensor:
    """(B, 2 H), 0 for a row without words; the states are 0 where no words are."""
    largest = states.masked_fill(~mask.unsqueeze(-1), torch.finfo(states.dtype).min).amax(dim=1)
    largest = _zero_elsewhere(largest, mask.any(dim=1))
    mean = states.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)
    return torch.cat([largest, mean], dim=-1)
