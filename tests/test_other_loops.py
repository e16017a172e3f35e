"""The page on other people's loops runs, and each of them trains the same student."""

from __future__ import annotations

import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
)

from stillhouse import FitOptions, fit
from stillhouse.training import Bundle, LoaderSource
from tests.two_ranks import results_of_two_ranks

PAGE = (Path(__file__).parents[1] / "docs" / "other-loops.md").read_text(encoding="utf-8")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a"]


def blocks(heading: str) -> list[str]:
    """The code of one section."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


def run(names: dict[str, Any], *headings: str) -> dict[str, Any]:
    for heading in headings:
        for block in blocks(heading):
            exec(compile(block, f"other-loops.md, {heading}", "exec"), names)
    return names


def make_teacher() -> None:
    """A tiny teacher without dropout in ``my-teacher``."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=6, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=16, num_labels=2, hidden_dropout_prob=0.0,
                        attention_probs_dropout_prob=0.0, initializer_range=0.3)
    BertForSequenceClassification(config).save_pretrained("my-teacher")
    Path("vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    BertTokenizerFast(vocab="vocab.txt").save_pretrained("my-teacher")


def ragged_rows(n: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 10, (n,), generator=generator).tolist()
    return [{"input_ids": torch.randint(5, len(WORDS), (length,), generator=generator).tolist(),
             "attention_mask": [1] * length, "label": i % 2} for i, length in enumerate(lengths)]


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    padded = {name: torch.tensor([row[name] + [0] * (longest - len(row[name])) for row in rows])
              for name in ("input_ids", "attention_mask")}
    return padded | {"labels": torch.tensor([row["label"] for row in rows])}


def beginning() -> dict[str, Any]:
    """The names that the page takes from its reader, and its teacher; in float64, where sums hardly round."""
    from stillhouse import StudentSpec, build_student

    make_teacher()
    return {"loader": torch.utils.data.DataLoader(ragged_rows(20), batch_size=4, collate_fn=collate),
            "teacher": AutoModelForSequenceClassification.from_pretrained("my-teacher").double(),
            "StudentSpec": StudentSpec, "build_student": lambda model, spec: build_student(model, spec).double()}


def weights(bundle: Bundle) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in bundle.parameters()])


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return run(beginning(), "A plan", "Plain PyTorch")


@pytest.mark.runs
def test_the_trainer_of_the_page_trains_and_its_student_is_a_model(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_teacher()
    data = Dataset.from_list(ragged_rows(20))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'pin_memory' argument")
        trainer = run({"train_data": data, "validation_data": data}, "transformers.Trainer")["trainer"]
    assert trainer.plan.teacher.rows_forwarded == 20 and trainer.state.global_step == 4
    logged = {name for log in trainer.state.log_history for name in log}
    assert {"loss/kd", "loss/hard", "loss/hidden_mse 6-3", "eval_loss"} <= logged
    loaded = AutoModelForSequenceClassification.from_pretrained("student")
    assert loaded.config.num_hidden_layers == 3
    assert not list(Path("student").glob("distillation*"))


@pytest.mark.runs
def test_the_plain_loop_trains_as_our_own_does(names: dict[str, Any]) -> None:
    plan = names["new_plan"]()
    bundle = Bundle(plan)
    assert not torch.allclose(weights(bundle), weights(names["plain"]), atol=1e-4)
    fit(plan, LoaderSource(names["loader"]), torch.optim.AdamW(bundle.parameters(), lr=1e-3),
        FitOptions(num_epochs=2, accumulation=2, max_grad_norm=1.0))
    torch.testing.assert_close(weights(bundle), weights(names["plain"]), rtol=1e-9, atol=1e-12)
    assert AutoModelForSequenceClassification.from_pretrained("plain-student").config.num_hidden_layers == 3


@pytest.mark.runs
def test_accelerate_trains_as_the_plain_loop_does(names: dict[str, Any]) -> None:
    run(names, "accelerate")
    torch.testing.assert_close(weights(names["accelerated"]), weights(names["plain"]), rtol=1e-9, atol=1e-12)


@pytest.mark.runs
@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_as_the_plain_loop_does(names: dict[str, Any]) -> None:
    pytest.importorskip("lightning")
    run(names, "Lightning")
    torch.testing.assert_close(weights(names["module"].bundle), weights(names["plain"]), rtol=1e-9, atol=1e-12)
    assert not any("teacher" in name for name in names["module"].state_dict())
    assert AutoModelForSequenceClassification.from_pretrained("lightning-student").config.num_hidden_layers == 3


@pytest.mark.distributed
def test_accelerate_on_two_ranks_trains_as_one_process_with_all_rows(tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks with two batches each a step are one process with four."""
    ranks = results_of_two_ranks("tests.test_other_loops", tmp_path)
    monkeypatch.chdir(tmp_path)
    names = beginning()
    names["loader"] = torch.utils.data.DataLoader(ragged_rows(16), batch_size=16, collate_fn=collate)
    run(names, "A plan", "Plain PyTorch")
    for rank in ranks:
        assert rank["processes"] == 2
        torch.testing.assert_close(rank["weights"], weights(names["plain"]), rtol=1e-7, atol=1e-9)


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": os.environ["RANK"], "ACCELERATE_USE_CPU": "true"}  # as its launcher does
    folder = Path(sys.argv[1])
    own = folder / f"own-{os.environ['RANK']}"
    own.mkdir()
    os.chdir(own)
    given = beginning()
    given["loader"] = torch.utils.data.DataLoader(ragged_rows(16), batch_size=4, collate_fn=collate)
    run(given, "A plan", "Plain PyTorch")
    run(given, "accelerate")
    torch.save({"weights": weights(given["accelerated"]), "processes": given["accelerator"].num_processes},
               folder / f"rank{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()
