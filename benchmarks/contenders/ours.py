"""Our own run of a recipe, in seven variants. Nothing is left out: teacher, cache, loop and log are those of a user."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.setting import Job
from benchmarks.turns import Pace, until_stopped


@dataclass(frozen=True)
class Variant:
    """What is distilled, and where in training the timed steps lie.

    Attributes:
        cached: whether the teacher's answers are kept.
        skipped_epochs: how many epochs go by before the timed one; the first fills the cache.
        matches: whether layers are matched; the logits alone otherwise.
        taught: whether there is a teacher at all; the labels alone otherwise.
        all_rows: whether AdamW updates every word embedding at each step, as other loops do.
        cache_of: the variant whose cache is read; its own if nothing is said.
        seed: added to the setting's seed, for another student.
    """

    cached: bool = False
    skipped_epochs: int = 0
    matches: bool = True
    taught: bool = True
    all_rows: bool = False
    cache_of: str = ""
    seed: int = 0


VARIANTS = {
    "first-epoch": Variant(cached=True),
    "later-epochs": Variant(cached=True, skipped_epochs=1),
    "second-student": Variant(cached=True, cache_of="later-epochs", seed=1),
    "live": Variant(),
    "live-all-rows": Variant(all_rows=True),
    "later-logits": Variant(cached=True, skipped_epochs=1, matches=False),
    "labels": Variant(skipped_epochs=1, taught=False),  # so that it reads the batches that later epochs read
}


def recipe_values(job: Job, name: str) -> dict[str, Any]:
    """The recipe of a variant, with our defaults wherever the comparison does not ask for something."""
    variant, setting, folder = VARIANTS[name], job.setting, job.folder
    student = setting.student
    learned: dict[str, Any] = {"temperature": setting.temperature}
    if variant.matches:
        learned["matches"] = {"layers": [list(pair) for pair in setting.pairs], "losses": ["hidden_mse", "nst"]}
    return {
        "task": "text-classification",
        "teacher": {"model": str(folder / "teacher")},
        "student": {"num_hidden_layers": student.layers, "hidden_size": student.width,
                    "num_attention_heads": student.heads, "intermediate_size": student.intermediate},
        "data": {"train": str(folder / "train.jsonl"), "validation": str(folder / "validation.jsonl"),
                 "text": "sentence", "label": "label", "label_names": ["negative", "positive"],
                 "max_length": setting.max_length},
        "distillation": learned if variant.taught else {"loss_weight": 0, "hard_label_weight": 1},
        "training": {"epochs": 1 + variant.skipped_epochs, "batch_size": setting.batch_size,
                     "learning_rate": setting.learning_rate, "seed": job.seed + variant.seed,
                     "embedding_updates": "all" if variant.all_rows else "auto"},
        "cache": str(folder / f"cache-{variant.cache_of or name}") if variant.cached else "off",
        "output": str(folder / f"run-{name}"),
    }


def main() -> None:
    """Train until no more turns are wanted."""
    job, name = Job.read(Path(sys.argv[1])), sys.argv[2]
    Pace(job, job.warmup_steps + VARIANTS[name].skipped_epochs * job.num_steps).start()
    from stillhouse.recipe import Recipe, run

    with until_stopped():
        run(Recipe.from_dict(recipe_values(job, name)), overwrite=True)


if __name__ == "__main__":
    main()
