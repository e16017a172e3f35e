"""Promises of the page: everything of a run is on it, it needs nothing else, and no text can become markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from stillhouse.errors import ConfigError
from stillhouse.report import write_report
from stillhouse.report.commands import report_command
from stillhouse.report.disagreements import LONGEST_TEXT
from tests.report.made_runs import HOSTILE, NUM_ROWS, TAGS, add_export, make_run

KINDS = [("text-classification", "single"), ("text-classification", "multi"), ("text-classification", "regression"),
         ("token-classification", "single"), ("question-answering", "single"), ("multiple-choice", "single"),
         ("sentence-embedding", "single"), ("masked-lm", "single")]
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Outline(HTMLParser):
    """What a browser would build: tags, ids, references, text; open elements must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._read(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._read(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> inside {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def _read(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("src", "srcset", "data") or (name == "href" and tag != "a"):
                self.loaded.append(value or "")
            elif name == "href":
                self.links.append(value or "")
            assert not name.startswith("on"), name

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def page_of(*runs: Path, output: Path) -> Outline:
    return Outline(write_report(runs, output).read_text(encoding="utf-8"))


@pytest.mark.parametrize(("task", "labels"), KINDS)
def test_the_page_of_any_task_is_well_formed_and_loads_nothing(tmp_path: Path, task: str, labels: str) -> None:
    page = page_of(make_run(tmp_path / "run", task, labels=labels), output=tmp_path / "page.html")
    assert len(set(page.ids)) == len(page.ids)
    assert all(value.startswith(("data:", "#")) for value in page.loaded)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert not {"script", "iframe", "object", "img"} & set(page.tags)
    for section in ("summary", "learning", "speed", "recipe", "cite"):
        assert section in page.ids
    assert "hidden_mse (sum of 3)" in page.words


@pytest.mark.parametrize(("task", "labels", "expected", "missing"), [
    ("text-classification", "single", "agreement calibration classes confusion disagreements", ""),
    ("text-classification", "multi", "agreement classes disagreements", "calibration confusion"),
    ("text-classification", "regression", "agreement disagreements", "calibration classes confusion"),
    ("token-classification", "single", "agreement calibration classes confusion disagreements", ""),
    ("question-answering", "single", "agreement disagreements", "calibration classes confusion"),
    ("multiple-choice", "single", "agreement calibration disagreements", "classes confusion"),
    ("masked-lm", "single", "", "agreement answers calibration classes confusion disagreements"),
])
def test_each_task_has_the_sections_that_mean_something(tmp_path: Path, task: str, labels: str, expected: str,
                                                        missing: str) -> None:
    ids = set(page_of(make_run(tmp_path / "run", task, labels=labels), output=tmp_path / "page.html").ids)
    assert set(expected.split()) <= ids
    assert not set(missing.split()) & ids


def test_texts_of_the_data_are_shown_as_they_are_and_never_become_markup(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    text = write_report([run]).read_text(encoding="utf-8")
    page = Outline(text)
    assert " ".join(HOSTILE.split()) in page.words
    assert "&lt;script&gt;document.title" in text
    assert "script" not in page.tags


def test_a_long_text_is_cut(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    long = next(row for row in map(json.loads, (run / "predictions.jsonl").read_text().splitlines())
                if row["row"] == 7)["inputs"]["text"]
    words = page_of(run, output=tmp_path / "page.html").words
    assert long[:300] in words and long[:LONGEST_TEXT + 50] not in words


def test_a_run_made_before_answers_were_kept_says_so_in_a_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", with_answers=False, by_batch=False)
    page = page_of(run, output=tmp_path / "page.html")
    assert "was not kept (predictions.jsonl)" in page.words and "by batch size was not measured" in page.words


def test_without_teacher_or_labels_the_page_says_what_cannot_be_known(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "a", with_teacher=False), output=tmp_path / "a.html")
    assert "its teacher was not judged" in page.words and "The teacher was not asked" in page.words
    assert "disagreements" not in page.ids
    page = page_of(make_run(tmp_path / "b", with_label=False), output=tmp_path / "b.html")
    assert "nobody knows who is right" in page.words and "classes" not in page.ids


def test_a_teacher_that_is_only_numbers_has_scores_and_no_size(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["teacher"] = {"accuracy": 0.9}
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "0.9000" in page_of(run, output=tmp_path / "page.html").words


def test_events_that_are_not_finite_and_runs_without_events_make_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    event = {"event": "step", "step": 1, "loss": "nan", "parts": {"kd": "inf"}}
    (run / "events.jsonl").write_text(json.dumps(event) + "\n")
    page_of(run, output=tmp_path / "page.html")
    (run / "events.jsonl").unlink()
    (run / "events.contrast.jsonl").unlink()
    assert "No training was logged" in page_of(run, output=tmp_path / "page.html").words


def test_many_classes_are_told_by_their_most_confused_pairs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", names=[f"class {number}" for number in range(30)])
    page = page_of(run, output=tmp_path / "page.html")
    assert "Most confused: student against teacher" in page.words
    assert "Each row adds up to 100 %" not in page.words


def test_many_classes_that_nobody_confuses_are_told_in_words(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", names=[f"class {number}" for number in range(30)])
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        row["student"] = row["teacher"]
    (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = page_of(run, output=tmp_path / "page.html").words
    assert "Student against teacher: nothing is confused" in words
    assert "Most confused: student against teacher" not in words
    assert "Most confused: student against label" in words


def test_tags_that_mark_no_entities_are_not_merged_by_what_follows_a_dash(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "token-classification")
    swap = dict(zip(TAGS, ("NN", "VB-past", "JJ-past", "VB-sup", "JJ-sup"), strict=True))
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        row["label"] = [swap[tag] for tag in row["label"]]
        for who in ("teacher", "student"):
            row[who]["tags"] = [swap[tag] for tag in row[who]["tags"]]
    (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**metrics, "label_names": list(swap.values())}))
    text = write_report([run]).read_text(encoding="utf-8")
    assert 'title="teacher VB-past, student JJ-past: ' in text and "teacher past" not in text
    assert "The student by class" in text and "Entities" not in text


def test_rows_are_counted_from_one(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run"), output=tmp_path / "page.html")
    shown = {int(number) for number in re.findall(r"\brow (\d+)", page.words)}
    assert {4, 8} <= shown  # rows 3 and 7, counted from 0, are made to be the hardest


def test_a_large_speed_up_is_told_as_a_whole_number(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["teacher"]["latency_ms"], metrics["student"]["latency_ms"] = 154.2, 1.0
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "154 times as fast" in page_of(run, output=tmp_path / "page.html").words


def test_an_export_is_shown_with_its_speed_and_what_it_cost(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert "ONNX" not in page_of(run, output=tmp_path / "page.html").words
    add_export(run)
    words = page_of(run, output=tmp_path / "page.html").words
    for told in ("Exported to ONNX, on cpu, 1 thread", "runs in size 1 row 32 rows", "onnx fp32 69.6 MB 4.1 ms 131 ms",
                 "onnx int8 17.7 MB 2.2 ms 70.4 ms", "difference between the outputs of student and export is 1.4e-06",
                 f"accuracy on {NUM_ROWS} rows of the test data: 0.9100 in torch fp32, 0.9000 in onnx fp32 and 0.8900 "
                 "in onnx int8"):
        assert told in words


def test_runs_of_one_seed_are_not_called_seeds(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / "T3" / name)
    words = page_of(tmp_path / "T3", output=tmp_path / "page.html").words
    assert "a, 2 runs of 1 seed" in words and "2 seeds" not in words
    assert "over 2 runs. Several runs of a have the same seed" in words


def test_a_dollar_sign_and_letters_that_the_chart_library_lacks_pass(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, shape=shape) for name, shape in (("$x^2$ 短い", "T3"), ("b", "T6"))]
    assert "$x^2$ 短い" in page_of(*runs, output=tmp_path / "page.html").words


def test_several_runs_are_compared_with_links_to_each(tmp_path: Path) -> None:
    for shape, parameters in (("T3", 17_000_000), ("T4-tiny", 6_000_000)):
        for seed in (0, 1, 2):
            make_run(tmp_path / shape / f"seed-{seed}", seed=seed, shape=shape, parameters=parameters)
    path = write_report([tmp_path / "T3", tmp_path / "T4-tiny"], tmp_path / "page.html")
    page = Outline(path.read_text(encoding="utf-8"))
    assert len(set(page.ids)) == len(page.ids)
    assert {f"run-{number}" for number in range(1, 7)} <= set(page.ids) & {link[1:] for link in page.links}
    for words in ("6 runs compared", "Quality against size", "Quality against latency", "Mean ± standard deviation",
                  "What the recipes differ in", "T4-tiny/seed-2"):
        assert words in page.words
    assert page.ids.count("cite") == 1


def test_the_best_student_is_the_one_with_the_highest_mean(tmp_path: Path) -> None:
    for name, skill in (("weak", 0.3), ("strong", 0.95)):
        make_run(tmp_path / name, shape=name, skill=skill)
    page = page_of(tmp_path / "weak", tmp_path / "strong", output=tmp_path / "page.html")
    assert "The best student, strong, keeps" in page.words


def test_mean_and_spread_on_the_page_are_those_of_the_runs(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "T3" / f"seed-{seed}", seed=seed) for seed in (0, 1, 2)]
    values = [json.loads((run / "metrics.json").read_text())["student"]["accuracy"] for run in runs]
    mean = sum(values) / 3
    deviation = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
    page = page_of(tmp_path / "T3", output=tmp_path / "page.html")
    assert f"{mean:.4f} ± {deviation:.4f}" in page.words
    assert "T3, 3 seeds" in page.words


def test_runs_of_different_tasks_stand_in_comparisons_of_their_own(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", "masked-lm")
    page = page_of(tmp_path, output=tmp_path / "page.html")
    assert {"comparison-1", "comparison-2"} <= set(page.ids)
    assert "were not all judged by one measure" in page.words


def test_numbers_of_the_summary_are_those_of_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    page = page_of(run, output=tmp_path / "page.html")
    assert f"{100 * metrics['retention']:.1f} %" in page.words
    assert f"{metrics['student']['accuracy']:.4f}" in page.words
    assert f"judged on the test data ({NUM_ROWS} rows)" in page.words
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    same = sum(line["teacher"]["label"] == line["student"]["label"] for line in lines)
    assert f"the same answer to {same} of {NUM_ROWS} rows" in page.words


def test_the_page_goes_where_it_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    monkeypatch.chdir(tmp_path)
    assert write_report(runs[:1]) == runs[0] / "report.html"
    assert write_report(runs) == Path("report.html") and (tmp_path / "report.html").exists()
    assert write_report([tmp_path]).resolve() == tmp_path / "report.html"
    with pytest.raises(ConfigError, match=r"--output: .* cannot be written: it is a folder"):
        write_report(runs, tmp_path)
    with pytest.raises(ConfigError, match="no run to report on"):
        write_report([])
    assert not list(tmp_path.rglob(".writing-*"))


def test_the_command_writes_the_page_and_says_where(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command("report")(report_command)
    run = make_run(tmp_path / "run")
    result = CliRunner().invoke(app, [str(run), "--output", str(tmp_path / "deep" / "page.html")])
    assert result.exit_code == 0, result.output
    assert "report: " in result.output and (tmp_path / "deep" / "page.html").exists()


def test_every_colour_of_a_chart_is_one_of_the_style_sheet(tmp_path: Path) -> None:
    text = write_report([make_run(tmp_path / "run")]).read_text(encoding="utf-8")
    body = text[text.index("</style>"):]
    used = set(re.findall(r"var\((--[\w-]+)\)", body))
    defined = set(re.findall(r"(--[\w-]+):", resources.files("stillhouse.report").joinpath("page.css").read_text()))
    assert used and used <= defined
    assert not re.findall(r"(?:fill|stroke): (?:#|black|white|rgb)", body)
