"""Models whose attention maps a loss can use: fast attention gives no maps, and dropout sets parts of them to 0."""

from __future__ import annotations

import copy

from transformers import PreTrainedModel

from stillhouse.adaptors.hugging_face import ATTENTION_DROPOUTS
from stillhouse.objective import Objective
from stillhouse.training.randomness import untouched
from stillhouse.types import ATTENTION_SCORES


def reads_attention(objective: Objective) -> bool:
    """Whether a loss of the objective compares attention maps."""
    return any(key.kind in ("attention", ATTENTION_SCORES) for key in objective.needs().teacher)


def give_attention_maps(model: PreTrainedModel) -> None:
    """Switch to the attention implementation that returns its maps."""
    model.set_attn_implementation("eager")


def trained_on_attention_maps(student: PreTrainedModel) -> tuple[PreTrainedModel, bool]:
    """The student with attention maps and without dropout on them, and whether that changed it.

    Dropout is part of a module when it is made, so the student is made again, with the same weights.
    """
    config = copy.deepcopy(student.config)
    found = [name for name in ATTENTION_DROPOUTS if getattr(config, name, 0)]
    if not found:
        give_attention_maps(student)
        return student, False
    for name in found:
        setattr(config, name, 0.0)
    with untouched():
        again = type(student)(config)
    again.load_state_dict(student.state_dict())
    give_attention_maps(again)
    return again, True
