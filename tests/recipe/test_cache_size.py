"""Promises of the estimate of a cache: it is what the stores really take, whatever a teacher says of a row."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch

from stillhouse.adaptors import GramOutputs, gram_key
from stillhouse.recipe.cache_size import AnswerSizes
from stillhouse.tasks import TASKS, EncodedSplit, Task
from stillhouse.teachers import CachedTeacher, EnsembleTeacher, LiveTeacher, TeacherSource
from stillhouse.teachers.stores import LmdbStore, MemoryStore, SignalStore, encode
from stillhouse.types import ATTENTION_SCORES, LOGITS, Batch, Key

from .conftest import WORDS

LETTERS = WORDS[5:]
ALL_LOGITS = Key("logits")
NUM_ROWS = 200


def texts(seed: int) -> list[list[str]]:
    """Of 4 to 26 words, no two alike."""
    draw = random.Random(seed)
    found: dict[str, list[str]] = {}
    while len(found) < NUM_ROWS:
        words = draw.choices(LETTERS, k=draw.randint(4, 26))
        found[" ".join(words)] = words
    return list(found.values())


def rows_of(name: str) -> list[dict[str, Any]]:
    if name == "token-classification":
        return [{"tokens": words, "tags": [word if word in "abc" else "o" for word in words]} for words in texts(0)]
    if name == "question-answering":
        return [{"question": " ".join(words[:2]), "context": " ".join(words), "answers": {"text": [words[0]],
                                                                                          "answer_start": [0]}}
                for words in texts(0)]
    if name == "multiple-choice":
        return [{"question": " ".join(words[:4]), "choices": [" ".join(words), words[0], words[1]], "label": 0}
                for words in texts(0)]
    return [{"text": " ".join(words), "label": sorted("abc")[i % 3], "sentence1": words[0], "sentence2": words[1],
             "score": 1.0} for i, words in enumerate(texts(0))]


def loaded(name: str, write: Any, encoder: str) -> tuple[Task[Any], EncodedSplit]:
    path = write(f"{name}.jsonl", rows_of(name))
    changes: dict[str, Any] = {"max_length": 32, "validation": path}
    if name == "question-answering":
        changes |= {"stride": 8, "max_question_length": 4}
    if name == "multiple-choice":
        changes |= {"choices": "choices"}
    task = TASKS[name](TASKS[name].data.of(train=path, **changes))
    task.load()
    return task, task.encode("train", task.load_tokenizer(encoder))


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def save(name: str, rows: list[dict[str, Any]]) -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return save


def filled(source: TeacherSource, store: SignalStore, task: Task[Any], encoded: EncodedSplit, keys: frozenset[Key],
           dtype: torch.dtype) -> None:
    cached = source.map_leaves(lambda leaf: CachedTeacher(leaf, store, dtype))
    for batch in task.loader(encoded, batch_size=32, seed=0, shuffle=True):
        cached.signals(Batch(batch, batch), keys)


def content_bytes(folder: Path) -> int:
    """The pages of the records; those that a finished transaction left free count for later ones."""
    with lmdb.open(str(folder)) as environment:
        found = environment.stat()
    return sum(int(found[kind]) for kind in ("branch_pages", "leaf_pages", "overflow_pages")) * int(found["psize"])


LAYERS = {Key("hidden", 0), Key("hidden", 2)}
MAPS = {Key(ATTENTION_SCORES, 1)}
GRAMS = {gram_key([Key("hidden", 1), Key("hidden", 2)])}


@pytest.mark.parametrize(("name", "keys", "dtype"), [
    ("text-classification", {LOGITS}, torch.float32),
    ("text-classification", {LOGITS, *LAYERS}, torch.bfloat16),
    ("text-classification", {LOGITS, *LAYERS}, torch.int8),
    ("token-classification", {LOGITS}, torch.float32),
    ("token-classification", {LOGITS, *MAPS}, torch.float32),
    ("question-answering", {ALL_LOGITS}, torch.float32),
    ("question-answering", {ALL_LOGITS, *LAYERS}, torch.float32),
    ("sentence-embedding", {Key("embedding")}, torch.float32),
    ("sentence-embedding", {Key("embedding")}, torch.int8),
    ("multiple-choice", {LOGITS}, torch.float32),
    ("multiple-choice", {LOGITS, *LAYERS}, torch.float32),
    ("multiple-choice", {LOGITS, *LAYERS}, torch.int8),
    ("token-classification", {LOGITS, *MAPS}, torch.int8),
    ("text-classification", {LOGITS, *GRAMS}, torch.float32),
    ("text-classification", {LOGITS, *GRAMS}, torch.bfloat16),
    ("multiple-choice", {LOGITS, *GRAMS}, torch.int8),
])
def test_the_estimate_is_what_the_stores_take(
    name: str, keys: set[Key], dtype: torch.dtype, encoder: str, write: Any, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    task, encoded = loaded(name, write, encoder)
    source = LiveTeacher(task.load_model(encoder, attn_implementation="eager"), GramOutputs(task.adaptor()))
    sizes = AnswerSizes(task.predicts, source.width, encoded.lengths, encoded.choices)
    with MemoryStore() as memory:
        filled(source, memory, task, encoded, frozenset(keys), dtype)
        assert sizes.total_bytes(keys, dtype, on_disk=False) == memory.size_bytes()
    with LmdbStore(tmp_path / "store") as disk:
        filled(source, disk, task, encoded, frozenset(keys), dtype)
    few_pages = 3 * 4096  # what a small store has to spare depends on the order in which its pages were filled
    assert sizes.total_bytes(keys, dtype, on_disk=True) == pytest.approx(content_bytes(tmp_path / "store"), rel=0.2,
                                                                         abs=few_pages)


def test_each_of_several_teachers_has_logits_of_its_own_and_one_has_layers(encoder: str, write: Any) -> None:
    task, encoded = loaded("text-classification", write, encoder)
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        members.append(LiveTeacher(task.load_model(encoder), task.adaptor()))
    source, keys = EnsembleTeacher(members, layers_from=1), frozenset({LOGITS, *LAYERS})
    with MemoryStore() as store:
        filled(source, store, task, encoded, keys, torch.float32)
        sizes = AnswerSizes(task.predicts, source.width, encoded.lengths, num_teachers=3)
        assert sizes.total_bytes(keys, torch.float32, on_disk=False) == store.size_bytes()


@pytest.mark.parametrize("width", [5, 30, 90, 150, 230, 310, 480, 500, 600, 1010, 1030])
def test_records_of_any_size_are_foreseen(width: int, tmp_path: Path) -> None:
    draw = random.Random(width)
    record = encode([torch.zeros(width)])
    with LmdbStore(tmp_path) as store:
        for _ in range(12):
            store.put_many([(draw.randbytes(16), record) for _ in range(64)])
    sizes = AnswerSizes("rows", lambda key: width, np.full(12 * 64, 7))
    assert sizes.total_bytes([LOGITS], torch.float32, on_disk=True) == pytest.approx(content_bytes(tmp_path), rel=0.15)
