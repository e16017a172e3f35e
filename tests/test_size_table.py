"""The table of a model's modules: shares, shared tensors, buffers, depth, JSON, a student beside its teacher."""

from __future__ import annotations

import doctest
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

import stillhouse
from stillhouse import size_table
from stillhouse.errors import ConfigError, DataError
from stillhouse.model_size import count_parameters, size_bytes
from stillhouse.size_table import ParameterTable, SizeRow, parameter_table


def bert(layers: int = 2) -> BertForMaskedLM:
    return BertForMaskedLM(BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2,
                                      intermediate_size=32, max_position_embeddings=24))


class Mixed(nn.Module):
    """A parameter and buffers of its own beside two modules, one of which has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.register_buffer("kept", torch.ones(3))
        self.register_buffer("passing", torch.ones(5, dtype=torch.int64), persistent=False)
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.again = self.first
        self.silent = nn.Dropout()

    def forward(self, rows: Tensor) -> Tensor:
        summed: Tensor = self.norm(self.again(self.first(rows))).sum() * self.scale + self.kept.sum()
        return summed


def row(table: ParameterTable, name: str) -> SizeRow:
    return next(row for row in table.rows if row.name == name)


def children(table: ParameterTable, parent: SizeRow) -> list[SizeRow]:
    prefix = f"{parent.name}." if parent.name else ""
    return [row for row in table.rows
            if row.level == parent.level + 1 and row.name.startswith(prefix)]


@pytest.mark.parametrize("make", [bert, Mixed, lambda: nn.BatchNorm1d(3)])
def test_the_rows_below_a_module_sum_to_it(make: Any) -> None:
    table = parameter_table(make(), depth=None)
    for parent in table.rows:
        below = children(table, parent)
        if below:
            for number in ("num_parameters", "parameter_bytes", "num_buffer_values", "buffer_bytes"):
                assert sum(getattr(child, number) for child in below) == getattr(parent, number)
            assert sum(child.share_percent for child in below) == pytest.approx(parent.share_percent)
    assert table.rows[0].share_percent == 100


@pytest.mark.parametrize("make", [bert, Mixed])
def test_the_totals_are_those_of_the_model(make: Any) -> None:
    model = make()
    next(model.parameters()).requires_grad_(False)
    totals = parameter_table(model, depth=0).totals
    assert totals.num_parameters == count_parameters(model)
    assert totals.num_trainable == count_parameters(model) - next(model.parameters()).numel()
    assert totals.memory_bytes == size_bytes(model)
    assert totals.num_buffer_values == sum(buffer.numel() for buffer in model.buffers())


def test_buffers_stand_apart() -> None:
    table = parameter_table(nn.BatchNorm1d(3))  # weight, bias; mean, variance, an int64 counter
    assert (table.totals.num_parameters, table.totals.num_buffer_values) == (6, 7)
    assert (table.rows[0].parameter_bytes, table.rows[0].buffer_bytes) == (4 * 6, 4 * 6 + 8)


def test_what_a_module_holds_beside_modules_has_its_row() -> None:
    table = parameter_table(Mixed())
    assert [row.name for row in table.rows] == ["", "scale", "kept", "passing", "first", "norm", "again"]
    assert (row(table, "passing").num_buffer_values, row(table, "passing").buffer_bytes) == (5, 40)
    assert row(table, "scale").num_parameters == 2


def test_a_module_with_two_names_counts_once_and_is_marked() -> None:
    table = parameter_table(Mixed(), inputs=torch.zeros(6, 4))
    assert row(table, "again").num_parameters == 0
    assert row(table, "again").shared_with == ("first.weight", "first.bias")
    assert row(table, "first").num_parameters == 20 and row(table, "first").shared_with == ()
    assert row(table, "first").flops_per_token == row(table, "").flops_per_token == 2 * 2 * 4 * 4
    assert "again (shared)" in str(table)


def test_tied_embeddings_count_once_where_they_are_met_first() -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2))
    table = parameter_table(gpt2)
    assert (row(table, "lm_head").num_parameters, row(table, "transformer").share_percent) == (0, 100)
    assert row(table, "lm_head").shared_with == ("transformer.wte.weight",)
    assert row(table, "lm_head").flops_per_token == 2 * 16 * 50
    assert row(table, "").shared_with == ()
    masked = parameter_table(bert())
    assert row(masked, "cls").num_parameters == 16 * 16 + 16 + 32 + 50  # transform, norm, and the decoder's bias
    assert "cls (partly shared)" in str(masked) and "embeddings (" not in str(masked)


def test_depth_cuts_rows_not_numbers() -> None:
    whole = parameter_table(bert(), depth=None)
    for depth in range(4):
        cut = parameter_table(bert(), depth=depth)
        assert cut.rows == tuple(row for row in whole.rows if row.level <= depth)
        assert cut.totals == whole.totals
    assert parameter_table(bert()).rows == parameter_table(bert(), depth=2).rows


def test_json_holds_all_and_nothing_but_plain_values() -> None:
    table = parameter_table(bert(), beside=bert(1))
    plain = table.to_dict()
    assert json.loads(table.to_json()) == plain == json.loads(json.dumps(plain))
    assert plain["model"] == "BertForMaskedLM" and plain["sequence_length"] == 24
    assert plain["totals"]["num_parameters"] == plain["rows"][0]["num_parameters"] == count_parameters(bert())
    assert plain["beside"]["totals"]["num_parameters"] == count_parameters(bert(1))
    assert plain["beside"]["beside"] is None


def test_a_student_stands_beside_its_teacher() -> None:
    teacher, student = bert(4), bert(1)
    table = parameter_table(teacher, beside=student, sequence_length=8)
    assert table.beside == parameter_table(student, sequence_length=8)
    alone = parameter_table(teacher, sequence_length=8)
    assert (table.rows, table.totals) == (alone.rows, alone.totals)
    found = table.comparison
    assert found is not None
    assert found.parameters_percent == pytest.approx(100 * count_parameters(student) / count_parameters(teacher))
    assert found.memory_percent == pytest.approx(100 * size_bytes(student) / size_bytes(teacher))
    layer = 2 * 4 * 16 * 16 + 4 * 8 * 16 + 4 * 16 * 32
    head = 2 * 16 * 16 + 2 * 16 * 50
    assert found.flops_speed_up == pytest.approx((4 * layer + head) / (layer + head))
    assert found.flops_percent == pytest.approx(100 / found.flops_speed_up)
    text = str(table)
    assert "teacher BertForMaskedLM" in text and "student BertForMaskedLM" in text
    assert f"{found.parameters_percent:.1f} % of the teacher's parameters" in text
    assert f"{found.flops_speed_up:.2f} times the student's FLOPs" in text


def test_both_models_read_rows_of_the_same_length() -> None:
    shorter = BertForMaskedLM(BertConfig(**{**bert().config.to_dict(), "max_position_embeddings": 10}))
    table = parameter_table(bert(), beside=shorter)
    assert table.beside is not None and table.sequence_length == table.beside.sequence_length == 10


def test_unknown_flops_are_not_compared_and_say_why() -> None:
    table = parameter_table(bert(), beside=Mixed())
    assert table.beside is not None and table.comparison is not None
    assert table.beside.totals.flops_per_token is None and table.comparison.flops_speed_up is None
    assert table.comparison.parameters_percent is not None
    assert "student: FLOPs are unknown: which inputs a Mixed reads is not known" in str(table)
    assert all(row.flops_per_token is None for row in table.beside.rows)


def test_the_text_shows_thousands_megabytes_and_shares() -> None:
    layer = nn.Sequential(nn.Linear(1024, 2048, bias=False)).half()
    lines = str(parameter_table(layer, inputs=torch.zeros(1, 1024, dtype=torch.half))).split("\n")
    assert lines[0].split() == ["module", "parameters", "share", "MB", "buffers", "MB", "MFLOPs/token"]
    assert lines[2].split() == ["Sequential", "2,097,152", "100.00", "%", "4.00", "0", "0.00", "4.19"]
    assert lines[3].startswith("    0 ") and "\x1b" not in "".join(lines)
    assert "2,097,152 of 2,097,152 parameters are trainable; 4.00 MB with buffers" in lines


def test_the_rich_table_has_a_row_for_each_module() -> None:
    table = parameter_table(bert(), beside=bert(1))
    assert table.beside is not None
    assert table.render().row_count == len(table.rows) + len(table.beside.rows)


def test_a_model_without_memory_has_the_same_table() -> None:
    with torch.device("meta"):
        hollow = bert()
    assert parameter_table(hollow) == parameter_table(bert())


def test_a_model_without_parameters_has_a_table() -> None:
    table = parameter_table(nn.ReLU())
    assert len(table.rows) == 1 and table.rows[0].share_percent == 0
    assert parameter_table(nn.ReLU(), beside=bert()).comparison is not None


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(ConfigError, match="depth=-1"):
        parameter_table(bert(), depth=-1)
    with pytest.raises(ConfigError, match="sequence_length=0"):
        parameter_table(bert(), sequence_length=0)
    wrong: Any = {"weight": torch.zeros(1)}
    for arguments in ((wrong,), (bert(), wrong)):
        with pytest.raises(DataError, match="dict is no model"):
            parameter_table(arguments[0], beside=arguments[1] if len(arguments) == 2 else None)


def test_it_is_found_in_the_package() -> None:
    assert stillhouse.parameter_table is parameter_table


def test_the_example_in_the_docstring_holds() -> None:
    outcome = doctest.testmod(size_table)
    assert outcome.attempted >= 1 and outcome.failed == 0
