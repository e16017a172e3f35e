"""8 bits: each row of an embedding and each column of a matrix with its own scale, and what is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")  # which needs onnx

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from stillhouse.export.quantizing import write_int8

WORDS, WIDTH, LABELS = 300, 16, 24


def write(path: Path, weights: dict[str, np.ndarray[Any, Any]], also: str = "") -> None:
    """Ids -> embedding -> a matrix that widens -> one that narrows.

    ``also``: the table is turned to be an output layer, or its sum is asked for.
    """
    nodes = [helper.make_node("Gather", ["table", "ids"], ["states"], name="look up"),
             helper.make_node("MatMul", ["states", "wide"], ["wider"], name="widen"),
             helper.make_node("MatMul", ["wider", "narrow"], ["logits"], name="narrow")]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", LABELS])]
    if also == "output layer":
        nodes += [helper.make_node("Transpose", ["table"], ["turned"], name="turn", perm=[1, 0]),
                  helper.make_node("MatMul", ["states", "turned"], ["scores"], name="score")]
        outputs.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "length", WORDS]))
    elif also == "sum":
        nodes.append(helper.make_node("ReduceSum", ["table"], ["sum"], name="sum"))
    graph = helper.make_graph(
        nodes, "tiny", [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])],
        outputs, [numpy_helper.from_array(value, name) for name, value in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@pytest.fixture
def weights() -> dict[str, np.ndarray[Any, Any]]:
    """A table in which one word is a thousand times as large as the others."""
    draw = np.random.default_rng(0)
    table = draw.normal(size=(WORDS, WIDTH)).astype(np.float32)
    table[7] *= 1000
    return {"table": table, "wide": draw.normal(size=(WIDTH, 64)).astype(np.float32),
            "narrow": draw.normal(size=(64, LABELS)).astype(np.float32)}


def answers(path: Path, ids: np.ndarray[Any, Any], output: str = "logits") -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: np.ndarray[Any, Any] = session.run([output], {"ids": ids})[0]
    return found


def types(path: Path) -> dict[str, int]:
    return {one.name: one.data_type for one in onnx.load(path).graph.initializer}


def test_answers_are_near_those_in_float32_for_every_word(tmp_path: Path,
                                                         weights: dict[str, np.ndarray[Any, Any]]) -> None:
    write(tmp_path / "a.onnx", weights)
    write_int8(tmp_path / "a.onnx", tmp_path / "b.onnx")
    for ids in (np.array([[3, 9, 200]]), np.array([[7]]), np.arange(8, 30).reshape(2, 11)):
        wanted, found = (answers(tmp_path / name, ids) for name in ("a.onnx", "b.onnx"))
        assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    assert (tmp_path / "b.onnx").stat().st_size < 0.5 * (tmp_path / "a.onnx").stat().st_size


def test_a_large_word_costs_the_others_nothing(tmp_path: Path, weights: dict[str, np.ndarray[Any, Any]]) -> None:
    write(tmp_path / "a.onnx", weights)
    write_int8(tmp_path / "a.onnx", tmp_path / "b.onnx")
    kept = {one.name: numpy_helper.to_array(one) for one in onnx.load(tmp_path / "b.onnx").graph.initializer}
    back = kept["table_int8"].astype(np.float32) * kept["table_scales"]
    bound = np.abs(weights["table"]).max(axis=1, keepdims=True) / 127 / 2
    assert kept["table_int8"].dtype == np.int8
    assert (np.abs(back - weights["table"]) <= 1.001 * bound).all()


def test_matrices_that_narrow_can_be_spared(tmp_path: Path, weights: dict[str, np.ndarray[Any, Any]]) -> None:
    write(tmp_path / "a.onnx", weights)
    write_int8(tmp_path / "a.onnx", tmp_path / "b.onnx", spare_narrowing=True)
    assert types(tmp_path / "b.onnx")["narrow"] == TensorProto.FLOAT
    assert "wide" not in types(tmp_path / "b.onnx")
    write_int8(tmp_path / "a.onnx", tmp_path / "c.onnx")
    assert "narrow" not in types(tmp_path / "c.onnx")


def test_a_table_of_which_more_is_read_than_rows_is_left(tmp_path: Path,
                                                         weights: dict[str, np.ndarray[Any, Any]]) -> None:
    write(tmp_path / "a.onnx", weights, "sum")
    write_int8(tmp_path / "a.onnx", tmp_path / "b.onnx", spare_narrowing=True)
    assert types(tmp_path / "b.onnx")["table"] == TensorProto.FLOAT
    ids = np.array([[3, 9, 200]])
    wanted, found = (answers(tmp_path / name, ids) for name in ("a.onnx", "b.onnx"))
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def test_embeddings_that_are_the_output_layer_are_quantized_as_both(tmp_path: Path,
                                                                    weights: dict[str, np.ndarray[Any, Any]]) -> None:
    weights["table"][7] /= 1000
    write(tmp_path / "a.onnx", weights, "output layer")
    write_int8(tmp_path / "a.onnx", tmp_path / "b.onnx")
    large = [one for one in onnx.load(tmp_path / "b.onnx").graph.initializer if np.prod(one.dims) == WORDS * WIDTH]
    assert [one.data_type for one in large] == [TensorProto.INT8] * 2
    ids = np.array([[3, 9, 200]])
    for output in ("logits", "scores"):
        wanted, found = (answers(tmp_path / name, ids, output) for name in ("a.onnx", "b.onnx"))
        assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
