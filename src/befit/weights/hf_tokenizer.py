"""A Hugging Face `tokenizer.json` as GGUF tokeniser metadata.

The vocabulary, the types of tokens and the merges become the keys that GGUF has for them. How text is brought to a
normal form and split has no such key, only names in `tokenizer.ggml.pre`; it is kept as it stands in the file under
`tokenizer.huggingface.pipeline`, a JSON object, and the tokeniser runs just that. Source: huggingface/tokenizers, and
for the types of tokens llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from befit.errors import CorruptFile, UnsupportedModel

PIPELINE = "tokenizer.huggingface.pipeline"
MAX_TOKENS = 1 << 24
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_ADDED = ("content", "single_word", "lstrip", "rstrip", "normalized")
_MODEL = ("ignore_merges", "fuse_unk", "byte_fallback", "unk_token")


def tokenizer_metadata(
    tokenizer: Any, settings: Mapping[str, Any], where: str, *, rows: int, end_ids: list[int], bos_id: int | None
) -> dict[str, Any]:
    """GGUF metadata of a parsed tokenizer.json.

    settings: tokenizer_config.json, empty without one. rows: of the embedding; ids past the vocabulary are unused.
    end_ids: what the model's own configuration names, the first of all; bos_id likewise.
    Raises UnsupportedModel for a kind of model other than BPE, CorruptFile for broken data.
    """
    try:
        return _metadata(tokenizer, settings, where, rows, end_ids, bos_id)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CorruptFile(f"{where}: {type(error).__name__}: {error}; fetch it again.") from None


def _metadata(
    tokenizer: Any, settings: Mapping[str, Any], where: str, rows: int, end_ids: list[int], bos_id: int | None
) -> dict[str, Any]:
    model, added = tokenizer["model"], tokenizer.get("added_tokens") or []
    if (kind := model.get("type", "BPE")) != "BPE":
        raise UnsupportedModel(f"{where}: the tokeniser is of kind {kind!r:.80}; befit runs BPE.")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise UnsupportedModel(f"{where}: the tokeniser has {key} {model[key]!r:.80}, which befit does not apply.")
    vocab: dict[str, int] = model["vocab"]
    byte_fallback = model.get("byte_fallback") is True
    size = max([*vocab.values(), *(token["id"] for token in added), -1]) + 1
    if not 0 < size <= MAX_TOKENS or min([*vocab.values(), 0]) < 0:
        raise ValueError(f"token ids from {min(vocab.values(), default=0)} to {size - 1}")
    size = max(size, min(rows, MAX_TOKENS))
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = np.full(size, _UNUSED, np.int32)
    for spelling, token in vocab.items():
        tokens[token], types[token] = spelling, _NORMAL
        if byte_fallback and len(spelling) == 6 and spelling.startswith("<0x") and spelling.endswith(">"):
            types[token] = _BYTE
    for each in added:
        tokens[each["id"]] = each["content"]
        types[each["id"]] = _CONTROL if each["special"] else _USER_DEFINED
    if model.get("unk_token") in vocab:
        types[vocab[model["unk_token"]]] = _UNKNOWN
    merges = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    if any(" " in left or " " in right for left, right in merges):
        raise UnsupportedModel(f"{where}: pieces of words have spaces in them, which befit's merges cannot have.")
    ids = {tokens[i]: i for i in np.flatnonzero(types != _UNUSED).tolist()}
    bos = _id_of(settings.get("bos_token"), ids, bos_id if "bos_token" not in settings else None)
    eos = _id_of(settings.get("eos_token"), ids, None)
    first, last = _around(tokenizer.get("post_processor"))
    ends = list(dict.fromkeys([*([] if eos is None else [eos]), *(i for i in end_ids if 0 <= i < size)]))
    adds_bos, adds_eos = settings.get("add_bos_token"), settings.get("add_eos_token")
    normal = json.dumps(tokenizer.get("normalizer"))
    splits = json.dumps(tokenizer.get("pre_tokenizer"))
    result: dict[str, Any] = {
        "tokenizer.ggml.model": "llama" if byte_fallback else "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in merges],
        "tokenizer.ggml.add_bos_token": bos is not None and (adds_bos if isinstance(adds_bos, bool) else first == bos),
        "tokenizer.ggml.add_eos_token": bool(ends)
        and (adds_eos if isinstance(adds_eos, bool) else last is not None and last == ends[0]),
        "tokenizer.ggml.end_token_ids": np.array(ends, np.int32),
        "tokenizer.ggml.bos_token_id": -1 if bos is None else bos,
        "tokenizer.ggml.eos_token_id": ends[0] if ends else -1,
        PIPELINE: json.dumps(
            {
                "normalizer": tokenizer.get("normalizer"),
                "pre_tokenizer": tokenizer.get("pre_tokenizer"),
                "model": {key: model.get(key) for key in _MODEL},
                "added_tokens": [{key: each.get(key, False) for key in _ADDED} for each in added],
            }
        ),
    }
    if byte_fallback:
        result["tokenizer.ggml.scores"] = _scores(tokens, types, merges, vocab)
        prefixed = '"Prepend"' in normal or ('"Metaspace"' in splits and '"never"' not in splits)
        result["tokenizer.ggml.add_space_prefix"] = prefixed
    pad = _id_of(settings.get("pad_token"), ids, None)
    return result if pad is None else {**result, "tokenizer.ggml.padding_token_id": pad}


def _id_of(token: Any, ids: Mapping[str, int], default: int | None) -> int | None:
    """The id of a token that a tokenizer_config.json names, by its spelling or as an object with its content."""
    spelling = token.get("content") if isinstance(token, Mapping) else token
    found = ids.get(spelling) if isinstance(spelling, str) else None
    return default if found is None else found


def _around(processor: Any) -> tuple[int | None, int | None]:
    """Ids of the special tokens that a post-processor puts before and after a text."""
    if not isinstance(processor, Mapping):
        return None, None
    if processor.get("type") == "Sequence":
        found = [_around(each) for each in processor["processors"]]
        return next((a for a, _ in found if a is not None), None), next((b for _, b in found if b is not None), None)
    if processor.get("type") != "TemplateProcessing":
        return None, None

    def special(piece: Mapping[str, Any]) -> int | None:
        name = piece.get("SpecialToken", {}).get("id")
        ids = processor["special_tokens"][name]["ids"] if name is not None else []
        return int(ids[0]) if len(ids) == 1 else None

    single = processor["single"]
    return (special(single[0]), special(single[-1]) if len(single) > 1 else None) if single else (None, None)


def _scores(tokens: list[str], types: Any, merges: list[list[str]], vocab: Mapping[str, int]) -> Any:
    """Scores whose order is that of the merges; what nothing merges to comes after them."""
    scores = np.full(len(tokens), -1e6, np.float32)
    for rank in range(len(merges) - 1, -1, -1):
        joined = vocab.get("".join(merges[rank]))
        if joined is not None:
            scores[joined] = -rank
    scores[(types == _CONTROL) | (types == _USER_DEFINED)] = -1000.0
    return scores
