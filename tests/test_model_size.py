"""Parameter trees, their table, counts and bytes; and the tools under the old import path."""

from __future__ import annotations

import doctest
import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from stillhouse import model_size
from stillhouse.errors import ConfigError, DataError
from stillhouse.model_size import count_parameters, parameter_text, parameter_tree, size_bytes
from stillhouse.textbrewer import data_utils, utils


def tied() -> nn.ModuleDict:
    """A tied embedding of 7 x 3 = 21, a middle of 3 * 5 + 5 + 2 * 5 = 30, and a head that is only the embedding."""
    embedding = nn.Embedding(7, 3)
    head = nn.Linear(3, 7, bias=False)
    head.weight = embedding.weight
    return nn.ModuleDict(
        {"words": embedding, "middle": nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5)), "head": head}
    )


def test_the_examples_in_the_docstrings_hold() -> None:
    outcome = doctest.testmod(model_size)
    assert outcome.attempted >= 3 and outcome.failed == 0


def test_every_node_is_the_sum_of_what_is_below() -> None:
    root = parameter_tree(tied())
    assert root.value == (51, 204)
    assert root["words"].value == (21, 84)
    assert root["middle"].value == (30, 120)
    assert root["middle"]["0"]["weight"].value == (15, 60)
    assert root["head"].value == (0, 0)
    assert "middle" in root and "weight" not in root
    assert [child.name for child in root] == ["words", "middle", "head"]


def test_the_table_is_laid_out_as_documented() -> None:
    rows = [
        ("--model:", "51", "100.00"),
        ("  --words", None, None),
        ("    --weight:", "21", "41.18"),
        ("  --middle:", "30", "58.82"),
        ("    --0:", "20", "39.22"),
        ("      --weight:", "15", "29.41"),
        ("      --bias:", "5", "9.80"),
        ("    --1:", "10", "19.61"),
        ("      --weight:", "5", "9.80"),
        ("      --bias:", "5", "9.80"),
        ("  --head", None, None),
        ("    --weight(shared):", "0", "0.00"),
    ]
    width = len("    --weight(shared):")
    wanted = ["", "LAYER NAME".ljust(width) + "\t        #PARAMS\t     RATIO\t MEM(MB)"]
    for label, count, share in rows:
        numbers = "" if count is None or share is None else f"\t{count.rjust(15)}\t{share.rjust(9)}%\t    0.00"
        wanted.append(label.ljust(width) + numbers)
    assert parameter_text(parameter_tree(tied())).split("\n") == [*wanted, ""]


def test_a_cut_off_table_gives_the_numbers_of_what_it_hides() -> None:
    lines = parameter_text(parameter_tree(tied()), max_level=1).split("\n")
    labels = [line.split("\t")[0].rstrip() for line in lines[2:-1]]
    assert labels == ["--model:", "  --words:", "  --middle:", "  --head:"]
    assert [int(line.split("\t")[1]) for line in lines[2:-1]] == [51, 21, 30, 0]
    assert len(parameter_text(parameter_tree(tied()), max_level=0).split("\n")) == 4


def test_the_table_counts_in_thousands_and_megabytes() -> None:
    text = parameter_text(parameter_tree(nn.Linear(1024, 2048, bias=False).half()))
    assert re.search(r"--weight:\t +2,097,152\t +100\.00%\t +4\.00\n", text)


def test_a_negative_level_is_named() -> None:
    with pytest.raises(ConfigError, match="max_level=-1"):
        parameter_text(parameter_tree(tied()), max_level=-1)


def test_a_state_dict_gives_the_same_table_as_its_module() -> None:
    model = tied()
    assert parameter_text(parameter_tree(model.state_dict())) == parameter_text(parameter_tree(model))


def test_a_state_dict_shares_memory_not_equal_values_or_overlaps() -> None:
    whole = torch.zeros(6)
    views = {"a": whole, "same": whole.view(2, 3), "start": whole[:2]}
    root = parameter_tree({**views, "copy": whole.clone(), "note": "x"})
    assert [(child.name, child.num_parameters, child.is_shared) for child in root] == [
        ("a", 6, False), ("same", 0, True), ("start", 2, False), ("copy", 6, False),
    ]  # fmt: skip


def test_empty_tensors_are_not_taken_for_shared() -> None:
    assert "(shared)" not in parameter_text(parameter_tree({"a": torch.zeros(0), "b": torch.zeros(0)}))


@pytest.mark.parametrize("as_state_dict", [False, True])
def test_meta_tensors_are_not_taken_for_shared(as_state_dict: bool) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    root = parameter_tree(model.state_dict() if as_state_dict else model)
    assert root.value == (2 * (3 * 3 + 3), 4 * 24)
    assert "(shared)" not in parameter_text(root)


def test_tied_meta_parameters_count_once() -> None:
    with torch.device("meta"):
        model = tied()
    assert parameter_tree(model).value == (51, 204) and count_parameters(model) == 51
    assert parameter_tree(model)["head"]["weight"].is_shared


def test_a_module_used_twice_counts_once() -> None:
    layer = nn.Linear(4, 4)
    root = parameter_tree(nn.ModuleDict({"first": layer, "again": layer}))
    assert root.num_parameters == root["first"].num_parameters == 20
    assert all(leaf.is_shared for leaf in root["again"])


def test_buffers_are_bytes_but_not_parameters() -> None:
    norm = nn.BatchNorm1d(6)  # weight and bias; running mean and variance; an int64 counter
    assert parameter_tree(norm).num_parameters == count_parameters(norm) == 12
    assert size_bytes(norm) == 4 * 12 + 4 * 12 + 8
    assert parameter_tree(norm.state_dict()).num_parameters == 25


def test_bytes_follow_the_type_and_count_shared_ones_once() -> None:
    model = tied()
    assert size_bytes(model) == 51 * 4
    assert size_bytes(model.to(torch.bfloat16)) == 51 * 2 == parameter_tree(model).size_bytes


def test_frozen_parameters_count() -> None:
    assert count_parameters(tied().requires_grad_(False)) == 51


def test_a_model_without_parameters_has_a_table() -> None:
    assert "0.00%" in parameter_text(parameter_tree(nn.ReLU()))
    assert count_parameters(nn.ReLU()) == size_bytes(nn.ReLU()) == 0


def test_something_else_is_named() -> None:
    wrong: Any = [1, 2]
    with pytest.raises(DataError, match="list"):
        parameter_tree(wrong)


def test_display_parameters_gives_text_and_the_whole_tree() -> None:
    model = tied()
    text, root = utils.display_parameters(model, max_level=1)
    assert text == parameter_text(parameter_tree(model), max_level=1)
    assert root["middle"]["1"]["bias"].num_parameters == 5


def test_cycle_iterates_anew_on_every_pass() -> None:
    class Loader:
        passes = 0

        def __iter__(self) -> Iterator[int]:
            self.passes += 1
            return iter([self.passes * 10, self.passes * 10 + 1])

    assert list(itertools.islice(utils.cycle(Loader()), 5)) == [10, 11, 20, 21, 30]


def test_cycling_through_nothing_is_an_error_not_an_endless_loop() -> None:
    with pytest.raises(DataError, match="nothing left"):
        next(utils.cycle([]))
    used_up = utils.cycle(iter([1]))
    assert next(used_up) == 1
    with pytest.raises(DataError, match="more than once"):
        next(used_up)


def test_the_initializer_sets_linear_layers_and_layer_norms_only() -> None:
    torch.manual_seed(0)
    model = nn.ModuleList(
        [nn.Linear(200, 100), nn.LayerNorm(5), nn.Embedding(4, 3), nn.Linear(2, 2, bias=False),
         nn.LayerNorm(5, elementwise_affine=False)]
    )  # fmt: skip
    linear, norm, embedding = model[0], model[1], model[2]
    before = embedding.weight.detach().clone()
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    model.apply(utils.initializer_builder(0.02))
    assert abs(linear.weight.mean().item()) < 1e-3 and abs(linear.weight.std().item() - 0.02) < 1e-3
    assert not linear.bias.any() and not norm.bias.any() and bool((norm.weight == 1).all())
    assert torch.equal(embedding.weight, before)


def test_the_old_path_gives_the_same_functions() -> None:
    from stillhouse import augment

    for name in augment.__all__:
        assert getattr(data_utils, name) is getattr(augment, name)
