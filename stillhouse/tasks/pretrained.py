"""Loading pre-trained models and tokenizers: quietly, and with errors that say what does not fit."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

import stillhouse.students  # noqa: F401 - registers the package's own kinds of models with transformers
from stillhouse.errors import ConfigError, PlanError, first_line
from stillhouse.tasks.data_files import is_path
from stillhouse.tasks.model_paths import resolved

_LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, SafetensorError)
_COUNTS_FROM_PADDING = frozenset({
    "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet",
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"})
"""The families whose first token has the position behind the number of the padding token."""
_NO_NAME = re.compile(r"(LABEL_)?\d+")


@dataclass(frozen=True)
class ModelWanted:
    """The model that a task needs.

    Attributes:
        auto_class: the class of transformers that loads it.
        head: how its class is called in the end, such as ``ForSequenceClassification``.
        names: its labels; none where a head has no labels.
        max_length: the tokens of a row that it has to read.
        problem_type: what its configuration calls the kind of labels.
        num_outputs: what its configuration has to call the number of labels, where these have no names.
    """

    auto_class: Any
    head: str
    names: Sequence[str]
    max_length: int
    problem_type: str | None = None
    num_outputs: int | None = None

    def fits(self, config: Any) -> bool:
        """Whether a configuration is of a model with such a head, trained before."""
        return any(name.endswith(self.head) for name in config.architectures or ())

    def settings(self) -> dict[str, Any]:
        """What the model's configuration has to say."""
        if not self.names:
            return {} if self.num_outputs is None else {"num_labels": self.num_outputs}
        settings = {"num_labels": len(self.names), "id2label": dict(enumerate(self.names)),
                    "label2id": {name: number for number, name in enumerate(self.names)}}
        return settings if self.problem_type is None else settings | {"problem_type": self.problem_type}


def load_model(path: str, wanted: ModelWanted, attn_implementation: str | None = None) -> PreTrainedModel:
    """A model with the wanted head, in float32 on the CPU, from a folder, hub id or ``package:NAME/FOLDER``.

    A checkpoint's own head stays if it has as many labels; otherwise a new one is drawn from the global generator.
    Raises `ConfigError` for a checkpoint that is not there or incomplete, and `PlanError` for one whose head has other
    labels, or the same in another order, or that cannot read rows of that length. Warns if the head's names are
    others, for then only the user knows whether they mean the same.
    """
    config = load_config(path)
    require_fit(path, config, wanted)
    model, report = _loaded(
        wanted.auto_class,
        "model",
        path,
        trust_remote_code=False,
        output_loading_info=True,
        dtype=torch.float32,
        attn_implementation=attn_implementation,
        **wanted.settings(),
    )
    _check_complete(path, model, report["missing_keys"])
    loaded: PreTrainedModel = model
    return loaded


def load_config(path: str) -> Any:
    """The configuration of a model, from a folder, hub id or ``package:NAME/FOLDER``. Raises `ConfigError`."""
    return _loaded(AutoConfig, "model", path, trust_remote_code=False)


def longest_row(config: Any) -> int | None:
    """The tokens that a model can read in a row at most; None if nothing in its configuration limits them."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions - _first_position(config)


def are_nameless(names: Sequence[str]) -> bool:
    """Whether labels are only counted: ``0``, ``1``, ... or ``LABEL_0``, ``LABEL_1``, ..."""
    return all(map(_NO_NAME.fullmatch, names))


def require_fit(path: str, config: Any, wanted: ModelWanted, has_head: bool | None = None) -> None:
    """Raise `PlanError` if a model cannot read rows of that length, or has a head for other labels or another order.

    Whether it has such a head already, its configuration says, if it was ever saved, or ``has_head``.
    """
    _check_length(path, config, wanted.max_length)
    if wanted.names and (wanted.fits(config) if has_head is None else has_head):
        _check_head(path, config, wanted.names)


def with_head(model: PreTrainedModel, wanted: ModelWanted) -> PreTrainedModel:
    """A model with the wanted head on the given model's encoder: itself, if that is its head.

    A new head is drawn from the global generator. Raises `PlanError` if the family has no such model.
    """
    if type(model).__name__.endswith(wanted.head):
        return model
    config = copy.deepcopy(model.config)
    for name, value in wanted.settings().items():
        setattr(config, name, value)
    try:
        with quiet_transformers():
            new: PreTrainedModel = wanted.auto_class.from_config(config)
    except ValueError as error:
        raise PlanError(f"there is no {wanted.head} model of the family of {type(model).__name__}; give another "
                        "student") from error
    new.base_model.load_state_dict(model.base_model.state_dict(), strict=False)
    return new


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or of a hub id. Raises `ConfigError` for none, and for one that cannot pad."""
    tokenizer: PreTrainedTokenizerBase = _loaded(AutoTokenizer, "tokenizer", path, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"the tokenizer of {path!r} has no padding token, so rows cannot be batched; set one "
                          "(tokenizer.pad_token, and the model's config.pad_token_id), save both, and give that folder")
    return tokenizer


def save_pretrained(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write both into a folder that ``from_pretrained`` loads."""
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No loading reports and progress bars inside; both settings restored afterwards."""
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    if had_bars:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _loaded(auto_class: Any, what: str, path: str, **arguments: Any) -> Any:
    path = resolved(path)
    folder = Path(path).expanduser()
    if is_path(path) and not folder.is_dir():
        raise ConfigError(f"{what} {path!r}: there is no folder {folder.absolute()}")
    try:
        with quiet_transformers():
            return auto_class.from_pretrained(str(folder) if folder.is_dir() else path, **arguments)
    except _LOAD_ERRORS as error:
        reason = first_line(error).rstrip(": ")
        if folder.is_dir():
            files = ", ".join(sorted(item.name for item in folder.iterdir())[:20]) or "nothing"
            raise ConfigError(f"{what} {path!r} cannot be loaded: {reason}\nthe folder {folder.absolute()} holds "
                              f"{files}; it needs what save_pretrained writes") from error
        raise ConfigError(f"{what} {path!r}: neither a folder here ({folder.absolute()}) nor, it seems, on the hub: "
                          f"{reason}") from error


def _check_length(path: str, config: Any, max_length: int) -> None:
    longest = longest_row(config)
    if longest is not None and longest < max_length:
        raise PlanError(f"data.max_length is {max_length}, but model {path!r} reads at most {longest} tokens; set "
                        f"data.max_length to {longest} or less")


def _first_position(config: Any) -> int:
    """The number of position embeddings that stand before that of a row's first token."""
    if config.model_type not in _COUNTS_FROM_PADDING:
        return 0
    padding = 1 if config.model_type == "mpnet" else config.pad_token_id  # MPNet's models do not read the setting
    return 0 if padding is None else int(padding) + 1


def _check_head(path: str, config: Any, names: Sequence[str]) -> None:
    own = [str(config.id2label[number]) for number in range(config.num_labels)]
    if len(own) != len(names):
        raise PlanError(f"model {path!r} classifies into {len(own)} labels ({_few(own)}), but the data has {len(names)}"
                        f" ({_few(names)}); give a model without a head or for these labels, or set data.label_names")
    ours, theirs = ([name.casefold() for name in labels] for labels in (names, own))
    if ours == theirs or are_nameless(own) or are_nameless(names):
        return
    if sorted(ours) == sorted(theirs):
        raise PlanError(f"model {path!r} has the data's labels in another order: {_few(own)}; the data's is "
                        f"{_few(names)}. With labels as text set data.label_names in the model's order; numbers have "
                        "to be changed in the data")
    warnings.warn(f"model {path!r} calls its labels {_few(own)}, the data {_few(names)}: they are taken to mean the "
                  "same, in this order", stacklevel=5)


def _check_complete(path: str, model: Any, missing: Sequence[str]) -> None:
    """Only a head, and the pooler below it, may be drawn anew; an encoder may not."""
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    lost = sorted(name for name in missing if name.startswith(prefix) and "pooler" not in name)
    if lost:
        raise ConfigError(f"model {path!r} lacks {len(lost)} weights of a {type(model).__name__}, {lost[0]} among them;"
                          " give a complete checkpoint of this architecture")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
