"""What a GGUF file has to say so that other programs than befit read it right.

Models from Hugging Face folders carry two things that only befit understands: how their tokeniser splits text, step by
step, where GGUF has a name for each way (`tokenizer.ggml.pre`); and Llama's q and k with unpermuted rows, where GGUF
has them permuted for the interleaved rotation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from befit import tokenizer
from befit.models import FAMILIES
from befit.models.program import Attention, Linear, Program
from befit.quantize.perplexity import text
from befit.tokenizer.pipeline import PIPELINE
from befit.tokenizer.pretokenizers import SPLITTINGS
from befit.weights.tensor import QuantFormat

_PRE = "tokenizer.ggml.pre"
_FILE_TYPES = {"q4_0": 2, "q4_1": 3, "q8_0": 7, "q4_k": 14}
"""llama.cpp's `llama_ftype` of a file whose matrices mostly have the format."""

_ODD = (
    " 1234567 12.5\tCamelCaseWord snake_case_word don't I'LL  \n\n\r\n  x=-1;// "
    "привет 你好世界 ﬁ é e\u0301 🙂!!! <a href='b'>\n"
)


def metadata_for_gguf(
    metadata: Mapping[str, Any], program: Program, formats: Mapping[str, QuantFormat]
) -> tuple[dict[str, Any], str | None]:
    """The metadata of a file of these formats; and what could not be said, for people, or None."""
    found = {key: value for key, value in metadata.items() if not _is_nothing(key, value)}
    found.pop(f"{program.family}.rope.interleaved", None)
    names = [fmt.name for fmt in formats.values()]
    if names:
        mostly = max(set(names), key=names.count)
        found["general.file_type"] = _FILE_TYPES.get(mostly, 1)
        found["general.quantization_version"] = 2
    problem = None
    if PIPELINE in found and _PRE not in found and found.get("tokenizer.ggml.model") == "gpt2":
        name = splitting_name(found)
        if name is None:
            problem = (
                "the tokeniser splits text in a way that GGUF has no name for: befit reads the file right, "
                "llama.cpp will split by its default rule"
            )
        else:
            found[_PRE] = name
    return found, problem


def splitting_name(metadata: Mapping[str, Any]) -> str | None:
    """The `tokenizer.ggml.pre` that gives the same tokens as the pipeline in the metadata, if one does.

    Told by what it does to texts of code and an odd one, as GGUF's own converter tells it.
    """
    sample = text("evaluation") + _ODD
    wanted = tokenizer.load(metadata).encode(sample)
    plain = {key: value for key, value in metadata.items() if key != PIPELINE}
    tried = set()
    for name, way in SPLITTINGS.items():
        if way not in tried and tokenizer.load({**plain, _PRE: name}).encode(sample) == wanted:
            return name
        tried.add(way)
    return None


def row_order(program: Program) -> dict[str, npt.NDArray[np.int64]]:
    """New orders of the rows of q and k, weights and biases, where GGUF wants another one than the model has."""
    orders: dict[str, npt.NDArray[np.int64]] = {}
    writers = {}
    for op in program.ops:
        if isinstance(op, Linear):
            writers[op.out] = op
        elif isinstance(op, Attention) and op.rope and FAMILIES[program.family].interleaved and not op.rope.interleaved:
            for value, heads in ((op.q, op.n_heads), (op.k, op.n_kv_heads)):
                order = _interleaved(heads, op.head_dim, op.rope.dim)
                writer = writers[value]
                orders |= {name: order for name in (writer.weight, writer.bias) if name}
    return orders


def _interleaved(heads: int, head_dim: int, turned: int) -> npt.NDArray[np.int64]:
    """Pairs (i, i + turned/2) of each head brought side by side."""
    one = np.arange(head_dim)
    one[:turned] = one[:turned].reshape(2, -1).T.reshape(-1)
    return (np.arange(heads)[:, None] * head_dim + one).reshape(-1)


def _is_nothing(key: str, value: Any) -> bool:
    """A token id of -1 means that there is none, which GGUF says by leaving the key out."""
    return key.endswith("_token_id") and isinstance(value, int) and value < 0
