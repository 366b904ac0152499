"""Where tensors lie follows from the program and nothing else."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from befit.errors import UnsupportedModel
from befit.prepared.plan import packed_bytes, plain_bytes, plan, program_json, sections_json
from befit.weights.tensor import QuantTensor
from support.tiny import FAMILY_NAMES, TinyModel, tiny_model


def formats(model: TinyModel) -> dict[str, Any]:
    return {
        name: (tensor.format.name if isinstance(tensor, QuantTensor) else tensor.dtype, tensor.shape)
        for name, tensor in model.tensors.items()
    }


@given(family=st.sampled_from(FAMILY_NAMES), tied=st.booleans(), storage=st.sampled_from(["f16", "q4_0", "q8_0"]))
def test_every_tensor_has_a_place_of_its_own(family: str, tied: bool, storage: str) -> None:
    model = tiny_model(family, tied=tied, storage=storage)
    sections, end = plan(model.program, formats(model))
    assert {section.name for section in sections} == set(model.tensors)
    assert end == sections[-1].offset + sections[-1].nbytes
    for before, after in pairwise(sections):
        assert before.offset + before.nbytes <= after.offset < before.offset + before.nbytes + 4096
    for section in sections:
        assert section.offset % (4096 if section.role == "table" else 64) == 0
    roles = [section.role for section in sections if section.name == "token_embd.weight"]
    assert roles == (["table", "matrix"] if tied else ["table"])


def test_the_same_program_gives_the_same_bytes() -> None:
    one, two = tiny_model("gemma3"), tiny_model("gemma3", seed=1)
    assert program_json(one.program) == program_json(two.program)
    assert sections_json(plan(one.program, formats(one))[0]) == sections_json(plan(two.program, formats(two))[0])
    assert program_json(one.program) != program_json(tiny_model("gemma3", rope__freq_base=1e6).program)


def test_sizes() -> None:
    assert plain_bytes("w", "q4_0", (3, 64)) == 3 * 2 * 18
    assert plain_bytes("w", "bf16", (3, 5)) == 30
    # Rows come in tiles of 16; a group of 32 columns takes its integers and a step a row, and a row a unit.
    assert packed_bytes("w", "q4_0", (17, 64)) == 2 * (2 * (256 + 32) + 64)
    assert packed_bytes("w", "f32", (3, 5)) == 16 * 5 * 4


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        ("q4_0", (3, 33)),
        ("q4_0", (64,)),
        ("q3_k", (1, 256)),
        ("f32", ()),
        ("f32", (1, 0)),
        ("f32", (1 << 30, 1)),
        ("f32", (1, 1, 1, 1, 1)),
    ],
)
def test_what_cannot_be_packed(form: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(UnsupportedModel, match="tensor w"):
        plain_bytes("w", form, shape)
    with pytest.raises(UnsupportedModel, match="tensor w"):
        packed_bytes("w", form, shape)


def test_a_vector_is_no_matrix() -> None:
    with pytest.raises(UnsupportedModel, match="no matrix"):
        packed_bytes("w", "f32", (64,))
