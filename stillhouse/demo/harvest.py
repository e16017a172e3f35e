"""A text-classification task that needs no download: which library does this docstring come from?

The rows are the first paragraphs of the docstrings of the standard library and of the packages that come with
Stillhouse. Source files are found and parsed, never imported or executed. The choices that make the task honest:

- **Public prose.** Docstrings of modules and of public classes and functions, if they read as sentences: those of
  private helpers, signatures, tables and examples are left out.
- **Masked names.** Every library's name is replaced by the word ``library``, in the texts of *all* classes. Left in
  place, a name would give answers away; replaced only in its own class, the placeholder would.
- **Split by file.** A hash of the file's path inside its package decides the split, so that near-copies (the
  methods of one class, say) stay on one side, and so that the split of a file never depends on a seed.
- **No copies.** Texts are unique whatever their case; a text that two libraries share is in neither; a text that
  differs only in its digits from one of an earlier split (train, validation, test) is dropped.
- **Balanced.** At most ``max_per_class`` rows a class and ``MAX_PER_FILE`` rows a file. Files are read in an order
  drawn by hash until the quotas are full, which also keeps the time short.

The result depends on the installed versions and on nothing else: same files and same arguments, same rows.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stillhouse.errors import ConfigError, DataError, unknown_name
from stillhouse.whole_files import write_text

STANDARD_LIBRARY = "python"
#: The classes by default: large, well-documented libraries that a plain installation brings in. Close relatives of
#: each other (numpy and scipy, say) are not all here: their docstrings often cannot be told apart by anyone.
LIBRARIES = (
    "accelerate",
    "huggingface_hub",
    "networkx",
    "pandas",
    "pydantic",
    STANDARD_LIBRARY,
    "sklearn",
    "sympy",
    "transformers",
)
SPLITS = ("train", "validation", "test")
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
MIN_CLASSES = 8
# Characters. Shorter paragraphs ("Return the number of elements.") say nothing about where they come from.
MIN_LENGTH, MAX_LENGTH = 50, 300
MAX_PER_FILE = 40
PLACEHOLDER = "library"

_OTHER_NAMES = {
    "huggingface_hub": ("hugging face hub", "hugging face", "huggingface"),
    "networkx": ("nx",),
    "numpy": ("np",),
    "pandas": ("pd",),
    "sklearn": ("scikit-learn",),
    "torch": ("pytorch",),
}
_SKIPPED_DIRS = frozenset(
    {"__pycache__", "_vendor", "_vendored_packages", "dist-packages", "externals", "site-packages", "test", "tests"}
)
# Parsing time is what this module spends; very large files are tables and generated code.
_MAX_FILE_BYTES = 400_000
# Rows read beyond the quota make up for those that a later comparison between classes and splits removes.
_SLACK = 1.15
_NOT_PROSE = re.compile(
    r">>>|\.\. \w+::|[-=~*_^]{4,}|\+-|\| .* \||^\W*[\w.]+\(.*\)(\s*->.*)?$|^[\w.]+\([^)]*\)\s*(->|--)"
    r"|(^|\s)(Args?|Arguments|Parameters?|Returns?|Raises|Examples?|Usage|Attributes|Copyright)\s*:|:param |:returns?:"
    r"|[{};]|\s=\s|\w=\w|\w \([^)]*\)\s*:"
)

_WORD = re.compile(r"(?<![\w.])[A-Za-z][a-z'-]*(?![\w(])")
_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")


class Paragraph(NamedTuple):
    """One row before the comparison with the others."""

    text: str
    library: str
    #: Path of the source file relative to the library's folder, with forward slashes.
    path: str


@dataclass(frozen=True)
class Harvest:
    """The three splits. A row is ``{"text": ..., "library": ...}``; ``class_names`` are sorted."""

    train: list[dict[str, str]]
    validation: list[dict[str, str]]
    test: list[dict[str, str]]
    class_names: list[str]
    #: Rows per split and class: ``counts["train"]["torch"]``.
    counts: dict[str, dict[str, int]]
    #: The files behind each split, as ``library/path``.
    sources: dict[str, frozenset[str]]

    def rows(self, split: str) -> list[dict[str, str]]:
        """The rows of the split of this name; ``ConfigError`` for another name."""
        if split not in SPLITS:
            raise ConfigError(unknown_name("split", split, SPLITS))
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]


def harvest(
    classes: Sequence[str] | None = None, *, max_per_class: int = 1250, min_per_class: int = 250, seed: int = 0
) -> Harvest:
    """Harvest the installed libraries of these import names (``python`` is the standard library).

    Without ``classes``, those of ``LIBRARIES`` take part that are installed and have ``min_per_class`` texts.
    ``max_per_class`` counts the rows of all three splits together (the default gives more than 6,000 for training).

    Raises ``ConfigError`` for a class that is not installed, ``DataError`` for a named class with too few texts and
    for fewer than ``MIN_CLASSES`` classes when they were not named.
    """
    roots = {name: root for name in (LIBRARIES if classes is None else classes) if (root := library_root(name))}
    missing = [name for name in classes or () if name not in roots]
    if missing:
        raise ConfigError(f"no installed package {', '.join(missing)}: install it, or leave it out of classes.")
    result = harvest_roots(roots, max_per_class=max_per_class, min_per_class=min_per_class, seed=seed)
    short = [name for name in roots if name not in result.class_names]
    if classes is not None and short:
        raise DataError(
            f"fewer than {min_per_class} usable docstrings in {', '.join(short)}: "
            "leave it out of classes, or lower min_per_class."
        )
    if classes is None and len(result.class_names) < MIN_CLASSES:
        raise DataError(
            f"{len(result.class_names)} libraries have {min_per_class} usable docstrings or more "
            f"({', '.join(result.class_names) or 'none'}); the task needs {MIN_CLASSES}. "
            f"Install more of {', '.join(LIBRARIES)}, name the classes, or lower min_per_class."
        )
    return result


def harvest_roots(
    roots: Mapping[str, Path], *, max_per_class: int = 1250, min_per_class: int = 250, seed: int = 0
) -> Harvest:
    """Harvest these folders of source files, given by class name; classes with fewer rows are left out."""
    if not 1 <= min_per_class <= max_per_class:
        raise ConfigError(
            f"min_per_class={min_per_class} and max_per_class={max_per_class}: 1 <= min_per_class <= max_per_class."
        )
    names = mask_pattern((*LIBRARIES, *roots))
    quotas = {split: max(1, round(SHARES[split] * max_per_class)) for split in SPLITS}
    found = [row for name in sorted(roots) for row in _read_library(name, roots[name], names, quotas, seed)]
    kept = _without_copies(found)
    rows_by_class = Counter(row.library for row in kept)
    chosen: dict[str, list[Paragraph]] = {split: [] for split in SPLITS}
    taken: Counter[tuple[str, str]] = Counter()
    for row in kept:
        split = split_of(row.path)
        if rows_by_class[row.library] >= min_per_class and taken[split, row.library] < quotas[split]:
            taken[split, row.library] += 1
            chosen[split].append(row)
    class_names = sorted(name for name, count in rows_by_class.items() if count >= min_per_class)
    return Harvest(
        train=_shuffled(chosen["train"], seed),
        validation=_shuffled(chosen["validation"], seed),
        test=_shuffled(chosen["test"], seed),
        class_names=class_names,
        counts={split: {name: taken[split, name] for name in class_names} for split in SPLITS},
        sources={split: frozenset(f"{row.library}/{row.path}" for row in rows) for split, rows in chosen.items()},
    )


def write(result: Harvest, folder: str | Path) -> dict[str, Path]:
    """Write ``train.jsonl``, ``validation.jsonl``, ``test.jsonl`` and ``label_names.json``; each appears whole.

    Returns the paths by split, and the label names' path as ``label_names``.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    contents = {
        f"{split}.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in result.rows(split))
        for split in SPLITS
    }
    contents["label_names.json"] = json.dumps(result.class_names, indent=1) + "\n"
    for name, content in contents.items():
        write_text(target / name, content)
    return {Path(name).stem: target / name for name in contents}


def library_root(name: str) -> Path | None:
    """The folder of an installed package's source (nothing is imported), or None if there is no such package."""
    if name == STANDARD_LIBRARY:
        return Path(sysconfig.get_path("stdlib"))
    if not name.isidentifier():
        return None
    spec = importlib.util.find_spec(name)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    return Path(locations[0]) if locations else None


def split_of(path: str) -> str:
    """The split of a file, from its path relative to its library (forward slashes): about 80, 10 and 10 %."""
    position = _hash(f"split:{path}") / 2**64
    return "train" if position < 0.8 else "validation" if position < 0.9 else "test"


def mask_pattern(names: Sequence[str]) -> re.Pattern[str]:
    """A pattern for these libraries' names as words or parts of snake_case and dotted names, whatever their case."""
    spellings = {spelling for name in names for spelling in (name, *_OTHER_NAMES.get(name, ()))}
    longest_first = sorted(spellings, key=lambda name: (-len(name), name))
    return re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, longest_first))})(?![A-Za-z0-9])", re.IGNORECASE)


def first_paragraph(docstring: str) -> str | None:
    """The first paragraph on one line, or None if its length is out of range or it is not mostly prose."""
    text = " ".join(re.split(r"\n\s*\n", docstring.strip(), maxsplit=1)[0].split())
    if not MIN_LENGTH <= len(text) <= MAX_LENGTH or _NOT_PROSE.search(text):
        return None
    words = _WORD.findall(text)
    return text if len(words) >= 4 and sum(map(len, words)) >= 0.6 * len(text.replace(" ", "")) else None


def docstrings(source: bytes) -> Iterator[str]:
    """The docstrings of the module and of its public classes and functions, in the order of the file.

    What a private class or function contains is private too. A source that cannot be parsed has none.
    """
    if b'"""' not in source and b"'''" not in source:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    # Only statements can hold definitions: visiting no expressions makes this several times as fast as ast.walk.
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("_"):
            continue
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
        inside = [child for block in _BLOCKS for child in getattr(node, block, ())]
        waiting.extend(reversed(inside))


def _read_library(
    name: str, root: Path, names: re.Pattern[str], quotas: Mapping[str, int], seed: int
) -> list[Paragraph]:
    """Rows of one library, unique in it, in the order of reading; stops when every split has its quota and slack."""
    missing = {split: int(quota * _SLACK) + 1 for split, quota in quotas.items()}
    seen: set[str] = set()
    rows: list[Paragraph] = []
    for path in sorted(_source_files(root), key=lambda path: (_hash(f"{seed}:{path}"), path)):
        split = split_of(path)
        if missing[split] <= 0:
            if max(missing.values()) <= 0:
                break
            continue
        from_file = 0
        for docstring in docstrings((root / path).read_bytes()):
            paragraph = first_paragraph(docstring)
            text = names.sub(PLACEHOLDER, paragraph) if paragraph else ""
            if not MIN_LENGTH <= len(text) <= MAX_LENGTH or text.casefold() in seen:
                continue
            seen.add(text.casefold())
            rows.append(Paragraph(text, name, path))
            from_file += 1
            if from_file == MAX_PER_FILE:
                break
        missing[split] -= from_file
    return rows


def _source_files(root: Path) -> Iterator[str]:
    """Paths below ``root`` of its Python files, relative, without tests and vendored code."""
    for folder, dirs, files in os.walk(root):
        dirs[:] = [name for name in dirs if name not in _SKIPPED_DIRS and not name.startswith(".")]
        for name in files:
            path = Path(folder, name)
            if name.endswith(".py") and path.stat().st_size <= _MAX_FILE_BYTES:
                yield path.relative_to(root).as_posix()


def _without_copies(rows: Sequence[Paragraph]) -> list[Paragraph]:
    """The rows that no other library has, and that no earlier split has up to case and digits."""
    owners: dict[str, set[str]] = {}
    for row in rows:
        owners.setdefault(row.text.casefold(), set()).add(row.library)
    unshared = [row for row in rows if len(owners[row.text.casefold()]) == 1]
    kept = []
    earlier: set[str] = set()
    for split in SPLITS:
        own = [row for row in unshared if split_of(row.path) == split and _without_digits(row.text) not in earlier]
        kept.extend(own)
        earlier.update(_without_digits(row.text) for row in own)
    return kept


def _shuffled(rows: Sequence[Paragraph], seed: int) -> list[dict[str, str]]:
    ordered = sorted(rows, key=lambda row: _hash(f"{seed}:{row.library}:{row.text}"))
    return [{"text": row.text, "library": row.library} for row in ordered]


def _without_digits(text: str) -> str:
    return " ".join(re.sub(r"\d+", "", text.casefold()).split())


def _hash(text: str) -> int:
    """A number in [0, 2 ** 64) that is the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
