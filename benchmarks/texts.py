"""More rows than there are, and sentences and vocabularies where none are."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BERT_VOCABULARY = 30522
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]


def varied(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """So many rows: the given ones, and these again with their words turned round by one more each time."""
    found = []
    for number in range(count):
        row, turn = rows[number % len(rows)], number // len(rows)
        words = row["sentence"].split()
        turned = words[turn % len(words):] + words[: turn % len(words)]
        found.append({**row, "sentence": " ".join(turned)})
    return found


def vocabulary(sentences: Iterable[str], size: int = BERT_VOCABULARY) -> list[str]:
    """So many words: those of the sentences, frequent ones first, then made-up ones."""
    counts = Counter(word for sentence in sentences for word in re.findall(r"\w+|[^\w\s]", sentence.lower()))
    own = [word for word, _ in counts.most_common(size)]
    known = set(own)
    more = (word for word in made_up_words() if word not in known)
    return [*own, *itertools.islice(more, size - len(own))]


def made_up_words() -> Iterator[str]:
    """Words of three syllables, then of four: more than any vocabulary holds."""
    for syllables in itertools.chain(itertools.product(_SYLLABLES, repeat=3), itertools.product(_SYLLABLES, repeat=4)):
        yield "".join(syllables)


def made_up_rows(lengths: Sequence[int], words: Sequence[str], seed: int = 0) -> list[dict[str, Any]]:
    """A row of so many words for each length; the words are about as unevenly frequent as those of a language."""
    random = np.random.RandomState(seed)
    shares = 1 / np.arange(1, len(words) + 1)
    drawn = random.choice(len(words), size=sum(lengths), p=shares / shares.sum())
    ends = np.cumsum(lengths)
    return [{"sentence": " ".join(words[word] for word in drawn[end - length : end]), "label": int(end) % 2}
            for length, end in zip(lengths, ends.tolist(), strict=True)]


def short_lengths(count: int, seed: int = 0) -> list[int]:
    """Lengths of sentences about as those of SST-2: 1 to 50 words, mostly below 15."""
    drawn = np.random.RandomState(seed).lognormal(2.0, 0.7, count)
    return [int(length) for length in np.clip(np.round(drawn), 1, 50)]


def write_word_tokenizer(folder: Path, words: Sequence[str]) -> int:
    """A BERT tokenizer of whole words in a folder; the number of its tokens."""
    from transformers import BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "vocab.txt"
    file.write_text("\n".join([*_SPECIAL, *words[: BERT_VOCABULARY - len(_SPECIAL)]]) + "\n", encoding="utf-8")
    tokenizer = BertTokenizer(vocab=str(file))
    tokenizer.save_pretrained(folder)
    return len(tokenizer)
