"""The page on extending the package is true: its code runs, its recipe trains, and plugins run only when allowed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from stillhouse import plugins, presets
from stillhouse.cli import main
from stillhouse.config import DistillationConfig
from stillhouse.errors import ConfigError, PlanError
from stillhouse.recipe import load_recipe, run
from stillhouse.types import Key

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
BEFORE_THE_RECIPE = PAGE.split("## In a recipe")[0]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a"]


def blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(autouse=True)
def untouched_maps() -> Iterator[None]:
    """Names that a test registers are gone after it."""
    maps: list[Any] = [presets.KD_LOSS_MAP, presets.MATCH_LOSS_MAP, presets.PROJ_MAP, presets.WEIGHT_SCHEDULER,
                       presets.TEMPERATURE_SCHEDULER, presets.TEACHER_FUNCTIONS]
    before = [set(names) for names in maps]
    yield
    for names, kept in zip(maps, before, strict=True):
        for name in set(names) - kept:
            del names[name]
    plugins._loaded.clear()
    plugins.load_installed.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny teacher, a CSV, the page's plugin file and its recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=4, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=128, num_labels=2,
                        id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    BertForSequenceClassification(config).save_pretrained("my-teacher")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained("my-teacher")
    rows = [f"a {word} film,{word}" for word in ("good", "bad")] * 10
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (tmp_path / "my_losses.py").write_text("\n".join(blocks("python", BEFORE_THE_RECIPE)))
    (tmp_path / "recipe.yaml").write_text(blocks("yaml")[0])
    return tmp_path


@pytest.mark.runs
def test_the_pages_code_runs_in_order() -> None:
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(compile(block, "extending.md", "exec"), names)
    assert names["result"].steps == 4
    with pytest.raises(PlanError, match=r"no hidden\[1\]"):
        names["plan"].teacher.check(frozenset({Key("hidden", 1)}))
    with pytest.raises(PlanError, match="2 layers"):
        names["EncoderAdaptor"]().check(names["student"], frozenset({Key("hidden", 2)}))
    config = DistillationConfig(kd_loss_type="reverse_kl", kd_loss_weight_scheduler="cosine_decay",
                                temperature_scheduler=["by_entropy", 0.5],
                                intermediate_matches=[{"layer_T": 1, "layer_S": 1, "feature": "hidden", "weight": 1,
                                                       "loss": "smooth_l1", "proj": ["two_layers", 8, 16]}])
    assert config.to_dict()["temperature_scheduler"] == ["by_entropy", 0.5]


@pytest.mark.runs
def test_the_recipe_trains_with_its_plugin(folder: Path) -> None:
    found = run(load_recipe("recipe.yaml", allow_plugins=True))
    events = (folder / "runs/extended/events.jsonl").read_text()
    assert "hidden_l1 2-1" in events and "smooth_l1 4-2" in events and "kd" in events
    assert len(found.metrics["versions"]["plugin my_losses.py"].removeprefix("sha256 ")) == 64


class TestAllowed:
    def test_a_recipe_with_plugins_is_refused_and_nothing_runs(self, folder: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "my_losses.py").write_text("open('ran', 'w').close()")
        assert main(["plan", "recipe.yaml"]) == 2
        assert "my_losses.py would be run as Python code" in capsys.readouterr().err
        assert not (folder / "ran").exists()

    def test_the_flag_allows_them(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["plan", "recipe.yaml", "--allow-plugins"]) == 0
        assert "hidden[4]" in capsys.readouterr().out

    def test_plugins_of_a_stage_are_plugins(self, folder: Path) -> None:
        values = yaml.safe_load((folder / "recipe.yaml").read_text())
        values["stages"] = [{"name": "first", "plugins": values.pop("plugins")}]
        (folder / "staged.yaml").write_text(yaml.safe_dump(values))
        with pytest.raises(ConfigError, match="allow-plugins"):
            load_recipe("staged.yaml")
        load_recipe("staged.yaml", allow_plugins=True)

    def test_a_file_is_run_once_for_each_content(self, tmp_path: Path) -> None:
        counter = tmp_path / "count.py"
        counter.write_text("import builtins\nbuiltins.times = getattr(builtins, 'times', 0) + 1\n")
        for _ in range(2):
            plugins.load_files([counter])
        counter.write_text(counter.read_text() + "# changed\n")
        plugins.load_files([counter])
        import builtins

        assert builtins.times == 2  # type: ignore[attr-defined]
        del builtins.times  # type: ignore[attr-defined]

    @pytest.mark.parametrize(("content", "message"), [
        ("x = 1\nundefined\n", "line 2: NameError"),
        ("def f(:\n", "line 1: SyntaxError"),
        (None, "is no Python file"),
    ])
    def test_a_plugin_that_cannot_be_loaded_says_where(self, tmp_path: Path, content: str | None,
                                                       message: str) -> None:
        path = tmp_path / "mine.py"
        if content is not None:
            path.write_text(content)
        with pytest.raises(ConfigError, match=message):
            plugins.load_files([path])
        assert not plugins.loaded_files()


class TestInstalled:
    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """An installed package with an entry point."""
        info = tmp_path / "shiny-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shiny\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[stillhouse.plugins]\nshiny = shiny:extend\n")
        (tmp_path / "shiny.py").write_text(
            "from stillhouse import register_new\n\n\ndef extend():\n"
            "    register_new('kd_loss', 'shiny_kd', lambda s, t, temperature=1: (s - t).abs().mean())\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        plugins.load_installed.cache_clear()
        yield tmp_path
        sys.modules.pop("shiny", None)

    def test_a_name_of_an_installed_package_is_known(self, package: Path) -> None:
        assert DistillationConfig(kd_loss_type="shiny_kd").kd_loss_type == "shiny_kd"

    def test_a_broken_one_warns_and_the_rest_goes_on(self, package: Path) -> None:
        (package / "shiny.py").write_text("raise RuntimeError('broken')\n")
        with pytest.warns(UserWarning, match="'shiny'.*broken"), pytest.raises(ConfigError, match="shiny_kd"):
            DistillationConfig(kd_loss_type="shiny_kd")
        assert DistillationConfig(kd_loss_type="ce").kd_loss_type == "ce"
