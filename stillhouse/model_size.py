"""How large a model is: parameters as a tree, as text, as one number, and in bytes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn

from stillhouse.errors import ConfigError, DataError

__all__ = ["ParameterNode", "count_parameters", "parameter_text", "parameter_tree", "size_bytes"]

BYTES_PER_MB = 1024 * 1024


class ParameterNode:
    """A module or a parameter in the tree of dotted names: ``root["encoder"]["0"]``, ``"bias" in node``.

    ``value`` is (number of parameters, bytes) of everything below; what is shared counts where it is met first.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.num_parameters = 0
        self.size_bytes = 0
        self.is_shared = False  # this very tensor was met before, under another name
        self.children: dict[str, ParameterNode] = {}

    @property
    def value(self) -> tuple[int, int]:
        """(number of parameters, bytes) of everything below."""
        return self.num_parameters, self.size_bytes

    def __contains__(self, name: object) -> bool:
        return name in self.children

    def __getitem__(self, name: str) -> ParameterNode:
        return self.children[name]

    def __iter__(self) -> Iterator[ParameterNode]:
        return iter(self.children.values())

    def __len__(self) -> int:
        return len(self.children)

    def __bool__(self) -> bool:
        return True  # a leaf has no children, and is something nevertheless

    def __repr__(self) -> str:
        return f"ParameterNode({self.name!r}, num_parameters={self.num_parameters}, size_bytes={self.size_bytes})"


def parameter_tree(model_or_state_dict: nn.Module | Mapping[str, Any]) -> ParameterNode:
    """The parameters of a model, or all tensors of a state dict, as a tree whose root is called ``model``.

    A module's buffers are left out; a state dict does not tell them from parameters, so there they count. Tensors
    met again under another name count once: the same parameter of a module, the same memory in a state dict
    (tensors on the meta device have none, so only the same object is shared there). Entries of a state dict that are
    no tensors are passed over. Raises `DataError` for anything that is neither a module nor a mapping.

    >>> parameter_tree(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))["0"].value
    (15, 60)
    """
    root = ParameterNode("model")
    seen: set[Hashable] = set()
    for name, tensor, identity in _named_tensors(model_or_state_dict):
        is_shared = identity in seen
        seen.add(identity)
        path = [root]
        for part in name.split("."):
            path.append(path[-1].children.setdefault(part, ParameterNode(part)))
        path[-1].is_shared = is_shared
        if not is_shared:
            for node in path:
                node.num_parameters += tensor.numel()
                node.size_bytes += _bytes_of(tensor)
    return root


def parameter_text(node: ParameterNode, max_level: int | None = None) -> str:
    """A table of a tree: name, number of parameters, share of the total in per cent, megabytes (2^20 bytes).

    ``max_level`` is how many levels below the root are shown (all by default). A node with a single child leaves the
    numbers to that child. Raises `ConfigError` for a negative ``max_level``.
    """
    if max_level is not None and max_level < 0:
        raise ConfigError(f"max_level={max_level}: give 0 (the total only) or more, or None for the whole tree")
    rows = list(_rows(node, 0, max_level))
    width = max(len(label) for label, _ in rows)
    lines = [f"{'LAYER NAME':<{width}}\t{'#PARAMS':>15}\t{'RATIO':>10}\t{'MEM(MB)':>8}"]
    for label, shown in rows:
        line = f"{label:<{width}}"
        if shown is not None:
            share = 100 * shown.num_parameters / max(node.num_parameters, 1)
            line += f"\t{shown.num_parameters:>15,d}\t{share:>9.2f}%\t{shown.size_bytes / BYTES_PER_MB:>8.2f}"
        lines.append(line)
    return "\n" + "\n".join(lines) + "\n"


def count_parameters(model: nn.Module) -> int:
    """The number of parameters, trainable or not; shared ones count once, buffers not at all.

    >>> count_parameters(nn.BatchNorm1d(3))
    6
    """
    return sum(parameter.numel() for parameter in model.parameters())


def size_bytes(model: nn.Module) -> int:
    """The bytes of all parameters and buffers in their present types; shared ones count once.

    >>> size_bytes(nn.Linear(4, 3))
    60
    """
    return sum(_bytes_of(tensor) for tensor in chain(model.parameters(), model.buffers()))


def _bytes_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _named_tensors(source: nn.Module | Mapping[str, Any]) -> Iterable[tuple[str, Tensor, Hashable]]:
    """Dotted name, tensor, and what is equal for two names of the same tensor."""
    if isinstance(source, nn.Module):
        return [(name, tensor, id(tensor)) for name, tensor in source.named_parameters(remove_duplicate=False)]
    if isinstance(source, Mapping):
        return [(name, value, _memory_of(value)) for name, value in source.items() if isinstance(value, Tensor)]
    raise DataError(f"a {type(source).__name__} has no parameters to show; give a torch module or its state dict")


def _memory_of(tensor: Tensor) -> Hashable:
    # Meta tensors and empty ones all report address 0. The length tells a tensor from the start of it.
    if tensor.is_meta or tensor.data_ptr() == 0:
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.numel()


def _rows(node: ParameterNode, level: int, max_level: int | None) -> Iterator[tuple[str, ParameterNode | None]]:
    """Label and the node whose numbers stand beside it (None: no numbers), from top to bottom."""
    is_open = max_level is None or level < max_level
    leaves_numbers_to_child = is_open and len(node) == 1
    mark = "" if leaves_numbers_to_child else "(shared):" if node.is_shared else ":"
    yield f"{'  ' * level}--{node.name}{mark}", None if leaves_numbers_to_child else node
    if is_open:
        for child in node:
            yield from _rows(child, level + 1, max_level)
