"""Original tokeniser files as the GGUF metadata that a converter writes for them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def looks_special(spelling: str) -> bool:
    return (
        spelling in ("<pad>", "<mask>")
        or (spelling.startswith("<|") and spelling.endswith("|>"))
        or (spelling.startswith("<｜") and spelling.endswith("｜>"))
        or (spelling.startswith("<unused") and spelling.endswith(">"))
    )


def of_tokenizer_json(path: Path, pre: str) -> dict[str, Any]:
    """Metadata of a tokenizer.json. One with byte fallback becomes a SentencePiece vocabulary.

    SentencePiece scores are not in the file, but its merges are in the order of the scores of what they make.
    """
    data = json.loads(path.read_text())
    model, added = data["model"], data["added_tokens"]
    size = max([*model["vocab"].values(), *(token["id"] for token in added)]) + 1
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = np.full(size, UNUSED, np.int32)
    for spelling, i in model["vocab"].items():
        tokens[i], types[i] = spelling, NORMAL
    sentencepiece = model["byte_fallback"]
    scores = np.full(size, -1e6, np.float32)
    for rank, merge in reversed(list(enumerate(model["merges"]))):
        scores[model["vocab"]["".join(merge.split(" ") if isinstance(merge, str) else merge)]] = -rank
    for i, spelling in enumerate(tokens):
        if sentencepiece and types[i] == NORMAL and len(spelling) == 6 and spelling.startswith("<0x"):
            types[i] = BYTE
    for token in added:
        spelling, i = token["content"], token["id"]
        special = token["special"] or looks_special(spelling)
        types[i] = CONTROL if special else USER_DEFINED
        tokens[i] = spelling if special else spelling.replace("▁", " ")
        scores[i] = -1000
    result: dict[str, Any] = {
        "tokenizer.ggml.model": "llama" if sentencepiece else "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_bos_token": False,
    }
    if sentencepiece:
        types[model["vocab"][model["unk_token"]]] = UNKNOWN
        result["tokenizer.ggml.scores"] = scores
        result["tokenizer.ggml.add_space_prefix"] = "Prepend" in json.dumps(data["normalizer"])
    else:
        pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        result |= {"tokenizer.ggml.merges": pairs, "tokenizer.ggml.pre": pre}
    return result


def of_sentencepiece(path: Path) -> dict[str, Any]:
    """Metadata of a SentencePiece .model file."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(str(path))
    size = model.vocab_size()

    def kind(i: int) -> int:
        for test, value in ((model.is_unknown, UNKNOWN), (model.is_control, CONTROL), (model.is_byte, BYTE)):
            if test(i):
                return value
        return UNUSED if model.is_unused(i) else NORMAL

    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in range(size)],
        "tokenizer.ggml.token_type": np.array([kind(i) for i in range(size)], np.int32),
        "tokenizer.ggml.scores": np.array([model.get_score(i) for i in range(size)], np.float32),
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
        "tokenizer.ggml.add_bos_token": False,
    }


def tekken_ranks(path: Path) -> tuple[dict[bytes, int], str, int]:
    """Ranks of byte sequences, the splitting pattern, and how many special tokens come before rank 0."""
    data = json.loads(path.read_text())
    config = data["config"]
    specials = config["default_num_special_tokens"]
    size = config["default_vocab_size"] - specials
    ranks = {base64.b64decode(token["token_bytes"]): token["rank"] for token in data["vocab"][:size]}
    return ranks, config["pattern"], specials


def of_tekken(path: Path) -> dict[str, Any]:
    """Metadata of a Mistral tekken.json, with the merges that its ranks stand for."""
    ranks, _, specials = tekken_ranks(path)
    characters = byte_characters()
    spelled = {data: "".join(characters[byte] for byte in data) for data in ranks}
    tokens = [f"<SPECIAL_{i}>" for i in range(specials)] + [
        spelled[data] for data in sorted(ranks, key=ranks.__getitem__)
    ]
    types = np.array([CONTROL] * specials + [NORMAL] * len(ranks), np.int32)
    merges = []
    for data in sorted(ranks, key=ranks.__getitem__):
        cuts = [(data[:cut], data[cut:]) for cut in range(1, len(data))]
        pairs = [pair for pair in cuts if pair[0] in ranks and pair[1] in ranks]
        pairs.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [f"{spelled[left]} {spelled[right]}" for left, right in pairs]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "tekken",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    }


def byte_characters() -> list[str]:
    """The printable character for each byte in a byte-level vocabulary."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]
