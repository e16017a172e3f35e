"""What the documentation site has beside the files of docs/: hooks of MkDocs, named in mkdocs.yml.

The reference of the Python interface is made from docstrings: a page for each room of the package, with every name that
the room gives out. Two pages are files from elsewhere in the repository. Nothing is imported, only read.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "stillhouse"
MOVED = {"ready-made-recipes.md": "recipes/README.md", "changelog.md": "CHANGELOG.md"}
"""Pages of the site that are files outside docs/."""


class Room(NamedTuple):
    """A page of the reference: its title, and the modules whose names stand on it."""

    title: str
    modules: tuple[str, ...]


ROOMS = {
    "front_door": Room("A student in one call", ("front_door",)),
    "recipe": Room("Recipes", ("recipe",)),
    "finished": Room("Finished runs", ("finished",)),
    "report": Room("Reports", ("report", "methods")),
    "export": Room("Export", ("export",)),
    "distillers": Room("Distillers and configurations", ("config", "distillers", "match_sets", "terms")),
    "trainer_bridge": Room("transformers.Trainer", ("trainer_bridge",)),
    "presets": Room("Presets", ("presets",)),
    "adaptors": Room("Adaptors", ("adaptors",)),
    "losses": Room("Losses", ("losses",)),
    "teachers": Room("Teachers", ("teachers", "teachers.stores")),
    "objective": Room("Objective and plan", ("objective", "plan", "types", "needs", "schedules")),
    "training": Room("Training", ("training",)),
    "students": Room("Students", ("students", "size_table")),
    "tasks": Room("Tasks", ("tasks",)),
    "metrics": Room("Metrics", ("metrics",)),
    "testing": Room("Conformance suites", ("testing.tasks", "testing.teachers", "testing.stores")),
    "errors": Room("Errors", ("errors",)),
}

INNER = frozenset({
    "config.validation_message", "errors.about", "errors.unknown_name", "methods.AUGMENTATIONS",
    "methods.EMBEDDING_LOSSES", "methods.LAYER_LOSSES", "methods.LOGIT_LOSSES", "methods.NETWORKS", "methods.SHAPES",
    "methods.STRATEGIES", "needs.indices", "presets.kd_loss", "presets.look_up", "presets.match_kind",
    "presets.match_loss", "presets.strategy_of", "schedules.is_always_zero", "terms.Matches", "terms.logits_terms",
})
"""Names without an underscore that one part of the package has for another."""


def module_path(module: str) -> Path | None:
    """The file of a module of the package, such as ``losses`` or ``teachers.stores``; None if there is none."""
    stem = ROOT / PACKAGE / Path(*module.split("."))
    return next((path for path in (stem / "__init__.py", stem.with_suffix(".py")) if path.exists()), None)


def public_names(path: Path) -> list[str]:
    """What a module gives out: its ``__all__``, or else its public classes, functions and documented values."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    defined = []
    for node, following in zip(body, [*body[1:], None], strict=True):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__" and isinstance(node, ast.Assign):
            return list(ast.literal_eval(node.value))
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            defined.append(node.name)
        elif isinstance(target, ast.Name) and _is_text(following):
            defined.append(target.id)
    return [name for name in defined if not name.startswith("_")]


def _is_text(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def homes() -> dict[str, str]:
    """The module that each name of ``stillhouse.__all__`` comes from; read from ``_HOMES``."""
    tree = ast.parse((ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (table,) = (ast.literal_eval(node.value) for node in tree.body
                if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_HOMES")
    return {name: home for home, names in table.items() for name in names}


def reference() -> dict[str, str]:
    """The pages of the reference by name: the text of each module, and a directive of mkdocstrings for each name.

    Raises `PluginError` if a name of ``stillhouse.__all__`` would be on none of them.
    """
    pages, places = {}, {}
    for page, room in ROOMS.items():
        parts = [f"# {room.title}"]
        for module in room.modules:
            path = module_path(module)
            if path is None:
                continue
            given_out = [name for name, home in homes().items() if home == f"{PACKAGE}.{module}"]
            names = list(dict.fromkeys([*public_names(path), *given_out]))
            names = [name for name in names if f"{module}.{name}" not in INNER]
            places.update({f"{PACKAGE}.{module}.{name}": page for name in names})
            parts.append(f"## `{PACKAGE}.{module}`\n\n{_about(path)}")
            parts += [f"::: {PACKAGE}.{module}.{name}\n    options: {{heading_level: 3}}" for name in names]
        if len(parts) > 1:
            pages[page] = "\n\n".join(parts) + "\n"
    public = {name: f"{home}.{name}" for name, home in sorted(homes().items(), key=lambda item: item[0].lower())}
    missing = [name for name, place in public.items() if place not in places]
    if missing:
        raise PluginError(f"{', '.join(missing)} of stillhouse.__all__ would be on no page; add the module to ROOMS "
                          "in scripts/docs_site.py")
    pages["index"] = "\n".join(_index(public, places, pages)) + "\n"
    return pages


def _about(path: Path) -> str:
    # Not cleaned: where nothing but the first line stands at the margin, that would take a block's indentation away.
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False) or ""


def _index(public: dict[str, str], places: dict[str, str], pages: dict[str, str]) -> Iterator[str]:
    yield from ("# Python reference", "", "Made from the docstrings. `stillhouse` itself gives out these names; they "
                "are loaded when they are first used.", "", "| name | comes from |", "| --- | --- |")
    for name, path in public.items():
        yield f"| [`{name}`]({places[path]}.md#{path}) | `{path.rpartition('.')[0]}` |"
    yield from ("", "All rooms:", "")
    yield from (f"- [{room.title}]({page}.md)" for page, room in ROOMS.items() if page in pages)


def decisions(folder: Path) -> list[str]:
    """A line for each decision: its title, linked."""
    lines = []
    for path in sorted(folder.glob("[0-9]*.md"))[1:]:
        text = path.read_text(encoding="utf-8")
        title = text.split("\n", 1)[0].lstrip("# ")
        lines.append(f"- [{title}]({path.name})")
    return lines


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the reference's pages into the navigation."""
    pages = [{room.title: f"api/{page}.md"} for page, room in ROOMS.items()
             if any(module_path(module) for module in room.modules)]
    for section in config.nav or []:
        if "Reference" in section:
            section["Reference"] += ["api/index.md", *pages]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of docs/."""
    for page, text in reference().items():
        files.append(File.generated(config, f"api/{page}.md", content=text))
    for page, path in MOVED.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text.replace("](../docs/", "](")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files outside docs/ lead to their pages, and list the decisions."""
    for moved, path in MOVED.items():
        depth = page.file.src_uri.count("/")
        markdown = re.sub(rf"\]\((\.\./)+{re.escape(path)}", f"]({'../' * depth}{moved}", markdown)
    if page.file.src_uri == "decisions/README.md":
        markdown += "\n" + "\n".join(decisions(Path(config.docs_dir) / "decisions")) + "\n"
    return markdown
