"""Trimming a vocabulary to the tokens of a task's data: fewer rows of embeddings, everything else as before.

The promise: a text of the data becomes the same tokens as before, and the student answers it with the same logits.
Why the tokens stay the same, by the algorithm of the tokenizer:

- **WordPiece** takes the longest piece that fits, again and again. The piece it took is kept, and no piece becomes
  longer. Only a word that it could not split at all may now be split, and only if one of the word's characters
  stands inside pieces but is no piece itself; trained vocabularies have hardly any such character.
- **BPE** applies the first of its merges that fits, again and again. All merges that make the kept tokens are kept
  with what they make, so at each step the one that came first is there, and no merge comes before it.
- **Unigram** takes the segmentation of the highest score. Its pieces are kept with their scores, and every other
  segmentation scores as before or is no longer possible. A character that is no piece scores a fixed distance below
  the lowest score of all, so the piece of the lowest score is kept too.
- **WordLevel** looks words up.

Other text must stay readable, so single characters are kept though the data does not use them, and bytes, where
characters fall back to them; but Chinese characters and Hangul syllables only if used, for these are thousands.
"""

from __future__ import annotations

import copy
import json
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stillhouse.errors import PlanError

_REMEDY = "leave vocabulary out, and the student keeps the whole vocabulary"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_MANY = ("CJK ", "HANGUL SYLLABLE ")  # how Unicode names the characters of scripts that have thousands of them
_LOW = 16  # below this, ids are special tokens or stand in for some
_SECTIONS = ("model", "normalizer", "pre_tokenizer", "post_processor", "decoder")  # what decides a text's tokens
_Json = dict[str, Any]


@dataclass(frozen=True)
class Vocabulary:
    """A trimmed vocabulary, made by `plan_trimming`."""

    kept: tuple[int, ...] = field(repr=False)
    """The old ids that are kept, increasing; the place of an id is its new id."""
    tokenizer: PreTrainedTokenizerBase
    """The tokenizer of the kept tokens, of the old one's class."""

    @cached_property
    def new_ids(self) -> Mapping[int, int]:
        """The new id of each kept old id."""
        return {old: new for new, old in enumerate(self.kept)}


@dataclass(frozen=True)
class _Needs:
    """What one tokenizer's algorithm needs besides the tokens of the data."""

    always: frozenset[str]
    parts: Callable[[str], Iterable[str]] = lambda token: ()  # all of a kept token's, not only the last two


def plan_trimming(
    tokenizer: PreTrainedTokenizerBase, used_ids: Iterable[int], *, minimum: int = 0
) -> Vocabulary:
    """The vocabulary of the ``used_ids``, of special and added tokens, and of what the algorithm needs.

    The ids are those of the task's texts as this tokenizer encodes them, repetitions allowed. With a ``minimum``, the
    lowest other ids (often the most frequent tokens) are kept too, until there are at least that many tokens.
    A low padding id stays as it is. The given tokenizer is not changed.

    Raises `PlanError` for a tokenizer that the tokenizers library does not run, one of an unknown algorithm or with
    settings that its class would not restore from a folder, and for no ids or ids that are not in its vocabulary.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise PlanError(f"a {type(tokenizer).__name__} is written in Python, and only tokenizers of the tokenizers "
                        f"library can be trimmed: {_REMEDY}")
    whole: _Json = json.loads(tokenizer.backend_tokenizer.to_str())
    ids: dict[str, int] = tokenizer.get_vocab()
    tokens = {number: token for token, number in ids.items()}
    needs = _needs_of(whole["model"])
    always = {ids[token] for token in needs.always}
    always |= {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder, *_ids_in(whole["post_processor"])}
    pad = tokenizer.pad_token_id
    if pad is not None and pad < _LOW:  # some models count positions from this id, so it should not move
        always |= {number for number in range(pad) if number in tokens}
    kept: set[int] = set()
    for number in always | _checked(used_ids, tokens):
        kept |= {number, *(ids[part] for part in needs.parts(tokens[number]))}
    for number in sorted(tokens):
        if len(kept) >= minimum:
            break
        kept |= {number, *(ids[part] for part in needs.parts(tokens[number]))}
    ordered = tuple(sorted(kept))
    return Vocabulary(ordered, _rebuilt(tokenizer, _trimmed(whole, ordered)))


def trim_embeddings(model: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """Cut everything in the model that has a row for each token, in place; ids of its configurations follow.

    These are the input embeddings and, in a language model, the output embeddings and their bias; tied weights stay
    tied. Parameters that change are new objects without gradients, so make the optimizer afterwards.

    Raises `PlanError`, and changes nothing, for a model with fewer rows than the old vocabulary, one whose padding
    token is none of the tokenizer's special tokens or would have to move though positions are counted from it, and
    one whose class cannot be built from its configuration alone.
    """
    embeddings = _token_embeddings(model)
    rows = embeddings.num_embeddings
    if vocabulary.kept[-1] >= rows:
        raise PlanError(f"the model has embeddings for {rows} tokens, but the vocabulary is of ids up to "
                        f"{vocabulary.kept[-1]}: trim a vocabulary of the model's own tokenizer, or {_REMEDY}")
    _check_padding(model, embeddings, vocabulary)
    config = copy.deepcopy(model.config)
    _follow(config, vocabulary)
    reference = _shapes_only(model, config)
    changed = _rows_of_tokens(model, reference, rows, len(vocabulary.kept))
    index = torch.tensor(vocabulary.kept)
    new: dict[int, nn.Parameter] = {}
    for name in changed:
        owner, _, attribute = name.rpartition(".")
        old = model.get_parameter(name)
        if id(old) not in new:  # one new parameter for all names of a tied one
            picked = old.detach().index_select(0, index.to(old.device))
            new[id(old)] = nn.Parameter(picked, requires_grad=old.requires_grad)
        setattr(model.get_submodule(owner), attribute, new[id(old)])
    for name, fresh in reference.named_modules():
        own = model.get_submodule(name)
        if isinstance(fresh, nn.Embedding) and isinstance(own, nn.Embedding):
            own.num_embeddings, own.padding_idx = fresh.num_embeddings, fresh.padding_idx
        elif isinstance(fresh, nn.Linear) and isinstance(own, nn.Linear):
            own.out_features = fresh.out_features
    configs = {id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel)}
    for own_config in configs.values():
        _follow(own_config, vocabulary)


def _checked(used_ids: Iterable[int], tokens: Mapping[int, str]) -> set[int]:
    used = {int(number) for number in used_ids}
    if not used:
        raise PlanError(f"no token is used, so nothing would be left of the vocabulary: give the ids of the task's "
                        f"texts, or {_REMEDY}")
    unknown = sorted(used - tokens.keys())
    if unknown:
        raise PlanError(f"id {unknown[0]} is used but not in the tokenizer's vocabulary of {len(tokens)} tokens (ids "
                        f"{min(tokens)} to {max(tokens)}): give ids that this very tokenizer made, without labels "
                        "such as -100")
    return used


def _needs_of(model: _Json) -> _Needs:
    kinds: dict[str, Callable[[_Json], _Needs]] = {
        "BPE": _bpe, "Unigram": _unigram, "WordLevel": _word_level, "WordPiece": _word_piece}
    kind = model.get("type")
    if kind not in kinds:
        raise PlanError(f"a tokenizer of the algorithm {kind!r} cannot be trimmed, only one of {', '.join(kinds)}: "
                        f"{_REMEDY}")
    return kinds[kind](model)


def _word_level(model: _Json) -> _Needs:
    return _Needs(frozenset({model["unk_token"]} & model["vocab"].keys()))


def _word_piece(model: _Json) -> _Needs:
    prefix = model["continuing_subword_prefix"]
    single = {piece for piece in model["vocab"] if _is_cheap_character(piece.removeprefix(prefix))}
    return _Needs(frozenset(single | ({model["unk_token"]} & model["vocab"].keys())))


def _unigram(model: _Json) -> _Needs:
    pieces = model["vocab"]
    always = {piece for piece, _ in pieces if _is_cheap_character(piece)}
    if model.get("byte_fallback"):
        always |= {piece for piece, _ in pieces if _BYTE.fullmatch(piece)}
    if model["unk_id"] is not None:
        always.add(pieces[model["unk_id"]][0])
    always.add(min(pieces, key=lambda item: item[1])[0])
    return _Needs(frozenset(always))


def _bpe(model: _Json) -> _Needs:
    if model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        raise PlanError("a BPE tokenizer that marks the inside or the end of words "
                        f"({model['continuing_subword_prefix'] or model['end_of_word_suffix']!r}) cannot be trimmed: "
                        f"{_REMEDY}")
    ranks: dict[tuple[str, str], int] = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
    made = {left + right for left, right in ranks}
    vocab: dict[str, int] = model["vocab"]
    always = {token for token in vocab if token not in made and (len(token) > 1 or _is_cheap_character(token))}

    def parts(token: str) -> set[str]:
        """The characters of a token, and all that the merges make of them on the way to it."""
        if token not in made:
            return set()
        symbols = list(token)
        seen = set(symbols)
        while len(symbols) > 1:
            pairs = list(pairwise(symbols))
            place = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks)))
            if pairs[place] not in ranks:
                break
            symbols[place:place + 2] = ["".join(pairs[place])]
            seen.add(symbols[place])
        return seen & vocab.keys()

    return _Needs(frozenset(always), parts)


def _is_cheap_character(piece: str) -> bool:
    return len(piece) == 1 and not unicodedata.name(piece, "").startswith(_MANY)


def _trimmed(whole: _Json, kept: Sequence[int]) -> _Json:
    """The tokenizer's description with the kept tokens alone, numbered anew."""
    new_ids = {old: new for new, old in enumerate(kept)}
    model = dict(whole["model"])
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][old] for old in kept if old < len(model["vocab"])]
        model["unk_id"] = None if model["unk_id"] is None else new_ids[model["unk_id"]]
    else:
        model["vocab"] = {token: new_ids[old] for token, old in model["vocab"].items() if old in new_ids}
    if model["type"] == "BPE":
        model["merges"] = [[left, right] for left, right in model["merges"]
                           if {left, right, left + right} <= model["vocab"].keys()]
    added = [{**token, "id": new_ids[token["id"]]} for token in whole["added_tokens"]]
    result = {**whole, "model": model, "added_tokens": added}
    if whole["post_processor"] is not None:
        result["post_processor"] = _with_ids(whole["post_processor"], new_ids.__getitem__)
    if whole["padding"] is not None:  # left over from the last padded call
        pad = new_ids.get(whole["padding"]["pad_id"])
        result["padding"] = None if pad is None else {**whole["padding"], "pad_id": pad}
    return result


def _ids_in(processor: _Json | None) -> list[int]:
    """The ids of the tokens that a post-processor adds."""
    found: list[int] = []

    def note(old: int) -> int:
        found.append(old)
        return old

    if processor is not None:
        _with_ids(processor, note)
    return found


def _with_ids(processor: _Json, number: Callable[[int], int]) -> _Json:
    """A post-processor whose ids of the tokens it adds are replaced by ``number`` of them."""
    result = dict(processor)
    if "processors" in processor:
        result["processors"] = [_with_ids(part, number) for part in processor["processors"]]
    if "special_tokens" in processor:
        result["special_tokens"] = {name: {**token, "ids": [number(old) for old in token["ids"]]}
                                    for name, token in processor["special_tokens"].items()}
    for name in ("sep", "cls"):
        if name in processor:
            token, old = processor[name]
            result[name] = [token, number(old)]
    return result


def _rebuilt(tokenizer: PreTrainedTokenizerFast, trimmed: _Json) -> PreTrainedTokenizerBase:
    """A tokenizer of the same class and settings; it comes from a folder, so it is what a saved one will be."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        settings_path = Path(folder, "tokenizer_config.json")
        settings = json.loads(settings_path.read_text(encoding="utf-8"))
        if "unk_id" in settings and trimmed["model"].get("unk_id") is not None:
            settings["unk_id"] = trimmed["model"]["unk_id"]
        settings_path.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        Path(folder, "tokenizer.json").write_text(json.dumps(trimmed, ensure_ascii=False), encoding="utf-8")
        new: PreTrainedTokenizerFast = type(tokenizer).from_pretrained(folder)
    new.name_or_path = tokenizer.name_or_path
    found: _Json = json.loads(new.backend_tokenizer.to_str())
    lost = [name for name in _SECTIONS if found[name] != trimmed[name]]
    added = [(token["content"], token["id"]) for token in trimmed["added_tokens"]]
    if added != [(token["content"], token["id"]) for token in found["added_tokens"]]:
        lost.append("added_tokens")
    if lost:
        raise PlanError(f"a {type(tokenizer).__name__} does not come back from a folder as it was saved (its "
                        f"{', '.join(lost)} would be others), so it cannot be trimmed: {_REMEDY}")
    return new


def _token_embeddings(model: PreTrainedModel) -> nn.Embedding:
    try:
        found: nn.Module | None = model.get_input_embeddings()
    except NotImplementedError:
        found = None
    if not isinstance(found, nn.Embedding):
        raise PlanError(f"a {type(model).__name__} does not show embeddings of tokens (its get_input_embeddings gives "
                        f"{None if found is None else type(found).__name__}, not an Embedding): {_REMEDY}")
    return found


def _check_padding(model: PreTrainedModel, embeddings: nn.Module, vocabulary: Vocabulary) -> None:
    pad = getattr(model.config, "pad_token_id", None)
    if pad is None:
        return
    if pad not in vocabulary.new_ids:
        raise PlanError(f"the model pads with id {pad}, which is no special token of its tokenizer (which pads with "
                        f"{vocabulary.tokenizer.pad_token!r}): set config.pad_token_id to that one's id, or {_REMEDY}")
    counting = [name for name, module in model.named_modules()
                if isinstance(module, nn.Embedding) and module is not embeddings and module.padding_idx is not None]
    if counting and vocabulary.new_ids[pad] != pad:
        raise PlanError(f"a {type(model).__name__} counts positions from the padding token's id ({counting[0]}), which "
                        f"would go from {pad} to {vocabulary.new_ids[pad]}: {_REMEDY}")


def _follow(config: PretrainedConfig, vocabulary: Vocabulary) -> None:
    """Set the size of the vocabulary and renumber tokens; those that are not kept are no longer set."""
    def new(old: Any) -> Any:
        return [new(one) for one in old if one in vocabulary.new_ids] if isinstance(old, list) else (
            vocabulary.new_ids.get(old))

    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and value is not None:
            setattr(config, name, new(value))
    config.vocab_size = len(vocabulary.kept)


def _shapes_only(model: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    """The model that would be built from a configuration, without memory or random numbers for its weights."""
    try:
        with torch.device("meta"):
            return type(model)(config)
    except (AssertionError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise PlanError(f"a {type(model).__name__} cannot be built from its configuration with another vocabulary: "
                        f"{error}. To keep this model, {_REMEDY}") from error


def _rows_of_tokens(model: nn.Module, reference: nn.Module, before: int, after: int) -> list[str]:
    """The names of all parameters, tied ones under each name, whose rows are tokens."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    expected = {name: tuple(value.shape) for name, value in reference.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    changed = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
    for name in changed:
        shape = found.get(name, ())
        if name not in parameters or shape[:1] != (before,) or (after, *shape[1:]) != expected.get(name):
            raise PlanError(f"the vocabulary of a {type(model).__name__} cannot be trimmed: its {name} is of shape "
                            f"{found.get(name)} and would have to be {expected.get(name)}: {_REMEDY}")
    return changed
