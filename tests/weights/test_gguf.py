"""What GGUFFile makes of valid files: metadata, tensors, alignment, parts, closing."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.errors import CorruptFile, ModelError, ModelNotFound, UnsupportedModel
from befit.weights.gguf import GGUFFile
from befit.weights.tensor import DenseTensor, QuantTensor


@pytest.fixture
def save(tmp_path: Path):
    def save(content: bytes, name: str = "model.gguf") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return save


def plain(value: Any) -> Any:
    """Metadata values with arrays as lists."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [plain(item) for item in value] if isinstance(value, list) else value


# --- metadata ---------------------------------------------------------------------------------------------------------

_RANGES = {"u8": (0, 2**8), "i8": (-(2**7), 2**7), "u16": (0, 2**16), "i16": (-(2**15), 2**15), "u32": (0, 2**32)}
_RANGES |= {"i32": (-(2**31), 2**31), "u64": (0, 2**64), "i64": (-(2**63), 2**63)}
_SCALARS: dict[Any, st.SearchStrategy[Any]] = {name: st.integers(a, b - 1) for name, (a, b) in _RANGES.items()}
_SCALARS |= {"f32": st.floats(width=32, allow_nan=False), "f64": st.floats(allow_nan=False)}
_SCALARS |= {"bool": st.booleans(), "str": st.text(max_size=20)}


def typed_values(depth: int) -> st.SearchStrategy[tuple[Any, Any]]:
    """(type, value) pairs, arrays nested up to `depth`."""
    scalars = st.sampled_from(sorted(_SCALARS)).flatmap(lambda kind: st.tuples(st.just(kind), _SCALARS[kind]))
    return st.one_of(scalars, *(nested_arrays(level) for level in range(1, depth + 1)))


def nested_arrays(depth: int) -> st.SearchStrategy[tuple[Any, Any]]:
    def build(kind: str) -> st.SearchStrategy[tuple[Any, Any]]:
        nested, values = kind, _SCALARS[kind]
        for _ in range(depth):
            nested, values = ("array", nested), st.lists(values, max_size=4)
        return st.tuples(st.just(nested), values)

    return st.sampled_from(sorted(_SCALARS)).flatmap(build)


@pytest.mark.parametrize("version", [2, 3])
@given(pairs=st.lists(typed_values(depth=4), max_size=8))
@settings(max_examples=40)
def test_metadata_round_trip(
    gguf_bytes: Any, tmp_path_factory: Any, version: int, pairs: list[tuple[Any, Any]]
) -> None:
    path = tmp_path_factory.getbasetemp() / f"round-trip-{version}.gguf"
    path.unlink(missing_ok=True)
    path.write_bytes(
        gguf_bytes.build([gguf_bytes.Key(f"k{i}", *pair) for i, pair in enumerate(pairs)], version=version)
    )
    with GGUFFile.open(path) as file:
        assert [plain(file.metadata[key]) for key in file.metadata] == [value for _, value in pairs]


def test_metadata_types(gguf_bytes: Any, save: Any) -> None:
    with GGUFFile.open(save(gguf_bytes.small())) as file:
        metadata = file.metadata
    assert metadata["general.architecture"] == "llama"
    assert type(metadata["a.u64"]) is int
    assert metadata["a.bool"] is True
    assert metadata["a.numbers"].dtype == np.int32
    assert metadata["a.flags"].dtype == np.bool_
    assert not metadata["a.numbers"].flags.writeable
    assert metadata["a.words"] == ["", "two", "drei é"]
    assert metadata["a.words"] is metadata["a.words"]
    assert "a.words" in metadata
    assert metadata.get("a.missing", 5) == 5
    assert len(metadata) == len(list(metadata)) == 17


def test_text_that_is_not_utf8_is_an_error_where_it_is_used(gguf_bytes: Any, save: Any) -> None:
    key = gguf_bytes.Key
    content = gguf_bytes.build(
        [key("bad", "str", b"ab\xff"), key("list", ("array", "str"), [b"ok", b"\xc3"]), key("fine", "u8", 1)]
    )
    with GGUFFile.open(save(content)) as file:
        assert file.metadata["fine"] == 1
        with pytest.raises(CorruptFile, match=r"'bad'.*not UTF-8"):
            file.metadata["bad"]
        with pytest.raises(CorruptFile, match=r"'list'.*string 1 of 2 is not UTF-8"):
            file.metadata["list"]
        with pytest.raises(CorruptFile):
            dict(file.metadata)


# --- tensors ----------------------------------------------------------------------------------------------------------


def test_a_file_written_by_the_gguf_package(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(6, 512)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_custom_alignment(256)
    writer.add_token_list(["<s>", "a", "é"])
    writer.add_token_scores([0.0, -1.0, -2.5])
    expected = {}
    kinds = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
    for kind in kinds:
        number = gguf.GGMLQuantizationType[kind]
        data = gguf.quants.quantize(matrix, number)
        writer.add_tensor(kind, data, raw_dtype=None if kind in ("F32", "F16") else number)
        expected[kind] = gguf.quants.dequantize(data, number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with GGUFFile.open(tmp_path / "m.gguf") as file:
        file.check()
        assert file.size == (tmp_path / "m.gguf").stat().st_size
        assert file.metadata["tokenizer.ggml.tokens"] == ["<s>", "a", "é"]
        assert file.metadata["tokenizer.ggml.scores"].tolist() == [0.0, -1.0, -2.5]
        assert list(file.tensors) == kinds
        for name, tensor in file.tensors.items():
            assert tensor.shape == file.shapes[name] == (6, 512)
            assert isinstance(tensor, QuantTensor if name.startswith("Q") else DenseTensor)
            np.testing.assert_array_equal(tensor.dequantize(), expected[name])
            np.testing.assert_array_equal(tensor.dequantize(1, 3), expected[name][1:3])


@pytest.mark.parametrize("version", [2, 3])
def test_tensors_are_views_of_the_file(gguf_bytes: Any, save: Any, version: int) -> None:
    with GGUFFile.open(save(gguf_bytes.small(version))) as file:
        norm, matrix, half = file.tensors["norm"], file.tensors["matrix"], file.tensors["half"]
    assert isinstance(norm, DenseTensor)
    assert norm.data.tolist() == [1, 2, 3, 4]
    assert isinstance(matrix, QuantTensor)
    assert matrix.format.name == "q4_0"
    assert matrix.shape == (2, 32)
    assert matrix.raw.shape == (2, 18)
    assert matrix.raw.tobytes() == bytes(range(36))
    assert matrix.raw.flags.c_contiguous
    assert not matrix.raw.flags.writeable
    assert not matrix.raw.flags.owndata
    assert half.shape == (2, 2, 2)
    assert norm.data.flags.aligned
    assert (norm.nbytes, matrix.nbytes) == (16, 36)


def test_the_alignment_of_the_file_is_honoured(gguf_bytes: Any, save: Any) -> None:
    for alignment in (8, 32, 4096):
        keys = [gguf_bytes.Key("general.alignment", "u32", alignment)]
        tensors = [gguf_bytes.Entry(str(i), [3], 0, np.full(3, i, "<f4").tobytes()) for i in range(3)]
        with GGUFFile.open(save(gguf_bytes.build(keys, tensors, alignment=alignment))) as file:
            assert [file.tensors[str(i)].dequantize().tolist() for i in range(3)] == [[i] * 3 for i in range(3)]


def test_a_type_that_befit_cannot_read_is_an_error_before_any_weight(gguf_bytes: Any, save: Any) -> None:
    with GGUFFile.open(save(gguf_bytes.small())) as file:
        assert file.shapes["exotic"] == (1, 256)
        assert "exotic" in file.tensors
        file.check(["norm", "matrix"])
        for reading in (lambda: file.tensors["exotic"], file.check, lambda: dict(file.tensors)):
            with pytest.raises(
                UnsupportedModel, match="'exotic' has type IQ2_XS, which befit cannot read; use a Q4_K_M"
            ):
                reading()
        with pytest.raises(
            UnsupportedModel, match=r"'blk\.0\.attn_q\.weight', which the model needs, is not in the file"
        ):
            file.check(["blk.0.attn_q.weight"])
        with pytest.raises(KeyError):
            file.tensors["blk.0.attn_q.weight"]


def test_quantised_tensors_have_two_dimensions(gguf_bytes: Any, save: Any) -> None:
    entries = [gguf_bytes.Entry("experts", [32, 2, 3], 8, bytes(34 * 6)), gguf_bytes.Entry("line", [32], 8, bytes(34))]
    with GGUFFile.open(save(gguf_bytes.build([], entries))) as file:
        with pytest.raises(UnsupportedModel, match=r"'experts' has type Q8_0 and 3 dimensions \[3, 2, 32\]"):
            file.tensors["experts"]
        with pytest.raises(UnsupportedModel, match=r"'experts'.*1 more tensors"):
            file.check()


def test_a_type_nobody_knows_yet(gguf_bytes: Any, save: Any) -> None:
    with GGUFFile.open(save(gguf_bytes.build([], [gguf_bytes.Entry("new", [7, 7], 999, bytes(64))]))) as file:
        assert file.infos["new"].nbytes == 0
        with pytest.raises(UnsupportedModel, match="type number 999"):
            file.tensors["new"]


# --- life of the map --------------------------------------------------------------------------------------------------


def test_tensors_and_metadata_outlive_the_file(gguf_bytes: Any, save: Any) -> None:
    file = GGUFFile.open(save(gguf_bytes.small()))
    norm, metadata, tensors = file.tensors["norm"], file.metadata, file.tensors
    file.close()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        tensors["norm"]
    with pytest.raises(ValueError, match="closed"):
        file.release(norm)
    del file, tensors
    gc.collect()
    assert norm.dequantize().tolist() == [1, 2, 3, 4]
    assert metadata["a.words"][1] == "two"


def _resident_file_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssFile:")[1].split()[0]) * 1024


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
def test_released_tensors_take_no_memory_and_read_again(gguf_bytes: Any, save: Any) -> None:
    rows = np.arange(8 << 20, dtype=np.uint32).view(np.float32)
    path = save(gguf_bytes.build([], [gguf_bytes.Entry("big", [1024, 8192], 0, rows.tobytes())]))
    with GGUFFile.open(path) as file:
        big = file.tensors["big"]
        assert isinstance(big, DenseTensor)
        first = int(big.data.view(np.uint32).sum(dtype=np.uint64))
        read = _resident_file_bytes()
        file.release(big)
        assert _resident_file_bytes() < read - (24 << 20)
        assert int(big.data.view(np.uint32).sum(dtype=np.uint64)) == first


# --- split models -----------------------------------------------------------------------------------------------------


def split_parts(gguf_bytes: Any, tmp_path: Path, count: int = 3, tensors: int | None = None) -> list[Path]:
    paths = []
    for index in range(count):
        keys = [
            gguf_bytes.Key("split.no", "u16", index),
            gguf_bytes.Key("split.count", "u16", count),
            gguf_bytes.Key("split.tensors.count", "i32", count if tensors is None else tensors),
        ]
        if index == 0:
            keys.append(gguf_bytes.Key("general.architecture", "str", "llama"))
        entry = gguf_bytes.Entry(f"t{index}", [2], 0, np.full(2, index, "<f4").tobytes())
        paths.append(tmp_path / f"big-{index + 1:05}-of-{count:05}.gguf")
        paths[-1].write_bytes(gguf_bytes.build(keys, [entry]))
    return paths


def test_any_part_opens_the_whole_model(gguf_bytes: Any, tmp_path: Path) -> None:
    paths = split_parts(gguf_bytes, tmp_path)
    for path in paths:
        with GGUFFile.open(path) as file:
            assert file.path == paths[0]
            assert file.size == sum(p.stat().st_size for p in paths)
            assert file.metadata["general.architecture"] == "llama"
            assert [tensor.dequantize().tolist() for tensor in file.tensors.values()] == [[0, 0], [1, 1], [2, 2]]
            for tensor in file.tensors.values():
                file.release(tensor)


def test_parts_that_do_not_belong_together(gguf_bytes: Any, tmp_path: Path) -> None:
    one, two, three = split_parts(gguf_bytes, tmp_path)
    saved = two.read_bytes()
    two.unlink()
    with pytest.raises(ModelNotFound, match=r"part 2 of 3 is missing; fetch all 3 parts"):
        GGUFFile.open(one)
    two.write_bytes(three.read_bytes())
    with pytest.raises(CorruptFile, match="says it is part 3 of 3 and is named part 2 of 3"):
        GGUFFile.open(three)
    two.write_bytes(saved.replace(b"t1", b"t0"))
    with pytest.raises(CorruptFile, match="'t0' is also in"):
        GGUFFile.open(one)
    two.write_bytes(saved)
    alone = one.rename(tmp_path / "renamed.gguf")
    with pytest.raises(ModelNotFound, match="part 1 of 3, and befit finds the others by name"):
        GGUFFile.open(alone)
    split_parts(gguf_bytes, tmp_path, tensors=4)
    with pytest.raises(CorruptFile, match="announces 4 tensors and all parts hold 3"):
        GGUFFile.open(one)


# --- paths ------------------------------------------------------------------------------------------------------------


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        GGUFFile.open(tmp_path / "nothing.gguf")
    with pytest.raises(ModelError, match="not a regular file"):
        GGUFFile.open(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="not a regular file"):
        GGUFFile.open(tmp_path / "pipe")
    with pytest.raises(ModelError, match="cannot be opened"):
        GGUFFile.open("nul\0byte")


# --- real models ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.model
def test_smollm2_equals_the_oracle(smollm2_path: Path) -> None:
    oracle = gguf.GGUFReader(smollm2_path)
    with GGUFFile.open(smollm2_path) as file:
        file.check()
        assert file.metadata["general.architecture"] == "llama"
        tokens = oracle.get_field("tokenizer.ggml.tokens").contents()
        assert file.metadata["tokenizer.ggml.tokens"] == tokens
        assert (
            file.metadata["tokenizer.ggml.token_type"].tolist()
            == oracle.get_field("tokenizer.ggml.token_type").contents()
        )
        assert list(file.tensors) == [theirs.name for theirs in oracle.tensors]
        for theirs in oracle.tensors:
            ours = file.tensors[theirs.name]
            assert list(ours.shape) == theirs.shape.tolist()[::-1]
            rows = slice(0, 64)
            expected = gguf.quants.dequantize(theirs.data[rows], theirs.tensor_type)
            np.testing.assert_array_equal(ours.dequantize(0, 64), expected)


@pytest.mark.qwen
def test_qwen_equals_the_oracle_row_by_row(qwen_path: Path) -> None:
    with GGUFFile.open(qwen_path) as file:
        file.check()
        assert len(file.metadata["tokenizer.ggml.tokens"]) == 151936
        kinds = {info.type.name for info in file.infos.values()}
        assert {"Q4_K", "Q5_0", "Q6_K", "Q8_0"} <= kinds
        for name, tensor in file.tensors.items():
            if isinstance(tensor, QuantTensor):
                number = gguf.GGMLQuantizationType[tensor.format.name.upper()]
                expected = gguf.quants.dequantize(tensor.raw[-8:], number)
                np.testing.assert_array_equal(tensor.dequantize(-8), expected, err_msg=name)
