"""``python -m benchmarks NAME... [options]``: run benchmarks one after another, each with the options given."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

NAMES = {
    "speed": "rows per second against the original, a minimal loop and transformers.Trainer",
    "quality": "accuracy and time against the original, three seeds",
    "scaling": "speed and memory as the data, the batch, the cache and the processes grow",
    "startup": "seconds until the package, its commands and a run's first step are there",
    "gpu": "rows per second, share of the card's peak and memory on a CUDA device",
}


def main(argv: Sequence[str]) -> None:
    """Run what is named before the first option. Ends the program with a message for a name that is not known."""
    first_option = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
    names, options = argv[:first_option], argv[first_option:]
    unknown = [name for name in names if name not in NAMES]
    if not names or unknown:
        known = "\n".join(f"  {name:12}{text}" for name, text in NAMES.items())
        raise SystemExit((f"no benchmark is called {unknown[0]!r}\n" if unknown else "")
                         + f"python -m benchmarks NAME... [options]; --help after a name lists its options\n{known}")
    for name in names:
        importlib.import_module(f"benchmarks.{name}").main(options)


if __name__ == "__main__":
    main(sys.argv[1:])
