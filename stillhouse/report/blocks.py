"""What a page is made of. A template knows how to show a block by its ``kind``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from stillhouse.methods import Citation
from stillhouse.report.charts import Chart
from stillhouse.report.confusion import Confusion
from stillhouse.report.disagreements import Disagreement


@dataclass(frozen=True)
class Block:
    """A part of a section."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Text(Block):
    """A paragraph."""

    kind = "text"
    text: str


@dataclass(frozen=True)
class Fact:
    """A number with its name, and what it is to be compared with."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Facts(Block):
    """The numbers to see first."""

    kind = "facts"
    facts: Sequence[Fact]


@dataclass(frozen=True)
class Cell:
    """A cell with a tone: ``good``, ``bad``, or empty for neither; a link leads to an anchor of the page."""

    text: str
    tone: str = ""
    link: str = ""


@dataclass(frozen=True)
class Table(Block):
    """Rows of texts or `Cell`; the first ``num_names`` columns are words, the others numbers."""

    kind = "table"
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    num_names: int = 1
    is_long: bool = False
    """Whether it scrolls inside its box instead of making the page long."""


@dataclass(frozen=True)
class Charts(Block):
    """Drawings side by side where there is room."""

    kind = "charts"
    charts: Sequence[Chart]


@dataclass(frozen=True)
class Part:
    """A share of a whole; the tone is a class of the style sheet."""

    name: str
    count: int
    share: float
    tone: str


@dataclass(frozen=True)
class Parts(Block):
    """A whole in parts, as one bar."""

    kind = "parts"
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Matrix:
    """A confusion with the shares of its rows, and who stands in them."""

    title: str
    reference: str
    found: Confusion


@dataclass(frozen=True)
class Matrices(Block):
    """Confusions side by side."""

    kind = "matrices"
    matrices: Sequence[Matrix]


@dataclass(frozen=True)
class Differences(Block):
    """Rows on which two models differ."""

    kind = "differences"
    rows: Sequence[Disagreement]


@dataclass(frozen=True)
class Code(Block):
    """A text as it is, folded away."""

    kind = "code"
    title: str
    text: str


@dataclass(frozen=True)
class References(Block):
    """Papers, and what of each is used."""

    kind = "references"
    citations: Sequence[Citation]


@dataclass(frozen=True)
class Section:
    """A titled part of a page; ``anchor`` is unique on it."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class RunPage:
    """What is told of one run."""

    anchor: str
    title: str
    lead: str
    about: str
    sections: Sequence[Section] = field(default=())
