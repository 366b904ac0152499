"""The CUDA backend on a real model says what the reference says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from befit.backends.reference import ReferenceBackend
from befit.models import describe
from befit.weights.gguf import GGUFFile
from befit.weights.tensor import DenseTensor
from support.steps import generate

THE_CAPITAL_OF_FRANCE_IS = [504, 3575, 282, 4649, 314]

pytestmark = pytest.mark.model


def says(backend, n):
    return [int(result.tokens[0]) for result in generate(backend, THE_CAPITAL_OF_FRANCE_IS, n)]


def test_smollm2_says_the_references_text(smollm2_path, load):
    with GGUFFile.open(smollm2_path) as file:
        program = describe(file.metadata, {name: tensor.shape for name, tensor in file.tensors.items()})
        model = SimpleNamespace(program=program, tensors=file.tensors)
        options = {"block_size": 16, "n_blocks": 8, "max_tokens": 64, "max_rows": 64}
        expected = says(ReferenceBackend(program, file.tensors, **options), 20)
        # Quantised matrices are dequantised anew in each step, which takes a CPU a while, so of these a few tokens do.
        assert says(load(model), 3) == expected[:3]
        dense = {
            name: DenseTensor(name, file.tensors[name].shape, "f32", file.tensors[name].dequantize())
            for name in program.weight_names()
        }
        assert says(load(SimpleNamespace(program=program, tensors=dense)), 20) == expected
