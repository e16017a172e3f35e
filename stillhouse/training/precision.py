"""In which precision the student runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch

from stillhouse.errors import PlanError

PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Precision:
    """A resolved precision: the autocast type (None for full precision) and whether gradients are scaled."""

    autocast_dtype: torch.dtype | None = None

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context for the student's forward."""
        return torch.autocast(device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """A gradient scaler, switched off unless the precision is fp16."""
        return torch.amp.GradScaler(device.type, enabled=self.autocast_dtype is torch.float16)

    def __str__(self) -> str:
        return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(self.autocast_dtype, "fp32")  # type: ignore[arg-type]


def resolve_precision(name: PrecisionName, device: torch.device) -> Precision:
    """The precision behind a name; ``auto`` is bf16 where the hardware has it. Raises `PlanError` if it cannot run."""
    if name == "auto":
        return Precision(torch.bfloat16 if has_fast_bf16(device) else None)
    if name == "fp16" and device.type == "cpu":
        raise PlanError("precision 'fp16' does not train on a CPU; use 'bf16', 'fp32' or 'auto'")
    return Precision({"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name])


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products run in hardware (elsewhere they are emulated, and slower than fp32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def resolve_device(name: str) -> torch.device:
    """``auto``: CUDA, else the CPU. Raises `PlanError` for a device that is not here or not supported."""
    if name == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise PlanError(f"device {name!r} is not supported: use 'auto', 'cpu', 'cuda' or 'cuda:0'")
    if name != "cpu" and int(match[1] or 0) >= torch.cuda.device_count():
        raise PlanError(f"device {name!r}: torch finds {torch.cuda.device_count()} CUDA devices on this machine; "
                        "set device='auto' or 'cpu'")
    return torch.device(name)
