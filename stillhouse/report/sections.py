"""What is told of one run: its results, how it learned, how fast it is, how it was made."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stillhouse.methods import citations
from stillhouse.report import svg
from stillhouse.report.answer_sections import Titled, answer_sections
from stillhouse.report.blocks import (
    Block,
    Charts,
    Code,
    Fact,
    Facts,
    References,
    RunPage,
    Section,
    Table,
    Text,
)
from stillhouse.report.charts import Chart, Line, line_chart, series
from stillhouse.report.exports import export_blocks
from stillhouse.report.formatting import (
    as_many,
    count,
    duration,
    measure,
    milliseconds,
    percent,
    ratio,
    readable_bytes,
    short_count,
    times,
)
from stillhouse.report.run_files import RunFiles

Model = Mapping[str, Any]

_NOT_SCORES = {"parameters", "size_bytes", "latency_ms", "throughput_rows_per_s", "agreement_with_teacher", "steps",
               "best_step"}
_LAYERS = re.compile(r" [-\d,\[\]() ]+$")  # of a term's name, as in "hidden_mse 2-1"
_PHASES = {"teacher_training": "teacher's training", "distillation": "student's training", "contrast":
           "training without a teacher", "evaluation": "evaluation", "measuring": "measuring of speed"}


def run_page(run: RunFiles, anchor: str = "") -> RunPage:
    """Everything about a run; beside others, under an anchor, without what to cite, which stands once for all.

    Raises `DataError` if a file of it cannot be read.
    """
    sections: list[Titled] = [
        ("summary", "Summary", _summary(run)), ("learning", "Learning", _learning(run)),
        *answer_sections(run), ("speed", "Speed and size", [*_speed(run), *export_blocks(run)]),
        ("recipe", "Recipe", [Code("recipe.yaml, with the defaults filled in", run.recipe_text)]),
        ("cite", "What to cite", [] if anchor else citation_blocks([run])),
    ]
    prefix = f"{anchor}-" if anchor else ""
    return RunPage(
        anchor or "run", run.name, lead(run),
        f"{run.task}, judged on the {run.split} data ({as_many(run.num_rows, 'rows')})",
        [Section(prefix + name, title, blocks) for name, title, blocks in sections if blocks])


def lead(run: RunFiles) -> str:
    """The result in a sentence or two."""
    student, teacher, metric = run.metrics["student"], run.metrics.get("teacher"), run.metric
    size = f"{short_count(student['parameters'])} parameters"
    if not teacher:
        return f"A student of {size} has {metric} {measure(student[metric])}; its teacher was not judged."
    kept = run.metrics.get("retention")
    quality = f"keeps {percent(kept)} of its teacher's {metric}" if kept is not None else (
        f"has {metric} {measure(student[metric])}, its teacher {measure(teacher[metric])}")
    if "parameters" not in teacher:
        return f"A student of {size} {quality}."
    share, factor = student["size_bytes"] / teacher["size_bytes"], teacher["latency_ms"] / student["latency_ms"]
    return (f"A student of {size} {quality}, at {percent(share, 0)} of the size. A single row takes it "
            f"{milliseconds(student['latency_ms'])} instead of {milliseconds(teacher['latency_ms'])}, "
            f"{ratio(factor)} times as fast.")


def student_told(run: RunFiles) -> str:
    """How the recipe describes the student."""
    student = run.recipe.get("student") or {}
    for name in ("shape", "network", "model", "run"):
        if student.get(name):
            return str(student[name])
    if student.get("layers") is not None:
        return f"layers {', '.join(map(str, student['layers']))}"
    if student.get("keep") is not None:
        return f"{student['keep']} of the layers"
    return ", ".join(f"{key} {value}" for key, value in (student.get("config") or {}).items()) or "not said"


def teacher_told(run: RunFiles) -> str:
    """How the recipe describes the teacher."""
    teacher = run.recipe.get("teacher") or {}
    for name, words in (("model", ""), ("run", "the stage "), ("column", "the column "), ("function", "the function ")):
        if teacher.get(name):
            seeds = teacher.get("seeds") or ()
            return words + str(teacher[name]) + (f", {len(seeds)} seeds" if len(seeds) > 1 else "")
    return ", ".join(teacher.get("models") or ()) or "not said"


def _summary(run: RunFiles) -> list[Block]:
    metrics, student, teacher = run.metrics, run.metrics["student"], run.metrics.get("teacher")
    facts = []
    if metrics.get("retention") is not None:
        facts.append(Fact("retention", percent(metrics["retention"]), f"of the teacher's {run.metric}"))
    facts.append(Fact(run.metric, measure(student[run.metric]),
                      f"teacher {measure(teacher[run.metric])}" if teacher else ""))
    sized = teacher if teacher and "parameters" in teacher else None
    facts.append(Fact("size", readable_bytes(student["size_bytes"]),
                      f"{percent(student['size_bytes'] / sized['size_bytes'], 0)} of the teacher's" if sized else ""))
    facts.append(Fact("a single row", milliseconds(student["latency_ms"]),
                      f"teacher {milliseconds(sized['latency_ms'])}" if sized else ""))
    facts.append(Fact("rows per second", count(student["throughput_rows_per_s"]),
                      f"teacher {count(sized['throughput_rows_per_s'])}" if sized else ""))
    if "total" in metrics.get("wall_time_s", {}):
        facts.append(Fact("wall time", duration(metrics["wall_time_s"]["total"]), f"on {metrics.get('device', '')}"))
    return [Facts(facts), _models(run), _facts_of_training(run)]


def _models(run: RunFiles) -> Table:
    """A row a model, a column a score."""
    models = judged_models(run)
    names, rows = score_table(run)
    sizes = [[count(model["parameters"]) if "parameters" in model else "",
              readable_bytes(model["size_bytes"]) if "size_bytes" in model else ""] for model in models.values()]
    return Table(f"Scores on the {run.split} data", ["", *names, "parameters", "size"],
                 [[who, *scores, *size] for who, scores, size in zip(models, rows, sizes, strict=True)])


def judged_models(run: RunFiles) -> dict[str, Model]:
    """The models whose scores are known, by who they are."""
    models = {"teacher": run.metrics.get("teacher"), "student": run.metrics["student"],
              "without teacher": run.metrics.get("contrast")}
    return {who: model for who, model in models.items() if model}


def score_table(run: RunFiles) -> tuple[list[str], list[list[str]]]:
    """The names of all scores, that which counts first, and the scores of each of `judged_models` as texts."""
    models = judged_models(run).values()
    names = list(dict.fromkeys(name for model in models for name in scores_of(model)))
    names.sort(key=lambda name: name != run.metric)
    return names, [[measure(model[name]) if name in model else "" for name in names] for model in models]


def scores_of(model: Model) -> dict[str, float]:
    """A model's scores by name, without its size and speed."""
    return {name: value for name, value in model.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and name not in _NOT_SCORES}


def _facts_of_training(run: RunFiles) -> Table:
    metrics, student = run.metrics, run.metrics["student"]
    asked = metrics.get("teacher_forwards") or {}
    rows = [("student", student_told(run)), ("teacher", teacher_told(run)),
            ("rows", ", ".join(f"{name} {number:,}" for name, number in metrics["rows"].items()))]
    if "steps" in student:
        best = student.get("best_step")
        rows.append(("steps", count(student["steps"]) + (f", the best at {best:,}" if best else "")
                     + (f" ({student['stopped']})" if student.get("stopped") not in (None, "done") else "")))
    if "distillation" in asked:
        rows.append(("rows the teacher was asked for", f"{asked['distillation']:,} to learn from, "
                     f"{asked.get('evaluation', 0):,} to judge it"))
    if metrics.get("contrast"):
        start = metrics["contrast"].get("starts_from", "not said")
        rows.append(("the same student without teacher", f"starts from {start}"))
    phases = [f"{_PHASES.get(name, name)} {duration(seconds)}"
              for name, seconds in (metrics.get("wall_time_s") or {}).items() if name != "total" and seconds]
    rows.append(("time", ", ".join(phases)))
    rows.append(("machine", ", ".join(str(metrics[name]) for name in ("device", "precision") if name in metrics)))
    rows.append(("versions", ", ".join(f"{name} {text}" for name, text in (metrics.get("versions") or {}).items())))
    return Table("How it was trained", [], [row for row in rows if row[1]], num_names=2)


def _learning(run: RunFiles) -> list[Block]:
    steps = [event for event in run.events.get("student", ()) if event.get("event") == "step"]
    charts = [chart for chart in (_losses(steps), _evaluations(run)) if chart is not None]
    return [Charts(charts)] if charts else [Text("No training was logged (events.jsonl).")]


def _losses(steps: Sequence[Model]) -> Chart | None:
    """The loss and its terms; those of many layers are added up under the loss's name, which also keeps weights."""
    if not steps:
        return None
    terms: dict[str, dict[int, float]] = {}
    members: dict[str, set[str]] = {}
    for event in steps:
        for term, value in (event.get("parts") or {}).items():
            name = _LAYERS.sub("", term)
            members.setdefault(name, set()).add(term)
            at = terms.setdefault(name, {})
            at[event["step"]] = at.get(event["step"], 0.0) + float(value)
    total = Line("loss", [(event["step"], float(event["loss"])) for event in steps], svg.INK)
    lines = [total] if len(terms) != 1 else []
    for number, (name, at) in enumerate(terms.items()):
        color, style = series(number)
        many = f" (sum of {len(members[name])})" if len(members[name]) > 1 else ""
        lines.append(Line(name + many, sorted(at.items()), color, style))
    return line_chart("Loss by term", lines, "step", "loss", log_y=True,
                      note="weights included, so that the terms add up to the loss")


def _evaluations(run: RunFiles) -> Chart | None:
    lines = []
    for training, name, color, style in (("student", "student", svg.STUDENT, "-"),
                                         ("contrast", "without teacher", svg.CONTRAST, "--")):
        points = run.validation_scores(training)
        if points:
            lines.append(Line(name, points, color, style, dots=True))
    if not lines:
        return None
    teacher = ((run.metrics.get("teacher") or {}).get("validation") or {}).get(run.metric)
    if teacher is not None:
        steps = [x for line in lines for x, _ in line.points]
        lines.append(Line("teacher", [(step, teacher) for step in sorted({min(steps), max(steps)})], svg.TEACHER, ":"))
    return line_chart(f"{run.metric} on the validation data", lines, "step", run.metric)


def _speed(run: RunFiles) -> list[Block]:
    student, teacher = run.metrics["student"], run.metrics.get("teacher") or {}
    by_batch = {name: model["latency_by_batch"] for name, model in (("teacher", teacher), ("student", student))
                if model.get("latency_by_batch")}
    if not by_batch:
        return [_single_speed(student, teacher), Text("Speed by batch size was not measured in this run.")]
    charts = [_by_batch(by_batch, "ms", "Time of a batch", "milliseconds"),
              _by_batch(by_batch, "rows_per_s", "Throughput", "rows per second")]
    sizes = sorted({int(size) for found in by_batch.values() for size in found})
    rows = []
    for size in sizes:
        at = {name: found.get(str(size)) for name, found in by_batch.items()}
        cells = [str(size), *(milliseconds(one["ms"]) if one else "" for one in at.values()),
                 *(count(one["rows_per_s"]) if one else "" for one in at.values())]
        of_teacher, of_student = at.get("teacher"), at.get("student")
        if len(by_batch) == 2:
            cells.append(times(of_teacher["ms"] / of_student["ms"]) if of_teacher and of_student else "")
        rows.append(cells)
    who = list(by_batch)
    columns = ["rows in a batch", *who, *(f"{name}, rows/s" for name in who),
               *(["student is faster by"] if len(who) == 2 else [])]
    return [Charts(charts), Table(f"On {run.metrics.get('device', 'this machine')}, tokenising not counted", columns,
                                  rows)]


def _by_batch(found: Mapping[str, Mapping[str, Model]], value: str, title: str, label: str) -> Chart:
    colors = {"teacher": svg.TEACHER, "student": svg.STUDENT}
    lines = [Line(name, sorted((float(size), float(one[value])) for size, one in sizes.items()), colors[name],
                  "--" if name == "teacher" else "-", dots=True) for name, sizes in found.items()]
    return line_chart(title, lines, "rows in a batch", label, log_x=True, log_y=True)


def _single_speed(student: Model, teacher: Model) -> Table:
    told: list[tuple[str, Callable[[Model], str]]] = [
        ("a single row", lambda model: milliseconds(model["latency_ms"])),
        ("batches of 32", lambda model: f"{count(model['throughput_rows_per_s'])} rows/s"),
        ("parameters", lambda model: count(model["parameters"])),
        ("size", lambda model: readable_bytes(model["size_bytes"]))]
    models = {name: model for name, model in (("teacher", teacher), ("student", student)) if "parameters" in model}
    return Table("Teacher and student", ["", *models],
                 [[name, *(tell(model) for model in models.values())] for name, tell in told])


def citation_blocks(runs: Sequence[RunFiles]) -> list[Block]:
    """What to cite for runs, and its BibTeX."""
    found = citations({"stages": [run.recipe for run in runs]})
    return [References(found), Code("BibTeX", "\n\n".join(one.paper.bibtex for one in found))]
