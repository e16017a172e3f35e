"""Made-up rows of every kind of task, of whatever words a test's models know."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Words = Callable[[random.Random, int], list[str]]
"""Draws at least two words, at most so many."""

_MOST = 8


@dataclass(frozen=True)
class Kind:
    """A task, its settings, how a row of a split is drawn, and what a student of it learns."""

    task: str
    row: Callable[[random.Random, str], Row]
    data: Mapping[str, Any] = field(default_factory=dict)
    distillation: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, counts: Mapping[str, int]) -> dict[str, Path]:
        """A file for each split, with so many rows; the same for the same words."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {split: folder / f"{split}.jsonl" for split in counts}
        for split, path in files.items():
            draw = random.Random(split)
            path.write_text("".join(json.dumps(self.row(draw, split)) + "\n" for _ in range(counts[split])), "utf-8")
        return files


def kinds(words: Words) -> dict[str, Kind]:
    """A kind of each task, and of each kind of label."""
    def text(draw: random.Random, most: int = _MOST) -> str:
        return " ".join(words(draw, most))

    def question(draw: random.Random, split: str) -> Row:
        parts = [words(draw, _MOST) for _ in range(3)]
        answer = {"text": [" ".join(parts[1][:2])], "answer_start": [len(" ".join(parts[0])) + 1]}
        return {"question": text(draw, 5), "context": " ".join(" ".join(part) for part in parts), "answers": answer}

    def sentence(draw: random.Random, split: str) -> Row:
        if split == "train":
            return {"text": text(draw)}
        return {"sentence1": text(draw), "sentence2": text(draw), "score": round(draw.random(), 3)}

    def tagged(draw: random.Random, split: str) -> Row:
        found = words(draw, _MOST)
        return {"tokens": found, "tags": [draw.choice(["O", "B-X", "I-X"]) for _ in found]}

    return {
        "single": Kind("text-classification",
                       lambda draw, split: {"note": text(draw), "more": text(draw), "colour": draw.choice("xyz")},
                       {"text": "note", "text_pair": "more", "label": "colour", "label_names": ["x", "y", "z"]}),
        "multi": Kind("text-classification",
                      lambda draw, split: {"text": text(draw), "label": draw.sample("xyz", draw.randrange(4))},
                      {"labels": "multi", "label_names": ["x", "y", "z"]}, {"loss": "bernoulli_kl"}),
        "regression": Kind("text-classification",
                           lambda draw, split: {"text": text(draw), "label": round(draw.random(), 3)},
                           {"labels": "regression"}, {"loss": "mse"}),
        "tags": Kind("token-classification", tagged, {"label_names": ["O", "B-X", "I-X"]}),
        "questions": Kind("question-answering", question,
                          {"stride": 3, "max_question_length": 6, "max_answer_length": 5}),
        "choices": Kind("multiple-choice", lambda draw, split: {
            "question": text(draw), "choices": [text(draw, 4) for _ in range(3)], "label": draw.choice("ABC")}),
        "sentences": Kind("sentence-embedding", sentence, {}, {"embedding": {"mse": 1}}),
        "masks": Kind("masked-lm", lambda draw, split: {"text": text(draw)}, {"pack": False}),
    }
