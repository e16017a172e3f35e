"""Add a column with a classifier's probabilities to rows, as soft labels that a recipe can name.

    python recipes/small/soft_labels.py MODEL ROWS.jsonl.gz --text sentence --skip 20000 --rows 5000 --labelled 1000 \
        --output soft-labels.jsonl

Each row gets ``probabilities``: a mapping from label to probability, as people collect it from other places too. With
``--labelled`` only the first rows keep their label, as where labels are dear.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path

from transformers import pipeline

from stillhouse.tasks.data_files import read_rows


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a folder or hub id of a text classifier")
    parser.add_argument("rows", help="a file of rows")
    parser.add_argument("--text", default="text", help="the column with the text")
    parser.add_argument("--label", default="label", help="the column with the label")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first so many rows")
    parser.add_argument("--rows", dest="limit", type=int, default=None, help="take so many")
    parser.add_argument("--labelled", type=int, default=None, help="how many rows keep their label; all without")
    parser.add_argument("--output", required=True, help="the file to write, JSON lines")
    return parser.parse_args()


def main() -> None:
    """Write the rows with their new column."""
    args = arguments()
    columns = read_rows(args.rows).columns
    end = None if args.limit is None else args.skip + args.limit
    table = islice(zip(*columns.values(), strict=True), args.skip, end)
    rows = [dict(zip(columns, values, strict=True)) for values in table]
    classify = pipeline("text-classification", args.model, top_k=None)
    answers = classify([row[args.text] for row in rows], batch_size=32)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    with open(args.output, "w", encoding="utf-8") as file:
        for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            if args.labelled is not None and number >= args.labelled:
                row[args.label] = None
            file.write(json.dumps({**row, "probabilities": {each["label"]: each["score"] for each in answer}}) + "\n")


if __name__ == "__main__":
    main()
