"""Every task's student as ONNX: the same answers at any size, judged and timed; and what is left after an error."""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")  # which needs onnx

import numpy as np
import onnx
import onnxruntime
import torch
from transformers import AutoTokenizer

from stillhouse.errors import ConfigError, OutputError
from stillhouse.export import Exported, export_onnx, exporting
from stillhouse.export.folders import written_aside
from stillhouse.finished import evaluate, open_run
from tests.export.tiny_runs import KINDS, LONGEST, WORDS, Run

RunOf = Callable[[str], Run]
ExportedOf = Callable[[str], Exported]


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def tokens(*shape: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random words; every second row ends in padding."""
    draw = np.random.default_rng(seed)
    ids = torch.from_numpy(draw.integers(5, len(WORDS), shape))
    mask = torch.ones(shape, dtype=torch.long)
    mask[1::2, ..., max(1, shape[-1] // 2):] = 0
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_answers_as_its_student_at_any_batch_and_length(kind: str, run_of: RunOf,
                                                                exported_of: ExportedOf) -> None:
    graph, model = session(exported_of(kind).model_path), open_run(run_of(kind).path).load_student().eval()
    sizes = [(1, 4, 9), (3, 2, 17)] if kind == "choices" else [(1, 1), (1, 9), (5, LONGEST), (2, 40)]
    for size in sizes:
        given = tokens(*size)
        with torch.no_grad():
            answer = model(**given)
        found = graph.run(None, {item.name: given[item.name].numpy() for item in graph.get_inputs()})
        names = [item.name for item in graph.get_outputs()]
        if kind == "sentences":
            kept = given["attention_mask"].unsqueeze(-1)
            mean = (answer.last_hidden_state * kept).sum(1) / kept.sum(1)
            wanted = [mean / mean.norm(dim=-1, keepdim=True)]
        else:
            wanted = [answer[name] for name in names]
        kept = given["attention_mask"].bool()
        for one, other in zip(wanted, map(torch.from_numpy, found), strict=True):
            assert one.shape == other.shape
            both = (one[kept], other[kept]) if kind in ("tags", "questions", "masks") else (one, other)
            torch.testing.assert_close(both[1], both[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_metric_before_and_after_is_that_of_an_evaluation_of_its_own(kind: str, run_of: RunOf,
                                                                         exported_of: ExportedOf) -> None:
    exported, run = exported_of(kind), run_of(kind)
    alone = evaluate(run.path, str(run.files["test"]), device="cpu")
    assert exported.rows == "the test data"
    assert exported.metric == alone["metric"]
    assert exported.metrics["torch fp32"] == pytest.approx(alone["metrics"], rel=1e-6)
    assert exported.metrics["onnx fp32"] == pytest.approx(alone["metrics"], rel=1e-4, abs=1e-4)
    assert exported.agreement["onnx fp32"] == pytest.approx(1, abs=1e-6)
    assert exported.parity.max_difference < 1e-3
    assert len({rows for rows, _ in exported.parity.batches}) > 2
    assert len({length for _, length in exported.parity.batches}) > 1


def test_the_metric_of_a_graph_is_that_of_its_answers(run_of: RunOf, exported_of: ExportedOf) -> None:
    run, exported = run_of("single"), exported_of("single")
    rows = [json.loads(line) for line in run.files["test"].read_text("utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(exported.folder)
    for path, name in ((exported.model_path, "onnx fp32"), (exported.int8_path, "onnx int8")):
        assert path is not None
        graph = session(path)
        given = tokenizer([row["text"] for row in rows], return_tensors="np", padding=True)
        logits = graph.run(None, {item.name: given[item.name] for item in graph.get_inputs()})[0]
        right = ["xyz"[place] == row["label"] for place, row in zip(logits.argmax(axis=1), rows, strict=True)]
        assert exported.metrics[name]["accuracy"] == pytest.approx(sum(right) / len(rows))


def test_a_file_holds_nothing_of_the_machine_that_wrote_it(exported_of: ExportedOf) -> None:
    content = exported_of("single").model_path.read_bytes()
    assert b"classifier.weight" in content  # names are there to be read
    assert b"site-packages" not in content
    assert b"stillhouse" not in content


@pytest.mark.parametrize("kind", ["single", "masks"])
def test_eight_bits_make_the_file_smaller(kind: str, exported_of: ExportedOf) -> None:
    exported = exported_of(kind)
    assert exported.int8_path is not None
    sizes = {path: path.stat().st_size for path in (exported.model_path, exported.int8_path)}
    assert sizes[exported.int8_path] < 0.7 * sizes[exported.model_path]
    assert exported.files == {path.name: size for path, size in sizes.items()}


def test_everybody_is_timed_alone_and_in_batches(run_of: RunOf, exported_of: ExportedOf) -> None:
    latency = exported_of("single").latency
    who = [(one.model, one.runtime) for one in latency if one.runtime != "torch bf16"]
    assert who == [("teacher", "torch fp32"), ("student", "torch fp32"), ("student", "onnx fp32"),
                   ("student", "onnx int8")]
    for one in latency:
        assert list(one.by_batch) == ["1", "32"]
        for size, found in one.by_batch.items():
            assert found["rows_per_s"] == pytest.approx(1000 * int(size) / found["ms"], rel=0.05)
    teacher = open_run(run_of("single").path.parent / "teacher").load_student()
    assert latency[0].size_bytes == sum(4 * weights.numel() for weights in teacher.parameters()) + sum(
        values.numel() * values.element_size() for values in teacher.buffers())


def test_what_was_measured_is_in_the_folder_beside_what_reads_texts(exported_of: ExportedOf) -> None:
    exported = exported_of("single")
    kept = json.loads((exported.folder / "export.json").read_text("utf-8"))
    assert kept["parity"]["max_difference"] == exported.parity.max_difference
    assert kept["metrics"] == exported.metrics
    assert [one["by_batch"] for one in kept["latency"]] == [one.by_batch for one in exported.latency]
    assert kept["versions"]["onnxruntime"] == onnxruntime.__version__
    assert {"model.onnx", "model.int8.onnx", "config.json", "tokenizer.json"} <= {
        path.name for path in exported.folder.iterdir()}


def write_again(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the end of the test nothing is exported: this graph is written instead, of an equal student."""
    monkeypatch.setattr(exporting, "write_graph",
                        lambda model, task, batch, path, opset: shutil.copy(exported.model_path, path))


def test_a_graph_that_answers_otherwise_is_not_written(fresh_run: Run, exported_of: ExportedOf,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_run(fresh_run.path).load_student()
    with torch.no_grad():
        model.classifier.bias += 0.002
    model.save_pretrained(fresh_run.student)
    write_again(exported_of("single"), monkeypatch)
    with pytest.raises(OutputError, match=r"differ by up to 0\.002, and rounding explains less than 0\.001"):
        export_onnx(fresh_run.path)
    assert sorted(path.name for path in fresh_run.path.iterdir()) == ["recipe.yaml", "student"]


def test_an_earlier_export_is_replaced_as_a_whole(fresh_run: Run, exported_of: ExportedOf, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    write_again(exported_of("single"), monkeypatch)
    shutil.copytree(exported_of("single").folder, tmp_path / "there")
    told: list[str] = []
    again = export_onnx(fresh_run.path, output=tmp_path / "there", num_rows=3, tell=told.append)
    assert (again.rows, again.num_rows, again.int8_path) == ("the test data", 3, None)
    assert not (tmp_path / "there/model.int8.onnx").exists()
    assert json.loads((tmp_path / "there/export.json").read_text("utf-8"))["rows"]["number"] == 3
    assert any("writing the student" in line for line in told)


def label_as_said(run: Run, path: Path) -> list[str]:
    """Make a graph's own answers the labels of the test data, which are then all right; gives them."""
    graph, tokenizer = session(path), AutoTokenizer.from_pretrained(run.student)
    rows = [json.loads(line) for line in run.files["test"].read_text("utf-8").splitlines()]
    given = tokenizer([row["text"] for row in rows], return_tensors="np", padding=True)
    logits = graph.run(None, {item.name: given[item.name] for item in graph.get_inputs()})[0]
    labels = ["xyz"[place] for place in logits.argmax(axis=1)]
    lines = [json.dumps({**row, "label": label}) + "\n" for row, label in zip(rows, labels, strict=True)]
    run.files["test"].write_text("".join(lines), "utf-8")
    return labels


def write_last_label_only(path: Path, other: Path) -> None:
    """The same graph, whose answer is always the last label."""
    model = onnx.load(path)
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "unshifted"
    model.graph.node.append(onnx.helper.make_node("Add", ["unshifted", "shift"], ["logits"], name="shift"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 0, 1e4], np.float32), "shift"))
    onnx.save(model, other)


@pytest.mark.parametrize("is_mended", [True, False])
def test_where_8_bits_cost_more_than_a_point_fewer_weights_are_quantized(
        is_mended: bool, fresh_run: Run, exported_of: ExportedOf, monkeypatch: pytest.MonkeyPatch) -> None:
    spared: list[bool] = []

    def quantized(path: Path, int8_path: Path, *, spare_narrowing: bool = False) -> None:
        spared.append(spare_narrowing)
        (shutil.copy if spare_narrowing and is_mended else write_last_label_only)(path, int8_path)

    monkeypatch.setattr(exporting, "write_int8", quantized)
    write_again(exported_of("single"), monkeypatch)
    labels = label_as_said(fresh_run, exported_of("single").model_path)
    cost = 1 - labels.count("z") / len(labels)
    left = 0 if is_mended else cost
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        exported = export_onnx(fresh_run.path, int8=True)
    assert spared == [False, True]
    assert exported.metrics["onnx int8"]["accuracy"] == pytest.approx(1 - left)
    assert f"8 bits cost {cost:.4f} of the accuracy with them and cost {left:.4f} without" in exported.notes[0]
    told = [str(one.message) for one in warned if "8 bits" in str(one.message)]
    assert told == ([] if is_mended else
                    [f"8 bits cost {cost:.4f} of the accuracy; use model.onnx where that is too much"])


@pytest.mark.parametrize(("arguments", "message"), [
    ({"opset": 9}, "--opset 9: .* version 18 or later"),
    ({"opset": 999}, "--opset 999: .* none after"),
    ({"output": "FOREIGN"}, "holds what no export has written .thesis.txt."),
    ({"output": "FOREIGN/thesis.txt"}, "that is a file"),
])
def test_what_cannot_be_done_is_said_before_anything_is_exported(
        arguments: dict[str, Any], message: str, fresh_run: Run, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.txt").write_text("years of work")
    if "output" in arguments:
        arguments = {"output": arguments["output"].replace("FOREIGN", str(tmp_path / "foreign"))}
    monkeypatch.setattr(exporting, "write_graph", None)
    with pytest.raises(ConfigError, match=message):
        export_onnx(fresh_run.path, **arguments)
    assert (tmp_path / "foreign/thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("output", [".", "..", "../here"])
def test_a_folder_that_somebody_stands_in_is_not_replaced(output: str, fresh_run: Run, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "above/here").mkdir(parents=True)
    (tmp_path / "above/export.json").write_text(json.dumps({"content": ["export.json", "here"]}))
    monkeypatch.chdir(tmp_path / "above/here")
    monkeypatch.setattr(exporting, "write_graph", None)
    with pytest.raises(ConfigError, match=rf"--output {output}: that is the current directory or holds it"):
        export_onnx(fresh_run.path, output=output)


@pytest.mark.parametrize("results", ['{"content": ["export.json", "model.onnx"]}', "{}", "half a fi", "[]"])
def test_what_an_export_has_not_written_stays(results: str, fresh_run: Run, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cloned"
    (folder / ".git").mkdir(parents=True)
    (folder / "export.json").write_text(results)
    monkeypatch.setattr(exporting, "write_graph", None)
    with pytest.raises(ConfigError, match=r"holds what no export has written \(.git"):
        export_onnx(fresh_run.path, output=folder)
    assert sorted(path.name for path in folder.iterdir()) == [".git", "export.json"]


def test_an_earlier_export_is_there_until_the_new_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/model.onnx").write_text("earlier")
    with written_aside(tmp_path / "onnx") as aside:
        (aside / "model.onnx").write_text("new")
        assert (tmp_path / "onnx/model.onnx").read_text() == "earlier"
    assert [(path.name, (path / "model.onnx").read_text()) for path in tmp_path.iterdir()] == [("onnx", "new")]


def test_no_rows_to_compare_are_refused(fresh_run: Run) -> None:
    with pytest.raises(ConfigError, match="num_rows=0"):
        export_onnx(fresh_run.path, num_rows=0)


def test_a_link_to_a_folder_stands_for_the_folder(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with written_aside(tmp_path / "link") as aside:
        (aside / "model.onnx").touch()
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["model.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]


def test_only_what_the_disk_refuses_is_about_the_output(fresh_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def hang_up(*arguments: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(exporting, "write_graph", refuse)
    with pytest.raises(ConfigError, match=r"--output .*onnx: cannot be written: No space left"):
        export_onnx(fresh_run.path)
    monkeypatch.setattr(exporting, "rows_to_compare", hang_up)
    with pytest.raises(ConnectionError, match="no route to host"):
        export_onnx(fresh_run.path)
    assert sorted(path.name for path in fresh_run.path.iterdir()) == ["recipe.yaml", "student"]
