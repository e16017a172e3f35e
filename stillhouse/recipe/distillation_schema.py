"""What a recipe says about the losses: the section ``distillation`` and its matches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import model_validator

from stillhouse.errors import unknown_name
from stillhouse.match_sets import MATCH_SETS
from stillhouse.presets import MATCH_LOSS_MAP, match_kind
from stillhouse.recipe.values import (
    KDLossName,
    Layers,
    MatchLosses,
    MatchWeight,
    ProjectionChoice,
    ScheduleName,
    StrategyChoice,
)
from stillhouse.sections import Section
from stillhouse.sections.values import NotNegative, OneOrMore, Positive


class MatchSection(Section):
    """Layers of the student that learn from the teacher's. A name such as L3_hidden_mse stands for a whole match."""

    layers: Layers | None = None
    """uniform (if nothing is said), first, last, or pairs [teacher layer, student layer]; 0 is the embedding output, -1
    the last layer."""
    module_T: str | None = None
    """Instead of layers: the path of a module of the teacher, such as bert.pooler, whose output is compared."""
    module_S: str | None = None
    """The path of the module of the student."""
    losses: MatchLosses
    """Hidden states: hidden_mse, cos, pkd, nst (mmd), fsp (gram). Attention: attention_mse, attention_mse_sum,
    attention_ce, attention_ce_mean. All layers at once, found by optimal transport: emd, emd_cost_attention. Modules:
    hidden_mse, cos, pkd. Functions of your own: layers and modules. A single one may be written as loss: NAME."""
    weight: MatchWeight = 1.0
    """The weight of each loss at each pair: one number, or one for each loss."""
    schedule: ScheduleName | None = None
    """linear_decay (from the weight to 0) or linear_growth (from 0 to the weight), multiplied with the weight."""
    projection: ProjectionChoice = "linear"
    """linear, relu or tanh, where widths differ; [NAME, WIDTH_S, WIDTH_T] gives the widths, for modules of others."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        if isinstance(values, str):
            if values not in MATCH_SETS:
                raise ValueError(unknown_name("set of matches", values, MATCH_SETS))
            return {"layers": [list(pair) for pair in MATCH_SETS[values].pairs], "losses": [MATCH_SETS[values].loss]}
        if isinstance(values, Mapping) and "loss" in values:
            if "losses" in values:
                raise ValueError("give loss or losses, not both: losses: [NAME, ...] for several, or loss: NAME for "
                                 "one")
            return {**{key: value for key, value in values.items() if key != "loss"}, "losses": [values["loss"]]}
        return values

    @model_validator(mode="after")
    def _one_way_of_matching(self) -> MatchSection:
        if (self.module_T is None) != (self.module_S is None):
            raise ValueError("give both module_T and module_S, or layers")
        unfit = [loss for loss in self.losses if not _fits_modules(loss)] if self.module_T is not None else []
        if unfit:
            fitting = ", ".join(sorted(filter(_fits_modules, MATCH_LOSS_MAP)))
            raise ValueError(f"losses: {', '.join(unfit)} cannot compare the outputs of two modules, being for "
                             f"attention maps or for several layers; use {fitting}, or layers instead of modules")
        if self.layers is None:
            return self
        everywhere = [loss for loss in self.losses if _takes_all_layers(loss)]
        if self.module_T is not None or everywhere:
            which = "modules" if self.module_T is not None else f"losses: {', '.join(everywhere)}"
            raise ValueError(f"layers and {which} do not go together, for that takes no layer map; leave layers out, "
                             "or write two matches")
        return self

    @model_validator(mode="after")
    def _weights_are_used(self) -> MatchSection:
        unused = sorted(set(self.weight) - set(self.losses)) if isinstance(self.weight, Mapping) else []
        if unused:
            raise ValueError(f"weight names {', '.join(unused)}, and losses are {', '.join(self.losses)}")
        return self

    def weight_of(self, loss: str) -> float:
        """The weight of one loss; 1 if a mapping leaves it out."""
        return self.weight.get(loss, 1.0) if isinstance(self.weight, Mapping) else self.weight


def _takes_all_layers(loss: str) -> bool:
    kind = match_kind(loss)
    return kind is not None and kind.num_layers is None


def _fits_modules(loss: str) -> bool:
    """Whether a loss compares one state a side, which a module gives; a function of the user's does."""
    kind = match_kind(loss)
    return kind is None or (kind.num_layers == 1 and kind.reads == "hidden")


class DistillationSection(Section):
    """What the student learns from the teacher."""

    temperature: Positive | None = None
    """Divides the logits of both models; 8 if nothing is said, and 1 where the label is a number."""
    temperature_strategy: StrategyChoice | None = None
    """A temperature for each prediction, from that one: [flsw, BETA, GAMMA] or [cwsm, BETA]."""
    loss: KDLossName | None = None
    """forward_kl has the factor temperature**2 and is 0 for equal models; ce and mse are the paper's, without it. If
    nothing is said: forward_kl, with several labels a row bernoulli_kl, where the label is a number mse."""
    loss_weight: NotNegative = 1.0
    """The weight of that loss."""
    embedding: Mapping[Literal["cosine", "mse", "relation"], NotNegative] | None = None
    """Of the task sentence-embedding alone, instead of loss: weights of the losses between the sentences' vectors, of
    which cosine and mse compare each with the teacher's, and relation the similarities of the sentences of a batch.
    {cosine: 1, relation: 1} if nothing is said."""
    loss_schedule: ScheduleName | None = None
    """linear_decay or linear_growth, multiplied with the weight."""
    probability_shift: bool = False
    """Exchange the teacher's logit of the label with its largest one, so that the teacher is always right."""
    matches: Annotated[tuple[MatchSection, ...], OneOrMore] = ()
    """A mapping {layers, losses, weight}, the name of a set, such as L3_hidden_mse, or a list of such. Different widths
    get a projection without being asked."""
    hard_label_weight: NotNegative = 0.0
    """The weight of the cross-entropy with the data's labels."""
    hard_label_schedule: ScheduleName | None = None
    """linear_decay or linear_growth, multiplied with the weight."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> DistillationSection:
        idle = [name for name in ("probability_shift", "loss_schedule", "temperature_strategy") if getattr(self, name)]
        if idle and not self.loss_weight:
            raise ValueError(f"{' and '.join(idle)} change{'s' if len(idle) == 1 else ''} the loss between logits, "
                             f"whose weight is 0; raise loss_weight, or leave {' and '.join(idle)} out")
        if self.hard_label_schedule and not self.hard_label_weight:
            raise ValueError("hard_label_schedule multiplies hard_label_weight, which is 0; raise hard_label_weight, "
                             "as in hard_label_weight: 1, or leave hard_label_schedule out")
        return self

    @model_validator(mode="after")
    def _something_to_learn(self) -> DistillationSection:
        if self.embedding is not None and not any(self.embedding.values()):
            raise ValueError("embedding: all its weights are 0, so no vectors are compared; raise one, as in {cosine: "
                             "1}, or set loss_weight to 0 to learn from matches alone")
        weights = [match.weight_of(loss) for match in self.matches for loss in match.losses]
        if not any([self.loss_weight, self.hard_label_weight, *weights]):
            raise ValueError("all weights are 0, so there is nothing to learn from; raise loss_weight or "
                             "hard_label_weight")
        return self
