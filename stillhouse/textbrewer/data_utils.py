"""The token-level augmentation functions under their old import path."""

from __future__ import annotations

from stillhouse.augment import deleting, long_disorder, masking, n_gram_sampling, short_disorder

__all__ = ["deleting", "long_disorder", "masking", "n_gram_sampling", "short_disorder"]
