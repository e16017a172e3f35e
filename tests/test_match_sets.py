"""Matches by name, and matches for a layer map."""

from __future__ import annotations

from typing import Any

import pytest

from stillhouse import DistillationConfig
from stillhouse.config import IntermediateMatch
from stillhouse.errors import ConfigError, PlanError
from stillhouse.layer_maps import LAYER_MAPS
from stillhouse.match_sets import MATCH_SETS, layer_pairs, match_layers, named_matches
from stillhouse.presets import MATCH_LOSS_MAP

# The published table: teacher's and student's layers, 0 being the embeddings; the loss; the student's width if it is
# brought to the teacher's 768.
L3, L4 = [(0, 0), (4, 1), (8, 2), (12, 3)], [(0, 0), (3, 1), (6, 2), (9, 3), (12, 4)]
L6 = [(0, 0), (2, 1), (4, 2), (6, 3), (8, 4), (10, 5), (12, 6)]
SMALL = [(0, 0), (2, 2), (4, 4), (6, 6), (8, 8), (10, 10), (12, 12)]
HIDDEN: dict[str, tuple[list[tuple[int, int]], str, int | None]] = {
    "L3_hidden_mse": (L3, "hidden_mse", None),
    "L3n_hidden_mse": (L3, "hidden_mse", 384),
    "L3l_hidden_mse": (L3, "hidden_mse", 1024),
    "L4t_hidden_mse": (L4, "hidden_mse", 312),
    "L6_hidden_mse": (L6, "hidden_mse", None),
    "small_hidden_mse": (SMALL, "hidden_mse", 256),
}
RELATIONS: dict[str, tuple[list[tuple[int, int]], str, int | None]] = {
    "L3_hidden_smmd": (L3, "mmd", None),
    "L4_hidden_smmd": (L4, "mmd", None),
    "L4t_hidden_sgram": (L4, "gram", 312),
    "L6_hidden_smmd": (L6, "mmd", None),
    "small_hidden_smmd": (SMALL, "mmd", None),
}
# layers 4-1, 8-2, 12-3 and 3-1, 6-2, 9-3, 12-4: the map of layer n is attention map n - 1
ATTENTION = {"L3": [(3, 0), (7, 1), (11, 2)], "L4": [(2, 0), (5, 1), (8, 2), (11, 3)]}
ATTENTION_LOSSES = ["mse", "ce", "mse_sum", "ce_mean"]
ATTENTION_NAMES = [f"{depth}_attention_{loss}" for depth in ATTENTION for loss in ATTENTION_LOSSES]


def projection(width: int | None) -> list[Any] | None:
    return None if width is None else ["linear", width, 768]


def layers(matches: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    return [(match["layer_T"], match["layer_S"]) for match in matches]


def test_the_published_sets_are_all_there_and_no_others() -> None:
    assert set(MATCH_SETS) == {*HIDDEN, *RELATIONS, *ATTENTION_NAMES}


@pytest.mark.parametrize("name", HIDDEN)
def test_matches_of_hidden_states_are_the_published_ones(name: str) -> None:
    pairs, loss, width = HIDDEN[name]
    assert named_matches(name) == [
        {"layer_T": teacher, "layer_S": student, "feature": "hidden", "loss": loss, "weight": 1.0,
         "proj": projection(width)} for teacher, student in pairs]


@pytest.mark.parametrize("name", RELATIONS)
def test_matches_of_relations_are_the_published_ones_each_layer_with_itself(name: str) -> None:
    pairs, loss, width = RELATIONS[name]
    assert named_matches(name) == [
        {"layer_T": [teacher, teacher], "layer_S": [student, student], "feature": "hidden", "loss": loss, "weight": 1.0,
         "proj": projection(width)} for teacher, student in pairs]


@pytest.mark.parametrize("depth", ATTENTION)
@pytest.mark.parametrize("loss", ATTENTION_LOSSES)
def test_matches_of_attention_are_the_published_ones_counted_from_zero(depth: str, loss: str) -> None:
    assert named_matches(f"{depth}_attention_{loss}") == [
        {"layer_T": teacher, "layer_S": student, "feature": "attention", "loss": f"attention_{loss}", "weight": 1.0,
         "proj": None} for teacher, student in ATTENTION[depth]]


@pytest.mark.parametrize("name", [*HIDDEN, *RELATIONS, *ATTENTION_NAMES])
def test_a_name_in_a_configuration_is_its_matches(name: str) -> None:
    by_name = DistillationConfig(intermediate_matches=[name])
    assert by_name == DistillationConfig(intermediate_matches=named_matches(name))
    assert all(isinstance(match, IntermediateMatch) for match in by_name.intermediate_matches)
    assert DistillationConfig(**by_name.to_dict()) == by_name


def test_a_configuration_takes_several_names_and_matches_beside_them() -> None:
    own = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "cos"}
    found = DistillationConfig(intermediate_matches=["L3_hidden_mse", own, "L3_hidden_smmd"]).intermediate_matches
    assert [match.loss for match in found] == ["hidden_mse"] * 4 + ["cos"] + ["mmd"] * 4


def test_an_unknown_set_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown set of matches 'L3_hiden_mse': did you mean 'L3_hidden_mse'"):
        named_matches("L3_hiden_mse")


def test_a_set_asked_for_twice_shares_nothing() -> None:
    named_matches("L4t_hidden_mse")[0]["proj"].append("changed")
    assert named_matches("L4t_hidden_mse")[0]["proj"] == ["linear", 312, 768]
    found = named_matches("L4t_hidden_mse")
    found[0]["proj"].append("changed")
    assert found[1]["proj"] == ["linear", 312, 768]


# Layer maps


@pytest.mark.parametrize("name", LAYER_MAPS)
@pytest.mark.parametrize(("teacher", "student"), [(12, 3), (12, 4), (24, 6), (6, 6), (7, 5), (1, 1)])
def test_a_map_of_hidden_states_is_its_pairs(name: str, teacher: int, student: int) -> None:
    found = match_layers(name, "hidden_mse", teacher_depth=teacher, student_depth=student)
    assert layers(found) == [tuple(pair) for pair in LAYER_MAPS[name](teacher, student)]
    assert layers(found)[0] == (0, 0) and found[-1]["layer_S"] == student
    assert {match["feature"] for match in found} == {"hidden"}


@pytest.mark.parametrize("loss", ["attention_mse", "attention_mse_sum", "attention_ce", "attention_ce_mean"])
@pytest.mark.parametrize("name", LAYER_MAPS)
@pytest.mark.parametrize(("teacher", "student"), [(12, 3), (12, 4), (24, 6), (5, 5)])
def test_a_map_of_attention_leaves_the_embeddings_out_and_counts_from_zero(loss: str, name: str, teacher: int,
                                                                           student: int) -> None:
    found = match_layers(name, loss, teacher_depth=teacher, student_depth=student)
    hidden = match_layers(name, "hidden_mse", teacher_depth=teacher, student_depth=student)
    assert layers(found) == [(t - 1, s - 1) for t, s in layers(hidden)[1:]]
    assert {match["feature"] for match in found} == {"attention"}
    assert all(0 <= t < teacher and 0 <= s < student for t, s in layers(found))


@pytest.mark.parametrize("loss", ["fsp", "gram", "nst", "mmd"])
def test_a_loss_between_two_layers_gets_the_same_twice(loss: str) -> None:
    found = match_layers("uniform", loss, teacher_depth=6, student_depth=2)
    assert layers(found) == [([0, 0], [0, 0]), ([3, 3], [1, 1]), ([6, 6], [2, 2])]


def test_pairs_may_count_from_the_top() -> None:
    pairs = [[-1, -1], (-12, 1), [0, -4]]
    found = match_layers(pairs, "cos", teacher_depth=12, student_depth=3)
    assert layers(found) == [(12, 3), (1, 1), (0, 0)]
    found = match_layers(pairs[:2], "attention_ce", teacher_depth=12, student_depth=3)
    assert layers(found) == [(11, 2), (0, 0)]


@pytest.mark.parametrize("pair", [[0, 0], [0, 1], [4, 0], [-13, 1], [4, -4]])
def test_attention_of_the_embeddings_is_refused(pair: list[int]) -> None:
    with pytest.raises(ConfigError, match="attention_mse: layer 0 is the embeddings, which have no attention map"):
        match_layers([[4, 1], pair], "attention_mse", teacher_depth=12, student_depth=3)


@pytest.mark.parametrize("loss", ["emd", "emd_cost_attention"])
@pytest.mark.parametrize("name", ["uniform", "first", "last"])
def test_transport_takes_all_layers_in_one_match(loss: str, name: str) -> None:
    found = match_layers(name, loss, teacher_depth=4, student_depth=2, weight=0.5, proj=["linear", 6, 8])
    assert found == [{"layer_T": [0, 1, 2, 3, 4], "layer_S": [0, 1, 2], "feature": "hidden", "loss": loss,
                      "weight": 0.5, "proj": ["linear", 6, 8]}]


@pytest.mark.parametrize("loss", ["emd", "hidden_mse", "attention_ce"])
def test_a_map_is_checked_for_every_loss(loss: str) -> None:
    with pytest.raises(PlanError, match="unknown layer map 'firsst': did you mean 'first'"):
        match_layers("firsst", loss, teacher_depth=4, student_depth=2)
    for depths in ({"teacher_depth": 4, "student_depth": 0}, {"teacher_depth": 0, "student_depth": 2}):
        with pytest.raises(PlanError, match=r"_depth=0: a layer map needs a \w+ with at least 1 layer"):
            match_layers("uniform", loss, **depths)


def test_pairs_for_a_loss_that_takes_all_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"emd takes all layers .* write 'uniform' instead of pairs"):
        match_layers([[4, 2]], "emd", teacher_depth=4, student_depth=2)


def test_weight_and_projection_are_those_of_every_match() -> None:
    found = match_layers("last", "hidden_mse", teacher_depth=4, student_depth=2, weight=0.25, proj=["relu", 6, 8])
    assert [match["weight"] for match in found] == [0.25] * 3
    assert [match["proj"] for match in found] == [["relu", 6, 8]] * 3


@pytest.mark.parametrize("loss", MATCH_LOSS_MAP)
def test_a_map_makes_settings_that_a_configuration_takes_for_every_loss(loss: str) -> None:
    found = match_layers("uniform", loss, teacher_depth=4, student_depth=2)
    matches = DistillationConfig(intermediate_matches=found).intermediate_matches
    assert [match.to_dict() for match in matches] == [IntermediateMatch(**match).to_dict() for match in found]
    assert len(matches) == (1 if loss.startswith("emd") else 2 if loss.startswith("attention") else 3)


def test_a_user_s_own_loss_is_one_layer_of_hidden_states_a_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MATCH_LOSS_MAP, "own", lambda state_S, state_T, mask=None: (state_S - state_T).abs().mean())
    found = match_layers([[4, 1]], "own", teacher_depth=4, student_depth=2)
    assert found == [{"layer_T": 4, "layer_S": 1, "feature": "hidden", "loss": "own", "weight": 1.0, "proj": None}]


@pytest.mark.parametrize("loss", ["hidden_mse", "attention_mse"])
def test_layers_that_do_not_exist_are_refused(loss: str) -> None:
    with pytest.raises(PlanError, match="the teacher has no layer 13: it has 12 layers"):
        match_layers([[13, 1]], loss, teacher_depth=12, student_depth=3)
    with pytest.raises(PlanError, match="unknown layer map 'unifrom'"):
        match_layers("unifrom", loss, teacher_depth=12, student_depth=3)


def test_an_unknown_loss_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown match loss 'hiden_mse': did you mean 'hidden_mse'"):
        match_layers("uniform", "hiden_mse", teacher_depth=12, student_depth=3)


def test_pairs_keep_the_numbers_of_layers() -> None:
    assert layer_pairs("uniform", "attention_ce", teacher_depth=12, student_depth=3) == ((4, 1), (8, 2), (12, 3))
    assert layer_pairs("uniform", "hidden_mse", teacher_depth=12, student_depth=3)[0] == (0, 0)
    assert layer_pairs([[-1, -1]], "attention_ce", teacher_depth=12, student_depth=3) == ((12, 3),)
