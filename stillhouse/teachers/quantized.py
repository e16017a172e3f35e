"""Teachers whose encoder computes in 8-bit whole numbers on a CPU, so that they answer sooner.

Weights have one scale for each output, from -127 to 127. Activations are quantized while the model runs, each token by
itself, from 0 to 127, so that no token suffers from the large values of another, and a layer gives a token the same
whatever stands beside it. Between layers attention does not: it adds up in another order beside other padding, and
what differs in the last digit may be rounded to the next whole number. So a model's answers to a row in two batches
differ, by less than either differs from the model's own.

Seven bits for activations and not eight, because processors without the VNNI instructions add up two products in 16
bits, which 255 x 127 twice would overflow unseen.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn

from stillhouse.errors import ConfigError, PlanError, first_line

__all__ = ["VERSION", "Int8Linear", "int8_dynamic", "require_int8_products"]

VERSION = "int8-dynamic/1"
"""Names this arithmetic; another name means other answers of the same model."""

_WEIGHT_STEPS, _ACTIVATION_STEPS = 127, 127
_SMALLEST_STEP = 1e-30  # of a token whose activations are all the same

Model = TypeVar("Model", bound=nn.Module)


@final
class Int8Linear(nn.Module):
    """A linear layer in whole numbers: what `torch.nn.Linear` gives, but for the rounding, in the type of its input.

    It cannot be trained, and stays on the CPU. ``weight``, (outputs, inputs) of int8, is a parameter without a
    gradient, so that parameters and bytes are counted as they are.

    Args:
        linear: the layer to be quantized, which stays as it is.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        exact = linear.weight.detach().float().cpu()
        scale = (exact.abs().amax(dim=1) / _WEIGHT_STEPS).clamp_min(_SMALLEST_STEP)
        whole = (exact / scale[:, None]).round()
        self.weight = nn.Parameter(whole.to(torch.int8), requires_grad=False)
        bias = torch.zeros(self.out_features) if linear.bias is None else linear.bias.detach().float().cpu()
        self.bias = nn.Parameter(bias.clone(), requires_grad=False) if linear.bias is not None else None
        self.scale: Tensor
        self.register_buffer("scale", scale)
        self._packed = _Packed(self.weight, scale, whole.sum(dim=1) * scale, bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        tokens = inputs.reshape(-1, self.in_features).float()
        lowest = tokens.amin(dim=1, keepdim=True)  # two passes are ten times as fast as aminmax along a dimension
        step = tokens.amax(dim=1, keepdim=True).sub_(lowest).div_(_ACTIVATION_STEPS).clamp_min_(_SMALLEST_STEP)
        whole = tokens.sub(lowest).div_(step).round_().to(torch.int8).view(torch.uint8)  # to(uint8) is slower
        products = self._packed.products(whole)
        # A token's lowest value has become 0; what it adds to an output is its product with the sum of the weights.
        outputs = torch.addr(self._packed.bias, lowest[:, 0], self._packed.sums).addcmul_(products, step)
        return outputs.reshape(*inputs.shape[:-1], self.out_features).to(inputs.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


@final
class _Packed:
    """The weights as the processor reads them, and what belongs to their outputs: sums of weights, and biases."""

    def __init__(self, weight: Tensor, scale: Tensor, sums: Tensor, bias: Tensor) -> None:
        self.sums, self.bias = sums, bias
        self._scale, self._zeros = scale, torch.zeros(len(scale), dtype=torch.int64)
        self._weight = torch.ops.onednn.qlinear_prepack(weight, None)

    def products(self, whole: Tensor) -> Tensor:
        """(tokens, inputs) of uint8 to (tokens, outputs) of float32."""
        found: Tensor = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, 0, self._weight, self._scale, self._zeros, None, 1.0, 0, torch.float32, "none", [], "")
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> _Packed:
        return self  # nothing in it ever changes


def int8_dynamic(model: Model) -> Model:
    """A copy of a model whose encoder computes in 8-bit whole numbers: its `torch.nn.Linear` layers are quantized.

    Embeddings, normalisation, and the head of a transformers model are copied as they are. The copy is on the CPU and
    answers only; the model stays as it is.

    Raises `ConfigError` if this processor or this version of torch gives wrong products, `PlanError` if the model has
    no such layers.
    """
    require_int8_products()
    quantized = copy.deepcopy(model).cpu()
    encoder: nn.Module = getattr(quantized, "base_model", quantized)
    # Not its subclasses: whoever made one may read its weights directly.
    found = {name: module for name, module in encoder.named_modules() if type(module) is nn.Linear}
    if not found:
        raise PlanError(f"a {type(model).__name__} has no layers of torch.nn.Linear, so there is nothing that "
                        "int8-dynamic could quantize; leave quantization out")
    for name, linear in found.items():
        path, _, last = name.rpartition(".")
        setattr(encoder.get_submodule(path), last, Int8Linear(linear))
    return quantized


def require_int8_products() -> None:
    """Raise `ConfigError` unless products of the largest whole numbers that can occur are right on this machine."""
    remedy = "leave quantization out"
    weight = torch.full((32, 64), -_WEIGHT_STEPS, dtype=torch.int8)
    weight[::2] = _WEIGHT_STEPS
    whole = torch.full((32, 64), _ACTIVATION_STEPS, dtype=torch.uint8)
    try:
        found = _Packed(weight, torch.ones(32), torch.zeros(32), torch.zeros(32)).products(whole)
    except (AttributeError, RuntimeError, NotImplementedError) as error:
        reason = first_line(error)
        raise ConfigError(f"int8-dynamic: torch {torch.__version__} has no 8-bit products for this processor "
                          f"({reason}); {remedy}") from error
    if not torch.equal(found, whole.float() @ weight.float().T):
        raise ConfigError(f"int8-dynamic: torch {torch.__version__} overflows in 8-bit products on this processor; "
                          f"{remedy}")
