"""How large a model's modules are, as a table: parameters, memory, buffers, FLOPs; a student beside its teacher."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from io import StringIO
from itertools import chain
from typing import TYPE_CHECKING, Any

from torch import nn

from stillhouse.errors import ConfigError, DataError
from stillhouse.flops import FlopCount, count_flops, longest_row

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["ParameterTable", "SizeComparison", "SizeRow", "SizeTotals", "parameter_table"]

_BYTES_PER_MB = 1 << 20
_FLOPS_PER_MFLOP = 10**6
_WIDTH = 160


@dataclass(frozen=True)
class SizeRow:
    """A module, or a parameter or buffer that a module holds beside other modules, with everything below it."""

    name: str
    """The dotted name; "" is the model."""
    level: int
    """How deep it stands; the model is at level 0."""
    num_parameters: int
    """Those that were not met before under another name."""
    share_percent: float
    """Of the model's parameters."""
    parameter_bytes: int
    num_buffer_values: int
    """Numbers in buffers, persistent or not."""
    buffer_bytes: int
    flops_per_token: float | None
    """None: unknown, or not a module."""
    shared_with: tuple[str, ...]
    """Parameters elsewhere that are parameters here too, and counted there."""


@dataclass(frozen=True)
class SizeTotals:
    """A whole model; what is shared counts once."""

    num_parameters: int
    num_trainable: int
    num_buffer_values: int
    memory_bytes: int
    """Of parameters and buffers in their present types."""
    flops_per_token: float | None
    """None: unknown."""


@dataclass(frozen=True)
class SizeComparison:
    """The student measured by the teacher; None where one of the two is unknown or 0."""

    parameters_percent: float | None
    memory_percent: float | None
    flops_percent: float | None
    flops_speed_up: float | None
    """The teacher's FLOPs over the student's."""


@dataclass(frozen=True)
class ParameterTable:
    """What `parameter_table` found; ``str`` and `render` show it to people, `to_dict` and `to_json` to programs."""

    model: str
    """The name of the model's class."""
    totals: SizeTotals
    rows: tuple[SizeRow, ...]
    """From top to bottom; the first is the model. What holds and costs nothing has no row."""
    sequence_length: int | None
    """Tokens in the row that FLOPs were counted for; None: unknown."""
    flops_unknown_because: str
    """Why FLOPs are unknown; empty if they are known."""
    beside: ParameterTable | None = None
    """The student's table."""
    comparison: SizeComparison | None = None
    """There if ``beside`` is."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what `to_json` writes, read again."""
        plain: dict[str, Any] = json.loads(self.to_json())
        return plain

    def to_json(self) -> str:
        """JSON, indented, with this class's field names."""
        return json.dumps(asdict(self), indent=2)

    def render(self) -> Table:
        """A table for a rich console. MB are 2^20 bytes, MFLOPs 10^6 FLOPs."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, caption="\n".join(_remarks(self)), caption_justify="left", caption_style="")
        table.add_column("module", no_wrap=True)
        for title in ("parameters", "share", "MB", "buffers", "MB", "MFLOPs/token"):
            table.add_column(title, justify="right", no_wrap=True)
        named = [(self, "")] if self.beside is None else [(self, "teacher "), (self.beside, "student ")]
        for one, role in named:
            for row in one.rows:
                table.add_row(*_cells(row, f"{role}{one.model}"))
            table.add_section()
        return table

    def __str__(self) -> str:
        from rich.console import Console

        text = StringIO()
        Console(file=text, width=_WIDTH, color_system=None).print(self.render())
        return "\n".join(line.rstrip() for line in text.getvalue().split("\n")).strip("\n")


def parameter_table(
    model: nn.Module, *, beside: nn.Module | None = None, depth: int | None = 2, sequence_length: int = 128,
    inputs: Any = None,
) -> ParameterTable:
    """Parameters, shares, memory, buffers and FLOPs per token of a model and its modules; of two, teacher and student.

    ``depth`` is how many levels below the model are shown (None: all), without modules that hold and cost nothing. The
    parameters of the rows below a module sum to the module's.
    Parameters with several names count where they are met first, buffers apart from parameters. ``beside`` is the
    student, if the model is its teacher. FLOPs are those of `stillhouse.flops.count_flops` for a row of
    ``sequence_length`` tokens, or as many as both models have positions for, or for ``inputs``; modules with several
    names have them at the first. Nothing is computed and no model changed; models on the meta device are as good.

    Raises `ConfigError` for a negative depth or a length below 1, `DataError` for what is no module and for inputs that
    a model cannot read.

    >>> parameter_table(nn.BatchNorm1d(3)).totals.num_parameters
    6
    """
    if depth is not None and depth < 0:
        raise ConfigError(f"depth={depth}: give 0 (the total only) or more")
    models = [model] if beside is None else [model, beside]
    for one in models:
        if not isinstance(one, nn.Module):
            raise DataError(f"a {type(one).__name__} is no model; give a torch module")
    length = min([sequence_length, *filter(None, map(longest_row, models))])
    tables = [_table(one, depth, count_flops(one, sequence_length=length, inputs=inputs)) for one in models]
    if beside is None:
        return tables[0]
    teacher, student = tables
    return replace(teacher, beside=student, comparison=_compared(teacher, student))


@dataclass
class _Sum:
    """What is below a name."""

    num_parameters: int = 0
    parameter_bytes: int = 0
    num_buffer_values: int = 0
    buffer_bytes: int = 0
    shared_with: list[str] = field(default_factory=list)


def _table(model: nn.Module, depth: int | None, flops: FlopCount) -> ParameterTable:
    sums = _sums(model)
    whole = sums[""]
    rows = []
    for name, level, is_module in _shown(model):
        if depth is None or level <= depth:
            below = sums[name]
            share = 100 * below.num_parameters / max(whole.num_parameters, 1)
            cost = flops.per_token.get(name, 0.0) if flops.per_token and is_module else None
            row = SizeRow(name, level, below.num_parameters, share, below.parameter_bytes, below.num_buffer_values,
                          below.buffer_bytes, cost, tuple(below.shared_with))
            if level == 0 or below.num_parameters or below.num_buffer_values or below.shared_with or cost:
                rows.append(row)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    totals = SizeTotals(whole.num_parameters, trainable, whole.num_buffer_values,
                        whole.parameter_bytes + whole.buffer_bytes, flops.per_token.get(""))
    return ParameterTable(type(model).__name__, totals, tuple(rows), flops.sequence_length, flops.unknown_because)


def _shown(model: nn.Module) -> Iterator[tuple[str, int, bool]]:
    """Dotted name, level, and whether it is a module: every module, and what modules hold beside other modules."""
    for name, module in model.named_modules(remove_duplicate=False):
        level = name.count(".") + 1 if name else 0
        yield name, level, True
        if next(module.children(), None) is not None:
            own = chain(module.named_parameters(recurse=False, remove_duplicate=False),
                        module.named_buffers(recurse=False, remove_duplicate=False))
            for tensor_name, _ in own:
                yield f"{name}.{tensor_name}" if name else tensor_name, level + 1, False


def _sums(model: nn.Module) -> defaultdict[str, _Sum]:
    """By the dotted name of each module, parameter and buffer."""
    sums: defaultdict[str, _Sum] = defaultdict(_Sum)
    first_name: dict[int, str] = {}
    parameters = ((name, tensor, True) for name, tensor in model.named_parameters(remove_duplicate=False))
    buffers = ((name, tensor, False) for name, tensor in model.named_buffers(remove_duplicate=False))
    for name, tensor, is_parameter in chain(parameters, buffers):
        first = first_name.setdefault(id(tensor), name)
        parts = name.split(".")
        for path in (".".join(parts[:length]) for length in range(len(parts) + 1)):
            below = sums[path]
            if first != name:
                if is_parameter and not f"{first}.".startswith(f"{path}." if path else ""):
                    below.shared_with.append(first)
            elif is_parameter:
                below.num_parameters += tensor.numel()
                below.parameter_bytes += tensor.nbytes
            else:
                below.num_buffer_values += tensor.numel()
                below.buffer_bytes += tensor.nbytes
    return sums


def _compared(teacher: ParameterTable, student: ParameterTable) -> SizeComparison:
    its, whole = student.totals, teacher.totals

    def ratio(part: float | None, base: float | None, factor: int) -> float | None:
        return factor * part / base if part and base else None

    return SizeComparison(ratio(its.num_parameters, whole.num_parameters, 100),
                          ratio(its.memory_bytes, whole.memory_bytes, 100),
                          ratio(its.flops_per_token, whole.flops_per_token, 100),
                          ratio(whole.flops_per_token, its.flops_per_token, 1))


def _cells(row: SizeRow, model: str) -> list[str]:
    shared = "" if not row.shared_with else " (partly shared)" if row.num_parameters else " (shared)"
    label = model if row.level == 0 else f"{'  ' * row.level}{row.name.rpartition('.')[2]}{shared}"
    flops = "unknown" if row.level == 0 else ""
    if row.flops_per_token is not None:
        flops = f"{row.flops_per_token / _FLOPS_PER_MFLOP:,.2f}"
    return [label, f"{row.num_parameters:,}", f"{row.share_percent:.2f} %", _megabytes(row.parameter_bytes),
            f"{row.num_buffer_values:,}", _megabytes(row.buffer_bytes), flops]


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / _BYTES_PER_MB:,.2f}"


def _remarks(table: ParameterTable) -> Iterator[str]:
    """What stands below the table, by lines."""
    named = [(table, "")] if table.beside is None else [(table, "teacher: "), (table.beside, "student: ")]
    for one, role in named:
        yield (f"{role}{one.totals.num_trainable:,} of {one.totals.num_parameters:,} parameters are trainable; "
               f"{_megabytes(one.totals.memory_bytes)} MB with buffers")
        if one.flops_unknown_because:
            yield f"{role}FLOPs are unknown: {one.flops_unknown_because}"
    for length in sorted({one.sequence_length for one, _ in named if one.sequence_length}):
        yield f"FLOPs: matrix products for a row of {length} tokens, divided by its length"
    if table.comparison is not None:
        parts = {"parameters": table.comparison.parameters_percent, "memory": table.comparison.memory_percent,
                 "FLOPs": table.comparison.flops_percent}
        shares = [f"{percent:.1f} % of the teacher's {what}" for what, percent in parts.items() if percent is not None]
        yield f"the student has {', '.join(shares) or 'nothing to compare'}"
        if table.comparison.flops_speed_up is not None:
            yield f"the teacher needs {table.comparison.flops_speed_up:.2f} times the student's FLOPs"
