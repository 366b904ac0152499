"""From a dense model to a smaller one on disk: that it loads, says what it is, and is never half there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from befit import LLM, SamplingParams
from befit.errors import BuildMismatch, ConfigError, CorruptFile, DoesNotFit
from befit.prepared.manifest import read_manifest
from befit.quantize import convert as module
from befit.quantize.convert import convert
from befit.quantize.recipe import TARGETS, Target
from befit.weights.gguf import GGUFFile
from support.files import VOCAB, tiny_file
from support.hf import hf_arrays, hf_config, write_folder
from support.tiny import tiny_model


def quantise(source: Path, target: Path, to: Target = "w4", **options: object) -> module.Report:
    return convert(source, target, to=to, name="tiny", threads=2, **options)  # type: ignore[arg-type]


def answer(model: Path) -> list[int]:
    params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
    with LLM(str(model), ctx=64, kv_tokens=128) as llm:
        [output] = llm.generate("hello hello", params, use_tqdm=False)
    return output.outputs[0].token_ids


@pytest.mark.parametrize("to", TARGETS)
def test_a_file_and_a_folder_hold_the_same_model(dense: Path, tmp_path: Path, to: Target) -> None:
    file = quantise(dense, tmp_path / "q.gguf", to)
    folder = quantise(dense, tmp_path / "q", to)
    assert answer(file.target) == answer(folder.target)
    assert file.bytes == folder.bytes < file.source_bytes * (0.56 if to == "w8" else 0.4)
    assert file.before == folder.before
    assert file.after == pytest.approx(folder.after, rel=1e-6)
    assert file.before is not None
    assert file.after == pytest.approx(file.before, rel=0.2)
    assert read_manifest(folder.target).quantised == f"{to}/auto"


def test_formats_by_role_and_row_length(dense: Path, tmp_path: Path) -> None:
    kinds = {}
    for to, blocks in (("w8", "auto"), ("w4", "auto"), ("w4", "q4_0"), ("w4", "q4_1")):
        with GGUFFile.open(
            quantise(dense, tmp_path / f"{to}-{blocks}.gguf", to, blocks=blocks, measured=False).target
        ) as file:  # type: ignore[arg-type]
            kinds[to, blocks] = {name: info.type.name for name, info in file.infos.items()}
            assert file.metadata["general.quantization_version"] == 2
            assert file.metadata["general.file_type"] == {"q4_0": 2, "q4_1": 3}.get(blocks, 7 if to == "w8" else 14)
            assert file.metadata["tokenizer.chat_template"].startswith("{%")
    assert set(kinds["w8", "auto"].values()) == {"Q8_0", "F32"}
    assert kinds["w4", "auto"]["token_embd.weight"] == "Q6_K"  # tied: it is the head too
    assert kinds["w4", "auto"]["blk.0.ffn_up.weight"] == "Q4_K"
    assert kinds["w4", "q4_0"]["blk.0.ffn_up.weight"] == "Q4_0"
    assert kinds["w4", "q4_1"]["blk.0.ffn_up.weight"] == "Q4_1"
    assert kinds["w4", "q4_0"]["blk.0.attn_norm.weight"] == "F32"
    odd = tiny_file(tmp_path / "odd.gguf", storage="f32", hidden=96, ffn=80)
    with GGUFFile.open(quantise(odd, tmp_path / "odd-q.gguf", measured=False).target) as file:
        assert file.infos["blk.0.ffn_up.weight"].type.name == "Q4_1"
        assert file.infos["blk.0.ffn_down.weight"].type.name == "F16"  # 80 columns are no whole blocks
        assert file.infos["token_embd.weight"].type.name == "Q8_0"


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_hugging_face_folder_becomes_the_file_that_its_gguf_would(tmp_path: Path, family: str) -> None:
    """q and k of a Llama are permuted, splitting has GGUF's name, and what only befit understands does not mislead."""
    model = tiny_model(family, vocab=VOCAB)
    folder = write_folder(tmp_path / "hf", hf_config(model), hf_arrays(model, "F32"))
    report = quantise(folder, tmp_path / "hf.gguf", "w8")
    assert report.after == pytest.approx(report.before, rel=0.02)
    other = quantise(tiny_file(tmp_path / "x.gguf", family), tmp_path / "q.gguf", "w8", measured=False)
    with GGUFFile.open(report.target) as ours, GGUFFile.open(other.target) as expected:
        for name in ours.tensors:
            assert np.array_equal(ours.tensors[name].dequantize(), expected.tensors[name].dequantize()), name
        assert ours.metadata["tokenizer.ggml.pre"] == "gpt-2"
        assert f"{family}.rope.interleaved" not in ours.metadata
        assert not [key for key, value in ours.metadata.items() if key.endswith("_token_id") and value < 0]
    assert answer(report.target) == answer(quantise(folder, tmp_path / "q", "w8", measured=False).target)


def test_a_quantised_source_is_taken_with_a_warning(tmp_path: Path) -> None:
    source = tiny_file(tmp_path / "q8.gguf", storage="q8_0")
    said: list[str] = []
    report = quantise(source, tmp_path / "q.gguf", measured=False, say=said.append)
    assert said == report.notes == ["the source is quantised already (q8_0); what it has lost stays lost"]


def test_what_is_in_the_way_is_left_alone(dense: Path, tmp_path: Path) -> None:
    there = tmp_path / "q.gguf"
    there.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="--force replaces it"):
        quantise(dense, there)
    assert there.read_bytes() == b"mine"
    with pytest.raises(ConfigError, match="the source itself"):
        quantise(dense, dense, force=True)
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(ConfigError, match="no file"):
        quantise(dense, tmp_path / "folder.gguf", force=True)
    assert quantise(dense, there, force=True, measured=False).target == there
    with GGUFFile.open(there) as file:
        assert file.infos


def test_damaged_weights_are_refused_by_name(tmp_path: Path) -> None:
    source = tiny_file(tmp_path / "x.gguf", storage="f32")
    with GGUFFile.open(source) as file:
        start = file.infos["blk.1.ffn_up.weight"].start
    data = bytearray(source.read_bytes())
    data[start : start + 4] = np.float32(np.nan).tobytes()
    source.write_bytes(data)
    with pytest.raises(CorruptFile, match=r"blk\.1\.ffn_up\.weight, rows 0 to"):
        quantise(source, tmp_path / "q.gguf")
    assert os.listdir(tmp_path) == ["x.gguf"]


def test_a_full_disk_is_said_before_anything_is_written(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DoesNotFit, match="free"):
        quantise(dense, tmp_path / "q.gguf")
    assert os.listdir(tmp_path) == []


def test_a_killed_run_leaves_no_file_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    source = tiny_file(tmp_path / "x.gguf", storage="f32", hidden=512, ffn=2048, n_layers=4)
    code = (
        "import sys, time; from pathlib import Path; from befit.quantize import convert as c, gguf_write\n"
        "write, written = gguf_write._write, []\n"
        "def stuck(file, tensor):\n"
        "    written.append(tensor); file.flush()\n"
        "    if len(written) == 3: print('writing', flush=True); time.sleep(600)\n"
        "    return write(file, tensor)\n"
        "gguf_write._write = stuck\n"
        "c.convert(Path(sys.argv[1]), Path(sys.argv[2]), to='w4', name='x', threads=1)\n"
    )
    target = tmp_path / "q.gguf"
    command = [sys.executable, "-c", code, str(source), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        partial = [name for name in os.listdir(tmp_path) if name.endswith(".partial")]
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(partial) == 1
    assert not target.exists()
    quantise(source, target, measured=False)
    assert sorted(os.listdir(tmp_path)) == ["q.gguf", "x.gguf"]


def test_a_folder_is_made_anew_as_it_was_when_its_source_changes(tmp_path: Path) -> None:
    source = tiny_file(tmp_path / "x.gguf", storage="f16", seed=1)
    folder = quantise(source, tmp_path / "q", "w4", blocks="q4_0", measured=False).target
    before = answer(folder)
    time.sleep(0.01)
    tiny_file(source, storage="f16", seed=2)
    assert answer(folder) != before
    assert read_manifest(folder).quantised == "w4/q4_0"
    sections = json.loads((folder / "tensors.json").read_bytes())
    assert {section["format"] for section in sections if section["name"] == "blk.0.ffn_up.weight"} == {"q4_0"}


def test_a_folder_whose_manifest_cannot_be_read_is_not_built_from_the_dense_source(tmp_path: Path) -> None:
    source = tiny_file(tmp_path / "x.gguf", storage="f16")
    folder = quantise(source, tmp_path / "q", measured=False).target
    manifest = folder / "befit-build.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(BuildMismatch, match="its source is not known"):
        LLM(str(folder))


def test_measuring_what_does_not_fit_is_left_out_and_said(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: 10**6)
    report = quantise(dense, tmp_path / "q.gguf")
    assert (report.before, report.after) == (None, None)
    assert [note.split(" was")[0] for note in report.notes] == ["perplexity before", "perplexity after"]


def test_an_unknown_target_is_refused(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="w8, w4, w4-awq"):
        quantise(dense, tmp_path / "q.gguf", "w3")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="auto, q4_0, q4_1, q4_k"):
        quantise(dense, tmp_path / "q.gguf", blocks="q9")
