"""What the original asked of the installation, under its old import path."""

import torch

__all__ = ["is_apex_available", "mask_dtype"]

mask_dtype = torch.bool


def is_apex_available() -> bool:
    """False: NVIDIA apex is not used; set ``precision="fp16"`` or ``"bf16"``."""
    return False
