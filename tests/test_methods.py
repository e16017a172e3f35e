"""Promises of citations: every method that names a paper is cited, and only what a recipe uses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from stillhouse import methods
from stillhouse.losses.embeddings import EMBEDDING_LOSSES
from stillhouse.presets import KD_LOSS_MAP, MATCH_LOSS_MAP, TEMPERATURE_SCHEDULER, KDPreset, MatchPreset
from stillhouse.students.shapes import SHAPES

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def shipped_losses() -> Iterator[tuple[str, str, str | None, Mapping[str, tuple[methods.Paper, ...]]]]:
    for name, preset in {**KD_LOSS_MAP, **MATCH_LOSS_MAP}.items():
        if isinstance(preset, (KDPreset, MatchPreset)):
            table = methods.LOGIT_LOSSES if isinstance(preset, KDPreset) else methods.LAYER_LOSSES
            yield name, "preset", preset.loss.paper, table
    for name, loss in EMBEDDING_LOSSES.items():
        yield name, "embedding", loss.paper, methods.EMBEDDING_LOSSES


@pytest.mark.parametrize(("name", "paper", "table"), [
    pytest.param(name, paper, table, id=f"{kind}-{name}") for name, kind, paper, table in shipped_losses()])
def test_every_loss_that_names_a_paper_is_cited_with_it(
        name: str, paper: str | None, table: Mapping[str, tuple[methods.Paper, ...]]) -> None:
    cited = table.get(name, ())
    if paper is None:
        assert set(cited) <= {methods.TEXTBREWER}
        return
    assert {one.arxiv for one in cited if one.arxiv} == set(ARXIV.findall(paper))
    for one in cited:
        assert one.authors[0].partition(",")[0] in paper and str(one.year) in paper


def test_every_name_that_is_cited_is_a_name_of_the_package() -> None:
    assert set(methods.STRATEGIES) <= set(TEMPERATURE_SCHEDULER)
    assert set(methods.SHAPES) == set(SHAPES)
    assert set(methods.LAYER_LOSSES) <= set(MATCH_LOSS_MAP)
    assert set(methods.LOGIT_LOSSES) <= set(KD_LOSS_MAP)


def keys(recipe: dict[str, Any]) -> list[str]:
    return [one.paper.key for one in methods.citations(recipe)]


def test_the_system_is_cited_first_and_always() -> None:
    assert keys({"distillation": {"loss_weight": 0}}) == ["yang2020textbrewer"]


@pytest.mark.parametrize(("recipe", "expected"), [
    ({"task": "text-classification"}, "hinton2015distilling"),
    ({"task": "text-classification", "data": {"labels": "regression"}}, "ba2014deep"),
    ({"task": "sentence-embedding"}, "tung2019similarity"),
    ({"distillation": {"probability_shift": True}}, "wen2019preparing"),
    ({"distillation": {"temperature_strategy": ["flsw", 1, 2]}}, "wen2019preparing"),
    ({"distillation": {"matches": [{"losses": ["nst"]}]}}, "huang2017like"),
    ({"distillation": {"matches": [{"losses": ["emd"]}]}}, "li2020bertemd"),
    ({"teacher": {"model": "bert", "seeds": [0, 1]}}, "you2017learning"),
    ({"student": {"network": "BiLSTM"}}, "tang2019distilling"),
    ({"augmentation": {"functions": [{"masking": {"p": 0.1}}]}}, "tang2019distilling"),
])
def test_what_a_recipe_uses_is_cited(recipe: dict[str, Any], expected: str) -> None:
    assert expected in keys(recipe)
    assert expected not in keys({"distillation": {"loss_weight": 0}})


def test_losses_whose_weight_is_zero_are_not_cited() -> None:
    assert "hinton2015distilling" not in keys({"distillation": {"loss_weight": 0.0, "loss": "ce"}})
    assert "park2019relational" not in keys(
        {"task": "sentence-embedding", "distillation": {"embedding": {"mse": 1, "relation": 0}}})


@pytest.mark.parametrize("weight", [0, {"nst": 0.0, "hidden_mse": 1.0}])
def test_a_match_whose_weight_is_zero_is_not_cited(weight: Any) -> None:
    match = {"losses": ["nst", "hidden_mse"], "weight": weight}
    found = keys({"distillation": {"matches": [match]}})
    assert "huang2017like" not in found
    assert ("jiao2020tinybert" in found) is bool(weight)


def test_a_paper_of_several_stages_is_cited_once_with_all_its_uses() -> None:
    stages = [{"student": {"shape": shape}} for shape in ("T3", "T4-tiny")]
    first = methods.citations({"stages": stages})[0]
    assert first.used_for == ("the system", "the shape T3", "the shape T4-tiny")


def test_a_bibtex_entry_closes_every_brace_and_keeps_the_titles_capitals() -> None:
    every = {paper.key: paper for table in (
        methods.LOGIT_LOSSES, methods.LAYER_LOSSES, methods.EMBEDDING_LOSSES, methods.STRATEGIES, methods.SHAPES,
        methods.AUGMENTATIONS, methods.NETWORKS) for papers in table.values() for paper in papers}
    assert len({paper.title for paper in every.values()}) == len(every)
    for key, paper in every.items():
        assert paper.bibtex.startswith(("@inproceedings{" + key, "@misc{" + key))
        assert paper.bibtex.count("{") == paper.bibtex.count("}")
        assert "{{" + paper.title + "}}" in paper.bibtex
        assert paper.venue or paper.arxiv
