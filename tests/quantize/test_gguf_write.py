"""GGUF files that befit writes, read by another implementation and by befit."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from befit.quantize.gguf_write import tensor_bytes, write_gguf
from befit.quantize.recipe import Quantised
from befit.weights.blocks import Q4_1, Q6_K, Q8_0
from befit.weights.gguf import GGUFFile
from befit.weights.tensor import DenseTensor, Tensor

METADATA = {
    "general.architecture": "llama",
    "general.alignment": 64,
    "split.count": 3,
    "a.count": 7,
    "a.negative": -7,
    "a.large": 2**40,
    "a.very_small": -(2**40),
    "a.float": 1e-5,
    "a.third": 1 / 3,
    "a.huge": 1e300,
    "a.flag": True,
    "a.text": "grüße",
    "a.texts": ["x", "", "日本"],
    "a.numbers": np.array([1, -2, 3], np.int32),
    "a.floats": np.array([0.5, -1.5], np.float32),
    "a.flags": [True, False],
    "a.list": [1, 2, 3],
    "a.nested": [[1, 2], [3]],
    "a.none": [],
}


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    rng = np.random.default_rng(0)
    sources: dict[str, Tensor] = {
        name: DenseTensor(name, shape, "f32", rng.standard_normal(shape).astype(np.float32))
        for name, shape in (("v", (5,)), ("m4", (7, 96)), ("m8", (3, 64)), ("m6", (2, 512)), ("plain", (3, 10)))
    }
    tensors = Quantised(sources, {"m4": Q4_1, "m8": Q8_0, "m6": Q6_K})
    path = tmp_path / "x.gguf"
    size = write_gguf(path, METADATA, tensors)
    assert size == path.stat().st_size
    assert tensor_bytes(tensors) % 32 == 0
    return path, dict(tensors)


def test_another_reader_finds_metadata_and_tensors(written: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = written
    reader = gguf.GGUFReader(path)
    kinds = {key: field.types[-1].name for key, field in reader.fields.items() if key.startswith("a.") and field.types}
    assert kinds["a.count"] == "UINT32"
    assert (kinds["a.negative"], kinds["a.large"], kinds["a.very_small"]) == ("INT32", "UINT64", "INT64")
    assert (kinds["a.float"], kinds["a.third"], kinds["a.huge"]) == ("FLOAT32", "FLOAT32", "FLOAT64")
    assert (kinds["a.flag"], kinds["a.text"], kinds["a.texts"]) == ("BOOL", "STRING", "STRING")
    assert (kinds["a.numbers"], kinds["a.list"], kinds["a.floats"]) == ("INT32", "INT32", "FLOAT32")
    assert reader.fields["a.texts"].contents() == ["x", "", "日本"]
    assert reader.fields["a.text"].contents() == "grüße"
    for theirs in reader.tensors:
        ours = tensors[theirs.name]
        assert tuple(theirs.shape[::-1]) == ours.shape
        values = gguf.quants.dequantize(theirs.data, theirs.tensor_type)
        assert np.allclose(values.reshape(ours.shape), ours.dequantize(), rtol=1e-6)


def test_befit_reads_back_what_it_wrote(written: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = written
    with GGUFFile.open(path) as file:
        assert list(file.tensors) == list(tensors)
        assert [file.infos[name].type.name for name in file.infos] == ["F32", "Q4_1", "Q8_0", "Q6_K", "F16"]
        for name, tensor in tensors.items():
            assert np.array_equal(file.tensors[name].dequantize(), tensor.dequantize())
        for key, value in METADATA.items():
            if key.startswith("a."):
                found = file.metadata[key]
                if isinstance(value, float):
                    assert found == pytest.approx(value, rel=1e-7)
                elif key == "a.nested":
                    assert [list(part) for part in found] == value
                else:
                    assert list(found) == list(value) if isinstance(value, list | np.ndarray) else found == value
        assert "split.count" not in file.metadata
        assert "general.alignment" not in file.metadata


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_gguf(path, {}, {})
    assert path.read_bytes() == b"mine"


def test_metadata_that_gguf_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"metadata key 'a\.b': a value of type dict"):
        write_gguf(tmp_path / "x.gguf", {"a.b": {"c": 1}}, {})
    assert not (tmp_path / "x.gguf").exists()
