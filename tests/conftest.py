"""What holds for every test: one thread, no network, and no cache of the user's."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Read by the libraries when they are imported, so set before anything imports them; child processes inherit it.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def stillhouse_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep caches and fine-tuned teachers of this run of the tests in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STILLHOUSE_CACHE", str(tmp_path_factory.mktemp("stillhouse_cache")))
        yield
