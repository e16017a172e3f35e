"""Drawings for a page: matplotlib's SVG with the page's own colours and letters.

Colours are drawn as stand-ins and then replaced by variables of the page's style sheet, so that one drawing serves the
light and the dark page. Letters stay text, in the page's font.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK: Final = "#010101"
FAINT: Final = "#010102"
GRID: Final = "#010103"
TEACHER: Final = "#010104"
STUDENT: Final = "#010105"
CONTRAST: Final = "#010106"
SERIES: Final = tuple(f"#0102{number:02x}" for number in range(1, 7))

VARIABLES: Final = {
    INK: "var(--ink)", FAINT: "var(--faint)", GRID: "var(--line)", TEACHER: "var(--teacher)",
    STUDENT: "var(--student)", CONTRAST: "var(--contrast)",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES, start=1)},
}
"""What of the style sheet each stand-in becomes."""

_WIDTH_IN, _HEIGHT_IN = 4.3, 2.8  # narrow, so that letters stay readable where a phone scales it down
_FONT_PT = 9
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "stillhouse", "text.parse_math": False, "font.size": _FONT_PT,
    "axes.edgecolor": GRID, "axes.labelcolor": FAINT, "axes.titlecolor": INK, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.6,
    "xtick.color": FAINT, "ytick.color": FAINT, "xtick.major.size": 0, "ytick.major.size": 0, "xtick.minor.size": 0,
    "ytick.minor.size": 0, "text.color": INK, "lines.linewidth": 1.6, "lines.markersize": 4,
    "axes.unicode_minus": True, "axes.formatter.useoffset": False,
}
_FONT = re.compile(r"font: ([\d.]+)px [^;\"]*")
_ID = re.compile(r'\bid="([^"]+)"')
_HREF = re.compile(r'xlink:href="#([^"]+)"')
_URL = re.compile(r"url\(#([^)]+)\)")
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)


class Drawing:
    """A figure with one pair of axes; ``svg`` is what it became when the ``with`` of `drawing` ended."""

    def __init__(self, axes: Axes, figure: Figure) -> None:
        self.axes, self.figure = axes, figure
        self.svg = Markup()


@contextmanager
def drawing(title: str) -> Iterator[Drawing]:
    """Draw on ``axes`` inside; ``title`` tells readers of screens what is seen."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser has the letters
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
        made = Drawing(figure.subplots(), figure)
        yield made
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        made.svg = inline(text.getvalue(), title)


def inline(svg: str, title: str) -> Markup:
    """A file's SVG as an element of a page: no prologue, ids of its own, the page's font and colours."""
    body = _METADATA.sub("", svg[svg.index("<svg"):])
    own = f"d{zlib.crc32((title + body).encode()):08x}"
    body = _ID.sub(rf'id="{own}-\1"', body)
    body = _HREF.sub(rf'href="#{own}-\1"', body)
    body = _URL.sub(rf"url(#{own}-\1)", body)
    body = _FONT.sub(r"font-size: \1px", body)
    for color, variable in VARIABLES.items():
        body = body.replace(color, variable)
    head = body[:body.index(">")]
    view = re.search(r'viewBox="[^"]+"', head)
    opening = f'<svg {view[0] if view else ""} role="img" aria-label="{escape(title)}">'
    return Markup(opening + body[body.index(">") + 1:].strip())  # drawn here: texts in it were escaped by matplotlib

