"""Metrics of extractive question answering: SQuAD 1.1 and 2.0, and the Chinese CMRC 2018 and DRCD.

Scores are 0 to 1, where the official scripts print percentages. Both kinds compare one predicted text with each
gold answer of its question, take the best, and average over the questions:

=================  ==========================================  ===================================================
..                 SQuAD (Rajpurkar et al. 2016, 2018)         CMRC 2018 (Cui et al. 2019), also used for DRCD
=================  ==========================================  ===================================================
exact match        equal after `squad_normalized`              equal without case, outer spaces and punctuation
F1 is of           the words in common, in any order           the longest run of `cmrc_tokens` in common
questions without  count, and need an empty prediction         are refused
=================  ==========================================  ===================================================
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from statistics import fmean

from stillhouse.errors import DataError

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)

# The official list also holds the ellipsis, but as two characters that are compared with one: it never takes it out.
_NO_CMRC_PUNCTUATION = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CHINESE = re.compile("([\u4e00-\u9fa5])")
_ALONE = r';@#$%&?!()\[\]{}<>"«»‘„\u2012-\u2015'
_LAST_STOP = r"""\.(?=[\])}>"'» ]*$)"""
_WORD = re.compile(rf"\.{{2,}}|{_LAST_STOP}|,(?!\d)|[{_ALONE}]|(?:[^\s.,{_ALONE}]|,(?=\d)|(?!{_LAST_STOP})\.(?!\.))+")

_Score = Callable[[str, Sequence[str]], float]


def squad_normalized(text: str) -> str:
    """The text as SQuAD compares it: lower-case, without ASCII punctuation, the words a, an, the, and extra spaces.

    Punctuation goes before the articles and leaves no space, so "U.S.-the" becomes "usthe" and keeps its article.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_ASCII_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction equals one of the gold answers after `squad_normalized`, else 0.

    No gold answers means that the question has none: then only a prediction that is empty after normalisation is right.
    """
    return float(squad_normalized(prediction) in _gold(answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """The best F1 of the prediction's normalised words and those of a gold answer, 0 to 1, as SQuAD 2.0 counts it.

    A word counts as often as it occurs in both. Where one side has no words, as for a question without an answer,
    F1 is 1 if the other has none either, else 0 (SQuAD 1.1 gives 0 in both cases, which no real question of it meets).
    Gold answers that are empty after normalisation are left out, unless all are.
    """
    predicted = squad_normalized(prediction).split()
    return max(_word_f1(predicted, gold.split()) for gold in _gold(answers))


def squad_metrics(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """``exact_match`` and ``f1`` of N predicted texts against the gold answers of each question, 0 to 1.

    If some questions have no gold answers, also both scores over those (``exact_match_no_answer``, ``f1_no_answer``)
    and, if there are any, over the others (``exact_match_has_answer``, ``f1_has_answer``). Raises `DataError` if the
    two are not as many, if there are none, or if a question's answers are one string instead of a list.
    """
    _check(predictions, answers)
    found = _averages(predictions, answers)
    if not all(answers):
        for name, has_answer in (("has_answer", True), ("no_answer", False)):
            rows = [row for row in zip(predictions, answers, strict=True) if bool(row[1]) is has_answer]
            if rows:
                part = _averages([prediction for prediction, _ in rows], [gold for _, gold in rows])
                found |= {f"{metric}_{name}": value for metric, value in part.items()}
    return found


def cmrc_tokens(text: str) -> list[str]:
    r"""The tokens that CMRC 2018 compares: each Chinese character, and the words of what stands between them.

    The text is lower-cased and loses the punctuation of the official list (common Chinese marks and ``-:_*^/\~`+=``)
    first. That leaves no gap, so "ω-force" is one word, as officially. The official script splits words with NLTK;
    this follows its rules for spaces, numbers, brackets, quotes and full stops, except that it keeps a word with an
    apostrophe whole, takes an opening and a closing double quote for the same, and takes only the last full stop of
    what stands between two Chinese characters for one that ends a sentence.
    """
    pieces = _CHINESE.split(_without_punctuation(text))
    return [token for piece in pieces for token in ([piece] if _CHINESE.match(piece) else _WORD.findall(piece))]


def cmrc_metrics(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """``exact_match`` and ``f1`` of N predicted texts against the gold answers of each question, 0 to 1.

    Precision and recall are the length of the longest run of tokens that both have, over the number of tokens of the
    prediction and of the gold answer; without a common token F1 is 0. Raises `DataError` as `squad_metrics`, and if a
    question has no gold answer, for which the official script has no score.
    """
    _check(predictions, answers)
    if not all(answers):
        missing = [bool(gold) for gold in answers].index(False)
        raise DataError(f"question {missing} (counted from 0) has no gold answer, and CMRC has no score for that: "
                        "leave such questions out, or use squad_metrics")
    return _averages(predictions, answers, _cmrc_exact_match, _cmrc_f1)


def _gold(answers: Sequence[str]) -> list[str]:
    """The normalised gold answers that are not empty, or one empty text if there are none."""
    return [normal for normal in map(squad_normalized, answers) if normal] or [""]


def _word_f1(predicted: list[str], wanted: list[str]) -> float:
    """F1 of two bags of words."""
    if not predicted or not wanted:
        return float(predicted == wanted)
    return 2 * (Counter(predicted) & Counter(wanted)).total() / (len(predicted) + len(wanted))


def _without_punctuation(text: str) -> str:
    """The text in lower case, without outer spaces and without the punctuation of CMRC's list."""
    return text.lower().strip().translate(_NO_CMRC_PUNCTUATION)


def _cmrc_exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction equals a gold answer but for case, outer spaces and punctuation, else 0."""
    return float(_without_punctuation(prediction) in map(_without_punctuation, answers))


def _cmrc_f1(prediction: str, answers: Sequence[str]) -> float:
    """The best F1 of the longest common run of tokens with a gold answer."""
    predicted = cmrc_tokens(prediction)
    return max(_run_f1(predicted, cmrc_tokens(gold)) for gold in answers)


def _run_f1(predicted: list[str], wanted: list[str]) -> float:
    """F1 of the longest run of tokens that stands in both."""
    if not predicted or not wanted:
        return 0.0
    common = SequenceMatcher(None, predicted, wanted, autojunk=False).find_longest_match().size
    return 2 * common / (len(predicted) + len(wanted))


def _averages(predictions: Sequence[str], answers: Sequence[Sequence[str]], exact: _Score = exact_match,
              overlap: _Score = f1) -> dict[str, float]:
    """Both scores, averaged over the questions."""
    rows = list(zip(predictions, answers, strict=True))
    return {"exact_match": fmean(exact(*row) for row in rows), "f1": fmean(overlap(*row) for row in rows)}


def _check(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> None:
    """Raise `DataError` unless there is a list of answers for each prediction, and at least one."""
    if len(predictions) != len(answers):
        raise DataError(f"{len(predictions)} predictions and the answers of {len(answers)} questions: give one "
                        "prediction a question, an empty one for no answer")
    if not len(predictions):
        raise DataError("no questions to score: give at least one")
    for i, gold in enumerate(answers):
        if isinstance(gold, str):
            raise DataError(f"the gold answers of question {i} (counted from 0) are the text {gold!r}: give a list of "
                            "texts, an empty one for no answer")
