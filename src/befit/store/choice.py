"""Which files of a repository or folder are the model that was asked for: one GGUF file, its parts, or safetensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from befit.errors import ModelNotFound

DEFAULT_QUANTISATION = "q4_k_m"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_QUANTISATION = re.compile(
    r"(?<![a-z0-9])(?:i?q\d(?:_[a-z0-9]+)*|tq\d_\d|mxfp4|bf16|fp?16|fp?32)(?![a-z0-9_])", re.ASCII
)
_NO_MODEL = re.compile(r"(^|[-_.])(mmproj|imatrix)", re.IGNORECASE)
_BESIDE = (
    CONFIG,
    INDEX,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "quantize_config.json",
    "quant_config.json",
)


def is_quantisation(text: str) -> bool:
    """Whether `text` is the name of one, such as Q4_K_M or f16."""
    return _QUANTISATION.fullmatch(text.lower()) is not None


def quantisation(file: str) -> str | None:
    """The quantisation that a GGUF file's name tells, in small letters; the last one where there are several."""
    found = _QUANTISATION.findall(PurePosixPath(file).name.lower())
    return found[-1] if found else None


def models(files: Iterable[str]) -> list[tuple[str, ...]]:
    """The GGUF models among the files: each with its parts in order, sorted by name. Incomplete ones are left out."""
    groups: dict[str, dict[int, str]] = {}
    for file in sorted(files):
        if not file.lower().endswith(".gguf") or _NO_MODEL.search(PurePosixPath(file).name):
            continue
        part = _PART.fullmatch(file)
        groups.setdefault(f"{part['stem']} of {part['count']}" if part else file, {})[
            int(part["number"]) if part else 1
        ] = file
    return [
        tuple(parts[number] for number in sorted(parts))
        for parts in groups.values()
        if sorted(parts) == list(range(1, _count(parts) + 1))
    ]


def _count(parts: dict[int, str]) -> int:
    part = _PART.fullmatch(next(iter(parts.values())))
    return int(part["count"]) if part else 1


def choose(files: Sequence[str], wanted: str | None, where: str) -> tuple[str, ...]:
    """The files that make up the model in a list of paths.

    `wanted` is a file's name, a quantisation, or None: then the only GGUF model there is, the one of 4 bits (Q4_K_M),
    or else the safetensors with what belongs to them. Of a model with parts, all of them, the first one first. Raises
    ModelNotFound with what there is instead.
    """
    found = models(files)
    if wanted is not None and not is_quantisation(wanted):
        for parts in found:
            if wanted in parts or wanted in [PurePosixPath(part).name for part in parts]:
                return parts
        raise ModelNotFound(f"{where}: there is no model file {wanted!r}; {_offer(found, files)}")
    if wanted is not None:
        hits = [parts for parts in found if quantisation(parts[0]) == wanted.lower()]
    elif len(found) == 1:
        hits = found
    else:
        hits = [parts for parts in found if quantisation(parts[0]) == DEFAULT_QUANTISATION]
    if hits:  # a publisher may offer one quantisation whole and in parts
        return min(hits, key=lambda parts: (len(parts), len(parts[0]), parts))
    if wanted is None and not found and CONFIG in files:
        return tensors(files)
    what = f"no {wanted.upper()} file" if wanted else "no file that befit would choose by itself"
    raise ModelNotFound(f"{where}: there is {what}; {_offer(found, files)}")


def tensors(files: Sequence[str]) -> tuple[str, ...]:
    """config.json, the safetensors of the top folder, and what belongs to them."""
    weights = sorted(file for file in files if file.endswith(".safetensors") and "/" not in file)
    if INDEX not in files and any(file.startswith("model") for file in weights):  # others may be the same once more
        weights = [file for file in weights if file.startswith("model")]
    if not weights:
        raise ModelNotFound(f"there are neither GGUF files nor safetensors, but {', '.join(sorted(files)[:8])}.")
    return (*(file for file in _BESIDE if file in files), *weights)


def indexed(files: Sequence[str], index: object, where: str) -> tuple[str, ...]:
    """Those files without the weights that the index does not name: some repositories hold everything twice. Raises
    ModelNotFound when it names others."""
    named = index.get("weight_map") if isinstance(index, dict) else None
    weights = set(map(str, named.values())) if isinstance(named, dict) else set()
    if not weights or not weights <= set(files):
        raise ModelNotFound(f"{where}: its {INDEX} names weights that it does not have.")
    return (*(file for file in files if not file.endswith(".safetensors")), *sorted(weights))


def _offer(found: list[tuple[str, ...]], files: Sequence[str]) -> str:
    if not found:
        return "it has no GGUF files." if files else "it is empty."
    listed = ", ".join(f":{parts[0]}" for parts in found[:12])
    return f"add one of {listed}{' …' if len(found) > 12 else ''}"
