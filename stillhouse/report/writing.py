"""Run folders to one HTML page that needs nothing beside it: no network, no scripts, no other file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2

from stillhouse.errors import ConfigError
from stillhouse.report.blocks import Section
from stillhouse.report.comparison import comparisons, lead_of, title_of
from stillhouse.report.run_files import RunFiles, find_runs
from stillhouse.report.sections import citation_blocks, run_page
from stillhouse.whole_files import folder_made, write_text

_FILE = "report.html"


def write_report(runs: Sequence[Path], output: Path | None = None) -> Path:
    """Write the page of one run, or of several beside each other, and return its path.

    Args:
        runs: run folders, or folders with runs inside: those of seeds, of stages, or any put side by side.
        output: the file; if none is named, ``report.html`` in the folder that was given, or in the current directory
            for several.

    Raises `ConfigError` for what is no finished run and for a file that cannot be written, `DataError` for a run whose
    files cannot be read.
    """
    if not runs:
        raise ConfigError("there is no run to report on; give a run folder")
    found = {run.path.resolve(): run for path in runs for run in find_runs(Path(path).expanduser())}
    target = output or (Path(runs[0]).expanduser() / _FILE if len(runs) == 1 else Path(_FILE))
    html = page(list(found.values()))
    try:
        if target.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        with folder_made(target.parent):
            write_text(target, html)
    except OSError as error:
        raise ConfigError(f"--output: {target} cannot be written: {error.strerror or error}; name a file, as in "
                          "--output report.html") from error
    return target


def page(runs: Sequence[RunFiles]) -> str:
    """The HTML of a page about one run or more."""
    template = environment().get_template("page.html.j2")
    if len(runs) == 1:
        only = run_page(runs[0])
        return template.render(title=only.title, about=only.about, lead=only.lead, sections=only.sections, pages=[])
    anchors = {run: f"run-{number}" for number, run in enumerate(runs, start=1)}
    sections = comparisons(runs, anchors)
    sections.append(Section("cite", "What to cite", citation_blocks(runs)))
    return template.render(
        title=title_of(runs), about=", ".join(dict.fromkeys(run.task for run in runs)),
        lead=lead_of(runs), sections=sections, pages=[run_page(run, anchors[run]) for run in runs])


def environment() -> jinja2.Environment:
    """The templates beside this module; everything put into them is escaped."""
    files = resources.files("stillhouse.report")
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: files.joinpath(name).read_text(encoding="utf-8")), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
