"""A student's model card: the README beside its weights, as the Hugging Face hub reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml

from stillhouse.errors import DataError
from stillhouse.methods import citations
from stillhouse.report.answers import kind_of_answers
from stillhouse.report.calibration import student_calibration
from stillhouse.report.formatting import count, milliseconds, percent, readable_bytes
from stillhouse.report.loading_code import loading_code
from stillhouse.report.run_files import RunFiles, read_run
from stillhouse.report.sections import judged_models, lead, score_table, scores_of, student_told, teacher_told

Model = Mapping[str, Any]

_PIPELINE_TAGS = {
    "text-classification": "text-classification", "token-classification": "token-classification",
    "question-answering": "question-answering", "multiple-choice": "multiple-choice",
    "sentence-embedding": "feature-extraction", "masked-lm": "fill-mask",
}
_WHO = {"teacher": "teacher", "student": "this model",
        "without teacher": "same model, trained without the teacher"}
_HUB_NAMES = {"exact_match", "accuracy", "f1", "precision", "recall", "perplexity"}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_FILE = re.compile(r"\.(jsonl?|csv|tsv|txt|parquet)(\.gz)?$", re.IGNORECASE)


def model_card(run: Path) -> str:
    """The text of ``student/README.md`` for a finished run: Markdown below the hub's YAML.

    Raises `ConfigError` for what is no finished run, `DataError` for one whose files cannot be read.
    """
    found = read_run(Path(run))
    config = _config(found)
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(found), sort_keys=False, allow_unicode=True, width=1000)}---",
        f"# {found.name}", lead(found), _origin(found), "## Results", _results(found), "## Size and speed",
        _size_and_speed(found), "## How to use it", f"```python\n{loading_code(found, config)}\n```", "## Training",
        _training(found), f"````yaml\n{_without_home(found.recipe_text).strip()}\n````", "## Limitations",
        "\n".join(f"- {one}" for one in _limitations(found)), "## Citation",
        "```bibtex\n" + "\n\n".join(one.paper.bibtex for one in citations(found.recipe)) + "\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _config(run: RunFiles) -> Model:
    """The student's configuration; empty if it is not there, as in a run that was moved without it."""
    path = run.path / "student" / "config.json"
    if not path.exists():
        return {}
    try:
        config: Model = json.loads(path.read_text(encoding="utf-8"))
        return config
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; run the recipe again") from error


def _front_matter(run: RunFiles) -> dict[str, Any]:
    base = _base_model(run)
    datasets = [_bare(name) for name in map(str, _sources(run)) if _is_on_hub(name, run)]
    results = [{
        "task": {"type": _PIPELINE_TAGS.get(run.task, run.task)},
        "dataset": {"name": _source_told(run, _judged_by(run)), "type": _dataset_type(run), "split": run.split},
        "metrics": [{"type": name, "value": round(value, 4)}
                    for name, value in scores_of(run.metrics["student"]).items()],
    }]
    matter: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": _PIPELINE_TAGS.get(run.task),
        "base_model": base,
        "datasets": list(dict.fromkeys(datasets)) or None,
        "metrics": [name for name in scores_of(run.metrics["student"]) if name in _HUB_NAMES] or None,
        "tags": ["knowledge-distillation", "stillhouse"],
        "model-index": [{"name": run.name, "results": results}],
    }
    return {name: value for name, value in matter.items() if value is not None}


def _base_model(run: RunFiles) -> str | None:
    """The model on the hub that the student was made of or learned from, if the recipe names one."""
    student, teacher = run.recipe.get("student") or {}, run.recipe.get("teacher") or {}
    named = student.get("model") or student.get("base") or teacher.get("model")
    return str(named) if named and _is_on_hub(str(named), run) else None


def _is_on_hub(name: str, run: RunFiles) -> bool:
    """Whether a name is that of something on the hub as far as one can tell: OWNER/NAME, and nothing here."""
    bare = _bare(name)
    top = PurePath(str(run.recipe.get("output", ""))).parts[:1]
    return bool(_HUB_ID.fullmatch(bare)) and not _FILE.search(bare) and not Path(bare).exists() \
        and PurePath(bare).parts[:1] != top


def _bare(name: str) -> str:
    """A name on the hub without configuration and revision."""
    return name.partition("@")[0].partition(":")[0]


def _sources(run: RunFiles) -> list[Any]:
    return [run.data[split] for split in ("train", "validation", "test") if run.data.get(split)]


def _judged_by(run: RunFiles) -> str:
    """Where the rows of the reported split are from."""
    return str(run.data.get(run.split) or run.data.get("train", "not said"))


def _dataset_type(run: RunFiles) -> str:
    """What the hub calls the data that judged; of a part of the training data, which is no set's own split, custom."""
    named = run.data.get(run.split)
    return _bare(str(named)) if named and _is_on_hub(str(named), run) else "custom"


def _origin(run: RunFiles) -> str:
    return (f"It is a student that learned from a larger model by knowledge distillation, with "
            f"stillhouse {(run.metrics.get('versions') or {}).get('stillhouse', '')}".rstrip()
            + f". Task: {run.task}. Student: {_code(student_told(run))}. Teacher: {_code(teacher_told(run))}.")


def _results(run: RunFiles) -> str:
    names, scores = score_table(run)
    rows = [[_WHO[who], *told] for who, told in zip(judged_models(run), scores, strict=True)]
    about = f"On the {run.split} data ({_code(_source_told(run, _judged_by(run)))}, {run.num_rows:,} rows)."
    agreement = run.metrics["student"].get("agreement_with_teacher")
    if agreement is not None:
        about += f" Agreement with the teacher: {agreement:.3f}."
    return f"{about}\n\n{_table(['', *names], rows)}"


def _size_and_speed(run: RunFiles) -> str:
    models = {who: model for who, model in (("teacher", run.metrics.get("teacher")),
                                            ("this model", run.metrics["student"])) if model and "parameters" in model}
    rows = [[who, count(model["parameters"]), readable_bytes(model["size_bytes"]), milliseconds(model["latency_ms"]),
             count(model["throughput_rows_per_s"])] for who, model in models.items()]
    precision = f", {run.metrics['precision']}" if "precision" in run.metrics else ""
    return (f"Measured on {run.metrics.get('device', 'the machine of the training')}{precision}; tokenising is not "
            "counted.\n\n" + _table(["", "parameters", "size", "a single row", "rows per second"], rows))


def _training(run: RunFiles) -> str:
    named = {split: f" {_code(_source_told(run, str(run.data[split])))}" if run.data.get(split) else ""
             for split in run.metrics["rows"]}
    sources = ", ".join(f"{split}{named[split]} ({number:,} rows)" for split, number in run.metrics["rows"].items())
    steps = run.metrics["student"].get("steps")
    taken = f" {steps:,} optimizer steps." if steps is not None else ""
    return f"Data: {sources}.{taken} The recipe, with its defaults filled in:"


def _source_told(run: RunFiles, source: str) -> str:
    """The name on the hub, or that of a file without its folder."""
    return source if _is_on_hub(source, run) else PurePath(source).name


def _limitations(run: RunFiles) -> Iterator[str]:
    """What the run's own files say; nothing that was not measured."""
    yield (f"Its quality is known on the {run.split} data above alone; other kinds of text, other languages and "
           "fairness between groups of people were not measured.")
    yield "It learned from its teacher's answers, mistakes among them."
    if "max_length" in run.data:
        yield f"It was trained on inputs of at most {run.data['max_length']} tokens."
    if (run.recipe.get("student") or {}).get("vocabulary") == "trimmed":
        yield "Its vocabulary holds only the tokens that occur in the training data; others are unknown to it."
    yield from _calibration_told(run)
    kept = run.metrics.get("retention")
    if kept is not None and kept < 1:
        yield f"It loses {percent(1 - kept)} of its teacher's {run.metric}."


def _calibration_told(run: RunFiles) -> Iterator[str]:
    kind = kind_of_answers(run) if run.predictions else None
    found = student_calibration([choice for line in run.predictions for choice in (kind.choices(line) if kind else ())])
    if found is not None:
        yield (f"Its confidence is {percent(found.confidence)} on average and it is right in {percent(found.accuracy)} "
               f"(expected calibration error {found.ece:.3f}, 15 bins).")


def _without_home(text: str) -> str:
    """Paths below the user's home folder without saying whose it is."""
    try:
        home = str(Path.home())
    except RuntimeError:  # a user without one
        return text
    return text if home == "/" else re.sub(rf"(?<![\w./-]){re.escape(home)}(?=/)", "~", text)


def _code(text: str) -> str:
    return f"`{_without_home(text)}`"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns but the first are numbers."""
    rule = ["---", *["--:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, rule, *rows])
