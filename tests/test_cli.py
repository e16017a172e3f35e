"""Promises of the command line: exit codes, one-screen messages, nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel, BertTokenizer

from stillhouse import __version__, cli, recipe
from stillhouse.errors import ConfigError
from stillhouse.tasks.pretrained import quiet_transformers

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
LABELS = ("left", "right")


def save_encoder(folder: Path, words: list[str]) -> str:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=16)
    with quiet_transformers():
        BertModel(config).save_pretrained(folder)
        BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_encoder(tmp_path_factory.mktemp("encoder"), WORDS)


@pytest.fixture
def values(encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A recipe that works, in a current directory of its own."""
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"{'abcd'[i % 4]} {'efgh'[i // 4 % 4]}", "label": LABELS[i % 2]} for i in range(16)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "task": "text-classification",
        "teacher": {"model": encoder, "train": {"epochs": 1, "learning_rate": 1e-3, "precision": "fp32"}},
        "student": {"layers": [0]},
        "data": {"train": "rows.jsonl", "validation": "rows.jsonl", "max_length": 8},
        "training": {"epochs": 2, "batch_size": 4, "precision": "fp32", "device": "cpu"},
        "output": "run",
    }


def written(tmp_path: Path, values: dict[str, Any], **changes: Any) -> str:
    """A recipe file; a mapping is merged into its section."""
    for name, change in changes.items():
        merge = isinstance(change, dict) and name != "student"
        values = {**values, name: {**values.get(name, {}), **change} if merge else change}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return "recipe.yaml"


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.runs
def test_run_and_plan_and_seeds(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, values)
    before = files_in(tmp_path)
    assert cli.main(["plan", path]) == 0
    said = capsys.readouterr().out
    assert "to be fine-tuned for 1 epochs" in said and "1 layer x 16" in said and "8 steps of 4 rows" in said
    assert "teacher: logits[0]; student: logits[0]" in said and "a row" in said and "train 16" in said
    assert files_in(tmp_path) == before

    assert cli.main(["run", path, "--set", "training.epochs=1", "--seeds", "0,1"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    accuracies = [json.loads((tmp_path / "run" / f"seed-{seed}" / "metrics.json").read_text())["student"]["accuracy"]
                  for seed in (0, 1)]
    assert summary["seeds"] == [0, 1]
    assert summary["mean"]["student.accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert summary["std"]["student.accuracy"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5)
    assert summary["std"]["teacher.accuracy"] == 0
    assert yaml.safe_load((tmp_path / "run" / "seed-1" / "recipe.yaml").read_text())["training"]["seed"] == 1
    said = capsys.readouterr().err
    assert "accuracy over the seeds 0, 1, mean ± standard deviation:\n" in said
    mean, std = summary["mean"], summary["std"]
    assert f"teacher     {mean['teacher.accuracy']:.4f} ± 0.0000\n" in said
    assert f"student     {mean['student.accuracy']:.4f} ± {std['student.accuracy']:.4f}\n" in said
    assert f"retention   {mean['retention']:.4f} ± {std['retention']:.4f}\n" in said
    assert "summary: run/summary.json" in said

    capsys.readouterr()
    assert cli.main(["run", path, "--set", "training.epochs=1", "--seeds", "0,1"]) == 2
    assert "holds a finished run; give --resume" in capsys.readouterr().err
    assert cli.main(["run", path, "--set", "training.epochs=1", "--seeds", "0,1", "--resume"]) == 0


def write_lines(name: str, *rows: Any) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows)))


def void(_: object) -> None:
    """Make a callback of something that returns a value."""


def save_other_student(folder: Path) -> None:
    save_encoder(folder / "other", [*WORDS[:5], *(2 * letter for letter in WORDS[5:])])


BAD_INPUTS: list[tuple[str, dict[str, Any], Callable[[Path], None] | None, list[str]]] = [
    ("missing file", {"data": {"train": "none.jsonl"}}, None, ["none.jsonl"]),
    ("wrong column", {"data": {"text": "sentence"}}, None, ["'sentence'", "label, text"]),
    ("label outside", {"data": {"train": "bad.jsonl", "validation": "bad.jsonl", "label_names": ["x", "y"]}},
     write_lines("bad.jsonl", {"text": "a", "label": 0}, {"text": "b", "label": 2}), ["bad.jsonl", "2"]),
    ("empty data", {"data": {"train": "empty.jsonl"}}, write_lines("empty.jsonl"), ["empty.jsonl"]),
    ("unknown recipe key", {"training": {"epoch": 3}}, None, ["training.epoch: unknown key; did you mean 'epochs'?"]),
    ("unknown shape", {"student": {"shape": "T33"}}, None, ["unknown shape 'T33'", "T12-nano"]),
    ("unknown loss", {"distillation": {"matches": {"losses": ["hidden"]}}}, None,
     ["unknown match loss 'hidden': did you mean 'hidden_mse'?"]),
    ("unknown task", {"task": "text-clasification"}, None, ["did you mean 'text-classification'?"]),
    ("unknown device", {"training": {"device": "gpu"}}, None, ["device 'gpu' is not supported"]),
    ("missing model", {"teacher": {"model": "./nowhere"}}, None, ["teacher.model: model './nowhere'"]),
    ("missing student", {"student": {"model": "./nowhere"}}, None, ["student.model: model './nowhere'"]),
    ("a word as cache", {"cache": "memroy"}, None, ["cache: 'memroy': did you mean memory?"]),
    ("other vocabulary", {"student": {"model": "other"}, "distillation": {"matches": {"losses": ["nst"]}}},
     save_other_student, ["the student's vocabulary is not the teacher's", "8 of 13 ids differ; id 5 is 'a' in the "
                          "teacher's, 'aa' in the student's", "take the matches out", "{shape: T3}"]),
    ("missing layer", {"distillation": {"matches": {"layers": [[3, 1]], "losses": ["nst"]}}}, None,
     ["the teacher has no layer 3"]),
    ("untrained teacher", {"teacher": {"train": None}}, None, ["no trained head", "train: {epochs"]),
    ("not a number", {"training": {"learning_rate": 1e30, "max_grad_norm": None, "warmup": 0}}, None,
     ["the loss is nan", "a lower learning rate"]),
    ("too long", {"data": {"max_length": 100}}, None, ["max_length"]),
]


@pytest.mark.runs
@pytest.mark.parametrize(("changes", "prepare", "expected"), [case[1:] for case in BAD_INPUTS],
                         ids=[case[0] for case in BAD_INPUTS])
def test_bad_input_is_a_short_message_and_leaves_nothing(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any],
    prepare: Callable[[Path], None] | None, expected: list[str],
) -> None:
    if prepare is not None:
        prepare(tmp_path)
    path = written(tmp_path, values, **changes)
    before = files_in(tmp_path)
    assert cli.main(["run", path]) == 2
    message = capsys.readouterr().err
    last = message[message.index("error: "):]
    assert all(part in last for part in expected), last
    assert "Traceback" not in message and last.count("\n") < 12
    left = {name for name in files_in(tmp_path) - before if not name.startswith("cache")}
    assert left == set()
    assert not any(".writing" in name for name in files_in(tmp_path))
    if "the loss is nan" not in expected:
        assert files_in(tmp_path) == before
        assert cli.main(["plan", path]) == 2


def test_debug_shows_the_traceback(values: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path, values, training={"epoch": 1})
    for arguments in (["--debug", "run", path], ["run", path, "--debug"]):
        with pytest.raises(ConfigError, match="unknown key"):
            cli.main(arguments)


def test_an_error_nobody_foresaw_is_one_line(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space\nleft on device")

    monkeypatch.setattr(recipe, "run", full)
    path = written(tmp_path, values)
    assert cli.main(["run", path]) == 1
    assert capsys.readouterr().err == ("unexpected error: OSError: [Errno 28] No space left on device "
                                       "(run with --debug for the traceback)\n")
    with pytest.raises(OSError, match="No space"):
        cli.main(["run", path, "--debug"])


def test_an_interruption_says_how_to_go_on(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "run", interrupted)
    assert cli.main(["run", written(tmp_path, values)]) == 130
    assert capsys.readouterr().err == "interrupted; run again with --resume to go on\n"


def test_a_warning_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    def warn(*_: Any, **__: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("look here", stacklevel=1)

    monkeypatch.setattr(recipe, "load_recipe", warn)
    monkeypatch.setattr(recipe, "plan", lambda _: "planned")
    assert cli.main(["plan", "any.yaml"]) == 0
    assert capsys.readouterr().err == "warning: look here\n"


@pytest.mark.parametrize(("arguments", "code", "expected"), [
    (["--version"], 0, f"stillhouse {__version__}"),
    (["--help"], 0, "plan"),
    (["run", "--help"], 0, "--seeds"),
    (["rnu"], 2, "rnu"),
    (["run"], 2, "RECIPE"),
    (["run", "none.yaml"], 2, "there is no file none.yaml"),
    (["run", "none.yaml", "--seeds", "a,b"], 2, "as in --seeds 0,1,2"),
    (["run", "none.yaml", "--seeds", "1,1"], 2, "give different whole numbers"),
    (["run", "none.yaml", "--epochs", "3"], 2, "To change a value of the recipe, write --set training.epochs=VALUE\n"),
    (["plan", "none.yaml", "--batch-size=3"], 2, "--set training.batch_size=VALUE"),
    (["run", "none.yaml", "--label", "x"], 2, "--set data.label=VALUE"),
    (["run", "none.yaml", "--zzz"], 2, "--set PATH=VALUE, as in --set training.epochs=3"),
])
def test_the_command_line_answers(
    arguments: list[str], code: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == code
    captured = capsys.readouterr()
    assert expected in captured.out + captured.err


@pytest.mark.parametrize("arguments", [["run", "none.yaml", "--epochs", "3"], ["run"], ["inspect", "x", "--epochs"]])
def test_only_an_unknown_option_is_answered_with_set(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert ("--set" in capsys.readouterr().err) == ("none.yaml" in arguments)


@pytest.mark.runs
def test_one_stage_is_planned_and_run_alone(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, values, stages=[{"name": "one"}, {"name": "two", "student": {"run": "one"}}])
    assert cli.main(["plan", path, "--stage", "one"]) == 0
    said = capsys.readouterr().out
    assert "stage " not in said and "\noutput    run/one" in said
    assert cli.main(["plan", path, "--stage", "two"]) == 2
    assert "run/one/student" in capsys.readouterr().err
    assert cli.main(["run", path, "--stage", "three"]) == 2
    assert "unknown stage 'three'. Known: one, two" in capsys.readouterr().err
    assert cli.main(["run", path, "--stage", "one", "--seeds", "0,1"]) == 2
    assert "--seeds runs all stages" in capsys.readouterr().err
    assert cli.main(["run", path, "--stage", "one", "--set", "training.epochs=1"]) == 0
    assert {item.name for item in (tmp_path / "run").iterdir()} == {"one"}


def test_inspect_prints_a_table_or_nothing_but_json(encoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", encoder, "--depth", "1"]) == 0
    said = capsys.readouterr()
    assert "BertModel" in said.out and "    encoder" in said.out and "      layer" not in said.out and not said.err
    assert cli.main(["inspect", encoder, "--beside", encoder, "--sequence-length", "8", "--json"]) == 0
    said = capsys.readouterr()
    values = json.loads(said.out)
    assert values["sequence_length"] == 8 and values["beside"]["rows"] == values["rows"]
    assert values["comparison"]["parameters_percent"] == 100 and not said.err


@pytest.mark.filterwarnings("default")
def test_inspect_says_aside_that_there_are_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    BertConfig(hidden_size=16, num_attention_heads=2).save_pretrained(tmp_path)
    assert cli.main(["inspect", str(tmp_path), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["model"] == "BertModel"
    assert said.err.startswith("warning: ") and "holds no weights" in said.err


@pytest.mark.parametrize(("arguments", "expected"), [
    (["./nowhere"], "there is no folder"), (["{tmp}"], "holds no config.json"),
    (["{encoder}", "--depth", "-1"], "depth=-1"), (["{encoder}", "--depth", "x"], "'--depth'"),
    (["{encoder}", "--sequence-length", "0"], "sequence_length=0"),
])  # fmt: skip
def test_inspect_refuses_on_one_line(
    encoder: str, tmp_path: Path, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(tmp=tmp_path, encoder=encoder) for word in arguments]
    assert cli.main(["inspect", *words]) == 2
    said = capsys.readouterr()
    assert expected in said.err and not said.out and "Traceback" not in said.err


def test_help_imports_nothing_heavy() -> None:
    program = ("import sys; from stillhouse import cli; code = cli.main(['--help']); "
               "heavy = {'torch', 'transformers', 'datasets', 'pydantic', 'numpy'} & set(sys.modules); "
               "sys.exit(f'loaded {heavy}' if heavy or code else 0)")
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
