"""Models whose attention maps a loss can use: fast attention gives no maps, and dropout sets parts of them to 0."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from transformers import PreTrainedModel

from stillhouse.adaptors.hugging_face import ATTENTION_DROPOUTS
from stillhouse.presets import match_kind
from stillhouse.recipe.distillation_schema import DistillationSection
from stillhouse.training.randomness import untouched


def compares_attention(section: DistillationSection) -> bool:
    """Whether a loss with a weight compares attention maps."""
    kinds = [match_kind(loss) for match in section.matches for loss in match.losses if match.weight_of(loss)]
    return any(kind is not None and kind.reads == "attention" for kind in kinds)


def give_attention_maps(model: PreTrainedModel) -> None:
    """Switch to the attention implementation that returns its maps."""
    model.set_attn_implementation("eager")


def trained_on_attention_maps(student: PreTrainedModel) -> tuple[PreTrainedModel, dict[str, float]]:
    """The student with attention maps and without dropout on them, and the dropouts that its configuration had.

    Dropout is part of a module when it is made, so the student is made again, with the same weights.
    """
    dropouts = {name: float(getattr(student.config, name)) for name in ATTENTION_DROPOUTS
                if getattr(student.config, name, 0)}
    if not dropouts:
        give_attention_maps(student)
        return student, {}
    config = copy.deepcopy(student.config)
    for name in dropouts:
        setattr(config, name, 0.0)
    with untouched():
        again = type(student)(config)
    again.load_state_dict(student.state_dict())
    give_attention_maps(again)
    return again, dropouts


def write_back(dropouts: Mapping[str, float], student: PreTrainedModel) -> None:
    """Give a trained student's configuration its dropouts back, for whoever loads it and trains it further."""
    for name, value in dropouts.items():
        setattr(student.config, name, value)
