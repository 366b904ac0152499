"""Where every tensor lies in `weights.bin`: computed from the program alone, by the writer and again by the reader."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from befit.backends.cuda.arrays import ARRAYS, arrays
from befit.errors import UnsupportedModel
from befit.models.program import Embed, Linear, Logits, Program
from befit.weights.blocks import ALL_FORMATS

PAGE = 4096
_LINE = 64
_DENSE_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
_LARGEST = 1 << 30

Target = Literal["native", "cuda"]
"""The backend that a folder is for."""
PLAIN = ("table", "vector")
"""Roles of tensors that are as they are in the source file."""
ROLES: dict[str, tuple[str, ...]] = {"native": (*PLAIN, "matrix"), "cuda": ("vector", *ARRAYS)}
"""What sections of a folder for a backend can be."""


@dataclass(frozen=True, slots=True)
class Section:
    """A tensor, or an array of it, in `weights.bin`: `nbytes` bytes from `offset`.

    role: for the native backend a "matrix" is packed for the kernels; a "table", of which rows are looked up, and a
    "vector" are as they are in the source file. A weight that is looked up and multiplied with has two sections. For
    cards a matrix has a section for each of its arrays, whose name is the role (see backends/cuda/arrays.py). format:
    of the source file. shape: of the tensor.
    """

    name: str
    role: str
    format: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def kind(self) -> str:
        """The format without its details, for people."""
        return self.format.partition("/")[0]


def plan(
    program: Program, tensors: Mapping[str, tuple[str, tuple[int, ...]]], target: Target = "native"
) -> tuple[list[Section], int]:
    """All sections in order, and the bytes that they take together. `tensors`: format and shape by name.

    Tables and arrays begin at pages, so that they can be mapped; the rest begins at cache lines. Matrices lie in the
    order in which the program uses them.
    """
    if target == "cuda":
        return _placed(_for_cards(program, tensors))
    tables = dict.fromkeys(op.weight for op in program.ops if isinstance(op, Embed))
    matrices = dict.fromkeys(op.weight for op in program.ops if isinstance(op, Linear | Logits))
    vectors = [name for name in tensors if name not in tables and name not in matrices]
    roles = [(name, "table") for name in tables]
    roles += [(name, "vector") for name in vectors]
    roles += [(name, "matrix") for name in matrices]
    return _placed((name, role, *tensors[name]) for name, role in roles)


def _for_cards(
    program: Program, tensors: Mapping[str, tuple[str, tuple[int, ...]]]
) -> Iterator[tuple[str, str, str, tuple[int, ...]]]:
    matrices = card_matrices(program)
    yield from ((name, "vector", *facts) for name, facts in tensors.items() if name not in matrices)
    for name in matrices:
        yield from ((name, array.name, *tensors[name]) for array in arrays(name, *tensors[name]))


def card_matrices(program: Program) -> dict[str, None]:
    """The weights that are looked up in or multiplied with, in the order of their use."""
    return dict.fromkeys(op.weight for op in program.ops if isinstance(op, Embed | Linear | Logits))


def _placed(wanted: Iterable[tuple[str, str, str, tuple[int, ...]]]) -> tuple[list[Section], int]:
    """Sections of name, role, format and shape, one behind the other."""
    sections: list[Section] = []
    end = 0
    for name, role, form, shape in wanted:
        alignment = _LINE if role in ("vector", "matrix") else PAGE
        start = -(-end // alignment) * alignment
        size = section_bytes(name, role, form, shape)
        sections.append(Section(name, role, form, shape, start, size))
        end = start + size
    return sections, end


def section_bytes(name: str, role: str, form: str, shape: tuple[int, ...]) -> int:
    """Bytes of a section. Raises UnsupportedModel."""
    if role in PLAIN:
        return plain_bytes(name, form, shape)
    if role == "matrix":
        return packed_bytes(name, form, shape)
    sizes = {array.name: array.nbytes for array in arrays(name, form, shape)}
    if role not in sizes:
        raise UnsupportedModel(f"tensor {name} of format {form!r:.40} has no array {role!r:.20}.")
    return sizes[role]


def plain_bytes(name: str, form: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor in the source file. Raises UnsupportedModel for what befit has no tensor for."""
    _check_shape(name, shape)
    if form in _DENSE_BYTES:
        return prod(shape) * _DENSE_BYTES[form]
    block = ALL_FORMATS.get(form)
    if block is None or len(shape) != 2 or shape[1] % block.block:
        raise UnsupportedModel(
            f"tensor {name} of format {form!r:.20} and shape {list(shape)} is none that befit packs."
        )
    return shape[0] * (shape[1] // block.block) * block.block_bytes


def packed_bytes(name: str, form: str, shape: tuple[int, ...]) -> int:
    """Bytes of a matrix in the kernels' tiles. Raises UnsupportedModel."""
    from befit.backends.native import _native

    plain_bytes(name, form, shape)
    if len(shape) != 2:
        raise UnsupportedModel(f"tensor {name} of shape {list(shape)} is no matrix.")
    return _native.packed_bytes(*shape, form)


def _check_shape(name: str, shape: tuple[int, ...]) -> None:
    if not 1 <= len(shape) <= 4 or not all(0 < size < _LARGEST for size in shape):
        raise UnsupportedModel(f"tensor {name} has shape {list(shape)}; sizes from 1 to 2^30 - 1 can be packed.")


def sections_json(sections: list[Section]) -> bytes:
    """`tensors.json`, a line a section."""
    lines = ",\n ".join(json.dumps(_fields(section)) for section in sections)
    return f"[\n {lines}\n]\n".encode()


def program_json(program: Program) -> bytes:
    """`program.json`, a line an op: the same program gives the same bytes."""
    head = {name: value for name, value in _fields(program).items() if name != "ops"}
    lines = ",\n  ".join(json.dumps({"op": type(op).__name__, **_fields(op)}, default=_fields) for op in program.ops)
    return f'{{"program": {json.dumps(head)},\n "ops": [\n  {lines}\n ]}}\n'.encode()


def _fields(record: Any) -> dict[str, Any]:
    """The fields of a dataclass with slots; `dataclasses.asdict` copies every value and takes ten times as long."""
    return {name: getattr(record, name) for name in record.__slots__}
