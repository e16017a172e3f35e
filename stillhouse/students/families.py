"""The families of models whose layers are known well enough to be taken out of their places."""

from __future__ import annotations

from transformers import PretrainedConfig

from stillhouse.adaptors.layers import KNOWN_FAMILIES
from stillhouse.errors import PlanError
from stillhouse.students.networks import known_networks
from stillhouse.students.shapes import OWN_MODEL


def require_known_family(config: PretrainedConfig) -> None:
    """Raise `PlanError`, saying what to give instead, for a teacher whose layers cannot be taken apart."""
    if config.model_type in KNOWN_FAMILIES:
        return
    kind = f"an encoder-decoder ({type(config).__name__})" if config.is_encoder_decoder else type(config).__name__
    raise PlanError(f"no student can be derived from {kind}: the layers of the family {config.model_type!r} are not "
                    f"known (known: {', '.join(KNOWN_FAMILIES)}); {OWN_MODEL}, or take {{network: NAME}} with one of "
                    f"{', '.join(known_networks())}, which needs only the teacher's word embeddings")
