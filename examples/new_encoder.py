"""Write an untrained BERT and a vocabulary for it, made from the texts at hand: where no pre-trained model is.

    python examples/new_encoder.py --texts train.jsonl.gz --column text --layers 4 --width 256 --output runs/encoder

Every character that occurs is a token of its own, which suits Chinese. The folder is then the ``teacher.model`` of a
recipe that trains it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import chain

import torch
from transformers import BertConfig, BertModel, BertTokenizer

from stillhouse.tasks.data_files import read_rows

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", nargs="+", required=True, help="files with a column of texts, or of lists of words")
    parser.add_argument("--column", default="text")
    parser.add_argument("--at-least", type=int, default=2, help="how often a character occurs that is kept")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True)
    return parser.parse_args()


def vocabulary(files: list[str], column: str, at_least: int) -> list[str]:
    """Special tokens and then the characters, the most frequent first; pieces inside a word begin with ``##``."""
    texts = chain.from_iterable(read_rows(file).column(column) for file in files)
    counts = Counter(character for text in texts for word in text for character in word.lower() if word.strip())
    kept = [character for character, count in counts.most_common() if count >= at_least and character.strip()]
    latin = [f"##{character}" for character in kept if character.isascii()]
    return [*SPECIAL, *kept, *latin]


def main() -> None:
    """Write model and tokenizer."""
    args = arguments()
    words = vocabulary(args.texts, args.column, args.at_least)
    torch.manual_seed(args.seed)
    config = BertConfig(vocab_size=len(words), hidden_size=args.width, num_hidden_layers=args.layers,
                        num_attention_heads=max(1, args.width // 64), intermediate_size=4 * args.width,
                        max_position_embeddings=args.positions)
    BertModel(config).save_pretrained(args.output)
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(args.output)
    print(f"{args.output}: {args.layers} layers x {args.width}, {len(words)} tokens")


if __name__ == "__main__":
    main()
