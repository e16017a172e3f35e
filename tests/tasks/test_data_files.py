"""Promises of reading data: every format gives the same rows, and errors say which file and row."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from stillhouse.errors import DataError
from stillhouse.tasks.data_files import format_suffix, is_path, json_line, read_rows
from stillhouse.tasks.labels import Labels

ROWS = [{"text": 'he said "no", then\u2028left', "label": "None"}, {"text": "2020-01-01", "label": "007"}]
TEXTS, LABELS = [row["text"] for row in ROWS], [row["label"] for row in ROWS]

JSON_LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'text,label\n"he said ""no"", then\u2028left",None\n2020-01-01,007\n'
TSV = 'text\tlabel\nhe said "no", then\u2028left\tNone\n2020-01-01\t007\n'


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets_cache")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", JSON_LINES),
        ("rows.jsonl", JSON_LINES.replace("\n", "\r\n\r\n")),
        ("rows.json", JSON_LINES),
        ("rows.json", json.dumps(ROWS, indent=1)),
        ("rows.json", json.dumps({"version": 1, "data": ROWS}, indent=1)),
        ("ROWS.CSV", CSV),
        ("rows.csv", "\ufeff" + CSV.replace("\n", "\r\n")),
        ("rows.tsv", TSV),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_text_format_gives_the_rows_as_they_were_written(
    tmp_path: Path, name: str, content: str, packed: bool
) -> None:
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    rows = read_rows(str(path))
    assert (len(rows), list(rows.column("text")), list(rows.column("label"))) == (2, TEXTS, LABELS)


def test_parquet_and_folders_keep_the_names_of_their_labels(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    train = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features)
    test = datasets.Dataset.from_dict({"text": ["c"], "label": [1]}, features)
    datasets.disable_progress_bars()
    train.to_parquet(tmp_path / "rows.parquet")
    train.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=train, test=test).save_to_disk(tmp_path / "several")
    (tmp_path / "files").mkdir()
    test.to_parquet(tmp_path / "files" / "test.parquet")
    datasets.enable_progress_bars()
    texts = {
        "rows.parquet": ["a", "b"],
        "one": ["a", "b"],
        "several": ["a", "b"],
        "several@test": ["c"],
        "files@test": ["c"],
    }
    for name, expected in texts.items():
        rows = read_rows(str(tmp_path / name))
        assert list(rows.column("text")) == expected
        assert rows.class_names["label"] == ("no", "yes")
    assert list(read_rows(str(tmp_path / "several"), "test").column("text")) == ["c"]
    assert not datasets.are_progress_bars_disabled()


@pytest.mark.parametrize("packed", [False, True])
def test_the_lines_of_a_text_file_are_texts_that_know_their_place(tmp_path: Path, packed: bool) -> None:
    content = 'he said "no",\u2028left\r\n\n  \n\tlabel, a b\n'
    path = tmp_path / ("rows.TXT.gz" if packed else "rows.TXT")
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    rows = read_rows(str(path))
    assert dict(rows.columns) == {"text": ['he said "no",\u2028left', "label, a b"]}
    assert [rows.where(index) for index in (0, 1)] == [f"{path}, row 1", f"{path}, row 4"]


@pytest.mark.parametrize("kind", ["rows.parquet", "folder"])
def test_the_names_of_labels_in_lists_are_kept(tmp_path: Path, kind: str) -> None:
    tags = datasets.ClassLabel(names=["O", "B-PER"])
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "tags": datasets.List(tags),
                                  "score": datasets.Value("float64")})
    rows = datasets.Dataset.from_dict({"tokens": [["a", "b"], ["c"]], "tags": [[1, 0], [0]], "score": [0.5, 1]},
                                      features)
    datasets.disable_progress_bars()
    rows.to_parquet(tmp_path / kind) if kind == "rows.parquet" else rows.save_to_disk(tmp_path / kind)
    datasets.enable_progress_bars()
    found = read_rows(str(tmp_path / kind))
    assert dict(found.class_names) == {"tags": ("O", "B-PER")}
    assert [list(row) for row in found.column("tags")] == [[1, 0], [0]]
    assert Labels.of(found, "tags", None, several=True).names == ("O", "B-PER")


def test_a_hub_id_names_its_config_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load_dataset(*arguments: object, split: str) -> datasets.Dataset:
        asked.append((*arguments, split))
        return datasets.Dataset.from_dict({"text": ["a"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for source in ("owner/name", "name:config", "name:config@train[:10%]"):
        read_rows(source, "validation")
    assert asked == [("owner/name", None, "validation"), ("name", "config", "validation"),
                     ("name", "config", "train[:10%]")]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("rows.jsonl", "", "there are no rows"),
        ("rows.jsonl", "\n\n", "there are no rows"),
        ("rows.csv", "", "there are no rows"),
        ("rows.csv", "text,label\n", "there are no rows"),
        ("rows.json", "[]", "there are no rows"),
        ("rows.jsonl", '{"text": "a"}\n{"text": \n', r"row 2: not readable as JSON"),
        ("rows.jsonl", '{"text": "a"}\n{"text": "b"} {"text": "c"}\n', r"row 2: not readable as JSON \(Extra data"),
        ("rows.jsonl", '{"text": "a"}\n,\n', r"row 2: not readable as JSON \(Expecting value"),
        ("rows.json", '{"text": "a"}\n{"text": \n', r"row 2: not readable as JSON"),
        ("rows.json", '[{"text": "a"},', "not readable as JSON list|not readable as a JSON list"),
        ("rows.jsonl", '{"text": "a"}\n["b"]\n', "row 2: a list; a row is a JSON object"),
        ("rows.csv", "text,label\na,b\na\n", r"row 2: 1 cells, but the first line names 2 columns \(text, label\)"),
        ("rows.csv", 'text,label\na,b\n"a"c,b\n', "row 2: not readable as CSV"),
        ("rows.csv", "text,text\na,b\n", "two columns have the same name"),
        ("rows.csv", '"text";"label"\n"a";"b"\n', "the first line has semicolons and no comma, .*; save it with"),
        ("rows.csv", "\ntext;label\na, b;c\n", "the first line has semicolons and no comma"),
        ("rows.csv", "text\tlabel\na\tb\n", "the first line has tabs and no comma, .*; name the file .tsv, or save it"),
        ("rows.parquet", "no parquet", "cannot be read as parquet"),
        ("rows.doc", "a", r"the suffix does not say what kind of file it is; name it .json"),
        ("rows.jsonl.gz", "not packed", "cannot be read"),
    ],
)
def test_an_unreadable_file_is_named_with_its_row(tmp_path: Path, name: str, content: str, problem: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=problem) as caught:
        read_rows(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("name", "suffix"), [
    ("rows.jsonl", ".jsonl"), ("a.b/rows.v2.TSV.GZ", ".tsv"), ("rows.gz", ""), ("rows", ""), ("dir.txt/.gz", ""),
    (Path("Rows.Txt"), ".txt"), ("squad", "")])
def test_a_suffix_says_what_a_file_holds_in_any_case_and_packed_or_not(name: str | Path, suffix: str) -> None:
    assert format_suffix(name) == suffix


def test_of_a_long_line_that_is_no_json_the_beginning_is_shown() -> None:
    assert json_line(' {"a": 1}\n', "here") == {"a": 1}
    with pytest.raises(DataError, match=rf"here, row 3: not readable as JSON \(.*\): {'a' * 77}\.\.\.\n"):
        json_line(f"  {'a' * 81}\n", "here, row 3")
    with pytest.raises(DataError, match=rf"\): {'a' * 80}\n"):
        json_line(f"{'a' * 80}\n", "here")


def test_text_in_another_encoding_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"text": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"rows.jsonl: not UTF-8 text \(byte 10\): save it as UTF-8"):
        read_rows(str(path))


def test_a_missing_file_is_named_by_its_absolute_path_and_a_near_one_suggested(
    write: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("train.jsonl", {"text": "a"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        read_rows("trian.jsonl")
    assert f"no file {tmp_path / 'trian.jsonl'}; did you mean 'train.jsonl'?" in str(caught.value)
    with pytest.raises(DataError, match=r"nor does the folder .*/nowhere\)"):
        read_rows("nowhere/train.jsonl")


def test_what_is_no_file_is_not_suggested_by_its_own_name() -> None:
    with pytest.raises(DataError, match=r"^/dev/null is neither a file nor a folder\ngive a \.json") as caught:
        read_rows("/dev/null")
    assert "did you mean" not in str(caught.value)


def test_what_neither_the_disk_nor_the_hub_has_is_a_data_error() -> None:
    with pytest.raises(DataError, match=r"data 'owner/nothing': no file /.*/owner/nothing exists, and the hub"):
        read_rows("owner/nothing")


def test_a_missing_column_is_answered_with_those_there_are(write: Callable[..., str]) -> None:
    path = write("rows.jsonl", {"text": "a"}, {"text": "b", "intent": "x"})
    with pytest.raises(DataError, match=r"unknown column 'intnt': did you mean 'intent'\? Known: intent, text"):
        read_rows(path).column("intnt")


def test_a_missing_column_is_answered_with_what_to_do_and_no_column_that_is_used(write: Callable[..., str]) -> None:
    rows = dataclasses.replace(read_rows(write("rows.jsonl", {"text": "a", "tents": "b"})),
                               wanted={"text": "", "intent": "; name it"})
    with pytest.raises(DataError, match=r"unknown column 'intent': did you mean 'tents'\? Known: .*; name it$"):
        rows.column("intent")
    with pytest.raises(DataError, match=r"unknown column 'textt'\. Known: tents, text$"):
        dataclasses.replace(rows, wanted={"text": "", "tents": "", "textt": ""}).column("textt")


def test_a_place_without_the_column_has_no_value(write: Callable[..., str], tmp_path: Path) -> None:
    assert list(read_rows(write("rows.jsonl", {"a": 1}, {"b": 2})).column("a")) == [1, None]
    (tmp_path / "rows.csv").write_text("a,b\n1,\n,2\n", encoding="utf-8")
    assert list(read_rows(str(tmp_path / "rows.csv")).column("a")) == ["1", None]


@pytest.mark.parametrize("source", ["./x", "/x", "~/x", "a/b/c"])
def test_paths_are_told_from_hub_ids(source: str) -> None:
    assert is_path(source)
    assert not is_path("owner/name")
