"""Where a model's layers are."""

from __future__ import annotations

from torch import nn

KNOWN_FAMILIES = ("bert", "camembert", "deberta-v2", "distilbert", "electra", "ernie", "modernbert", "mpnet", "roberta",
                  "xlm-roberta")
"""By ``model_type``: hidden state i is what goes into layer i, and nothing else passes from layer to layer.

All are tested. In other families layers may share weights, or depend on their number unseen.
"""


def layer_lists(model: nn.Module, depth: int) -> list[str]:
    """The dotted names of the module lists that may hold the model's ``depth`` layers; one, if the model is plain.

    Lists inside a found list are part of its layers.
    """
    found: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) == depth and not inside:
            found.append(name)
    return found
