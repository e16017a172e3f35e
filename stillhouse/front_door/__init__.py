"""The front door for Python: `distill` does what a recipe does, with models and data that may be in memory already.

distil.py        from arguments to a recipe, and from that to a result
arguments.py     which keyword belongs where in a recipe
given.py         what is in memory, as a file or folder that is named by its content
given_data.py    data sets, data frames and lists      given_models.py   models and their tokenizers
result.py        what comes out
"""

from __future__ import annotations

from stillhouse.front_door.distil import distill
from stillhouse.front_door.result import DistillationResult

__all__ = ["DistillationResult", "distill"]
