"""Promises of the question answering metrics, against the official formulas written anew and values by hand."""

from __future__ import annotations

import gzip
import json
import random
import string
from collections import Counter
from pathlib import Path

import pytest

from stillhouse.errors import DataError
from stillhouse.metrics import cmrc_metrics, squad_metrics, squad_normalized
from stillhouse.metrics.question_answering import cmrc_tokens, exact_match, f1

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def naive_words(text: str) -> list[str]:
    """SQuAD's words: strip punctuation character by character, then find the articles between word boundaries."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    spaced = "".join(c if c.isalnum() or c == "_" else f" {c} " for c in kept).split(" ")
    joined = "".join(" " if part in {"a", "an", "the"} else (part or " ") for part in spaced)
    return joined.split()


def naive_squad(prediction: str, answers: list[str]) -> tuple[float, float]:
    """Exact match and F1 of one question, from counts of words."""
    gold = [words for words in map(naive_words, answers) if words] or [[]]
    words = naive_words(prediction)
    scores = []
    for wanted in gold:
        if not words or not wanted:
            scores.append(1.0 if words == wanted else 0.0)
            continue
        found, right = Counter(words), Counter(wanted)
        same = sum(min(found[word], right[word]) for word in found)
        precision, recall = same / len(words), same / len(wanted)
        scores.append(2 * precision * recall / (precision + recall) if same else 0.0)
    return float(words in gold), max(scores)


def naive_common_run(a: list[str], b: list[str]) -> int:
    """The length of the longest run of tokens in both, trying every run of the first."""
    runs = ((start, end) for start in range(len(a)) for end in range(start + 1, len(a) + 1))
    return max((end - start for start, end in runs
                if any(b[i:i + end - start] == a[start:end] for i in range(len(b)))), default=0)


def real_questions(name: str, count: int) -> list[tuple[str, list[str]]]:
    """The context and gold answers of the first questions of a development file, or skip."""
    path = DATA / name / "dev.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no data at {path.parent}")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(count), strict=False)]
    return [(row["context"], row["answers"]["text"]) for row in rows]


def perturbed(context: str, answers: list[str], other: str, seed: int) -> str:
    """A prediction near a gold answer: itself, cut, extended, another question's, or with words and marks around."""
    rng = random.Random(seed)
    gold = rng.choice(answers)
    start = context.find(gold)
    return rng.choice([
        gold, "", other, gold[:rng.randint(0, len(gold))], gold[rng.randint(0, len(gold)):],
        context[max(0, start - rng.randint(0, 30)):start + len(gold) + rng.randint(0, 30)],
        f"The {gold}.", f'a "{gold.upper()}", an', f"{gold}, {gold}", f"  {gold} -- the ",
        " ".join(reversed(gold.split())),
    ])


@pytest.mark.parametrize(("text", "normal"), [
    ("The  Cat's\tWhiskers!", "cats whiskers"),
    ("a an THE", ""),
    ("", ""),
    ("theatre Ana another", "theatre ana another"),
    ("U.S.-the", "usthe"),
    ("(the) [a] an-hour", "anhour"),
    ("an “apple”", "“apple”"),
    ("the’s a–b", "’s –b"),
    ("vitamin\u00a0A\n\n12", "vitamin 12"),
    ("$1,000.50", "100050"),
])
def test_normalised_text_is_that_of_the_official_script(text: str, normal: str) -> None:
    assert squad_normalized(text) == normal
    assert naive_words(text) == normal.split()


@pytest.mark.parametrize(("prediction", "answers", "exact", "overlap"), [
    ("SoCal", ["SoCal", "southern California"], 1.0, 1.0),
    ("the soCal.", ["SoCal"], 1.0, 1.0),
    ("cat sat", ["the cat sat on mats"], 0.0, 2 * 1.0 * 0.5 / 1.5),
    ("big cat cat", ["cat big big"], 0.0, 2 / 3),
    ("dog", ["cat", "a dog barks", "dog barks loud"], 0.0, 2 / 3),
    ("dog", ["cat"], 0.0, 0.0),
    ("", [], 1.0, 1.0),
    ("the!", [], 1.0, 1.0),
    ("cat", [], 0.0, 0.0),
    ("", ["cat"], 0.0, 0.0),
    ("", ["cat", "the"], 0.0, 0.0),
    ("", ["the", "!"], 1.0, 1.0),
    ("cat", ["the", "cat"], 1.0, 1.0),
])
def test_squad_scores_equal_values_by_hand(prediction: str, answers: list[str], exact: float, overlap: float) -> None:
    assert exact_match(prediction, answers) == exact
    assert f1(prediction, answers) == pytest.approx(overlap)
    assert naive_squad(prediction, answers) == (exact, pytest.approx(overlap))


def test_squad_averages_over_questions_and_reports_those_without_answers() -> None:
    predictions = ["SoCal", "cat sat", "", "dog"]
    answers = [["SoCal"], ["the cat sat on mats"], [], []]
    assert squad_metrics(predictions, answers) == pytest.approx({
        "exact_match": 2 / 4, "f1": (1 + 2 / 3 + 1 + 0) / 4,
        "exact_match_has_answer": 1 / 2, "f1_has_answer": (1 + 2 / 3) / 2,
        "exact_match_no_answer": 1 / 2, "f1_no_answer": 1 / 2})
    assert squad_metrics(predictions[:2], answers[:2]) == pytest.approx({"exact_match": 1 / 2, "f1": 5 / 6})
    assert set(squad_metrics([""], [[]])) == {"exact_match", "f1", "exact_match_no_answer", "f1_no_answer"}


def test_squad_scores_of_real_questions_equal_the_official_formulas() -> None:
    rows = real_questions("squad", 500)
    predictions = [perturbed(*rows[i], rows[i - 1][1][0], seed=i) for i in range(len(rows))]
    answers = [gold if i % 10 else [] for i, (_, gold) in enumerate(rows)]
    wanted = [naive_squad(*row) for row in zip(predictions, answers, strict=True)]
    assert all(exact_match(*row) == pair[0] and f1(*row) == pytest.approx(pair[1])
               for row, pair in zip(zip(predictions, answers, strict=True), wanted, strict=True))
    found = squad_metrics(predictions, answers)
    assert found["exact_match"] == pytest.approx(sum(exact for exact, _ in wanted) / 500)
    assert found["f1"] == pytest.approx(sum(overlap for _, overlap in wanted) / 500)
    assert found["f1_no_answer"] == pytest.approx(sum(overlap for _, overlap in wanted[::10]) / 50)
    assert 0.1 < found["exact_match"] < found["f1"] < 0.9
    assert squad_metrics([gold[-1] for _, gold in rows], [gold for _, gold in rows]) == {"exact_match": 1.0, "f1": 1.0}


@pytest.mark.parametrize(("text", "tokens"), [
    ("光荣和ω-force", ["光", "荣", "和", "ωforce"]),
    ("《战国无双3》，（2009年）。", ["战", "国", "无", "双", "32009", "年"]),  # nothing separates the two numbers
    ("iPhone 4S手机", ["iphone", "4s", "手", "机"]),
    ("12，000人", ["12000", "人"]),
    ("1,000.5米, 长", ["1,000.5", "米", ",", "长"]),
    ("约50%。(A.B.)", ["约", "50", "%", "(", "a.b", ".", ")"]),
    ("St. Louis.", ["st.", "louis", "."]),
    ("A…B……「丙」", ["a…b……", "丙"]),
    (" —·、 ", ["—"]),
    ("，。", []),
])
def test_chinese_tokens_are_characters_and_words_without_punctuation(text: str, tokens: list[str]) -> None:
    assert cmrc_tokens(text) == tokens


@pytest.mark.parametrize(("prediction", "answers", "exact", "overlap"), [
    ("光荣和ω-force", ["光荣和Ω-FORCE"], 1.0, 1.0),
    ("《三国志》。", ["三国志"], 1.0, 1.0),
    ("于1963年", ["1963年"], 0.0, 2 * (2 / 3) * 1 / (2 / 3 + 1)),
    ("甲乙丙丁", ["甲丙丁戊己"], 0.0, 2 * (2 / 4) * (2 / 5) / (2 / 4 + 2 / 5)),
    ("丁丙乙甲", ["甲乙丙丁"], 0.0, 1 / 4),
    ("甲乙", ["丙丁", "甲乙丙"], 0.0, 4 / 5),
    ("甲", ["乙"], 0.0, 0.0),
    ("", ["乙"], 0.0, 0.0),
    ("，", ["。"], 1.0, 0.0),
    ("a  b", ["a b"], 0.0, 1.0),
    (" 甲乙\n", ["甲乙"], 1.0, 1.0),
    ("梵語的研究", ["梵語"], 0.0, 4 / 7),
])
def test_chinese_scores_equal_values_by_hand(prediction: str, answers: list[str], exact: float, overlap: float) -> None:
    assert cmrc_metrics([prediction], [answers]) == pytest.approx({"exact_match": exact, "f1": overlap})


@pytest.mark.parametrize("name", ["cmrc2018", "drcd"])
def test_chinese_scores_of_real_questions_equal_trying_every_run(name: str) -> None:
    rows = real_questions(name, 100)
    predictions = [perturbed(*rows[i], rows[i - 1][1][0], seed=i) for i in range(len(rows))]
    overlaps = []
    for prediction, (_, gold) in zip(predictions, rows, strict=True):
        found, wanted = cmrc_tokens(prediction), [cmrc_tokens(text) for text in gold]
        overlaps.append(max(2 * naive_common_run(found, right) / (len(found) + len(right)) for right in wanted))
    scores = cmrc_metrics(predictions, [gold for _, gold in rows])
    assert scores["f1"] == pytest.approx(sum(overlaps) / len(rows))
    assert 0.1 < scores["exact_match"] < scores["f1"] < 0.9
    assert cmrc_metrics([gold[-1] for _, gold in rows], [gold for _, gold in rows]) == {"exact_match": 1.0, "f1": 1.0}


def test_a_frequent_token_counts_in_a_long_answer() -> None:
    text = "的了" * 150
    assert cmrc_metrics([text], [["甲" + text]])["f1"] == pytest.approx(600 / 601)


@pytest.mark.parametrize("metrics", [squad_metrics, cmrc_metrics])
def test_answers_that_do_not_fit_are_refused(metrics: type[object]) -> None:
    with pytest.raises(DataError, match="1 predictions and the answers of 2 questions"):
        metrics(["a"], [["a"], ["b"]])
    with pytest.raises(DataError, match="no questions to score"):
        metrics([], [])
    with pytest.raises(DataError, match=r"question 1 .counted from 0. are the text 'SoCal': give a list"):
        metrics(["a", "b"], [["a"], "SoCal"])


def test_a_chinese_question_without_an_answer_is_refused() -> None:
    with pytest.raises(DataError, match=r"question 1 .counted from 0. has no gold answer.*use squad_metrics"):
        cmrc_metrics(["甲", "乙"], [["甲"], []])
