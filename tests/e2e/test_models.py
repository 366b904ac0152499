"""Several models on one port, fetched, made, loaded and removed by Ollama's own client."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import ollama
import openai
import pytest

from befit import store
from befit.cli import main
from support.files import tiny_file
from support.hub import Hub, serve

from .conftest import ServerProcess

REPOSITORY = "tester/tiny-GGUF"
GREEDY = {"temperature": 0, "num_predict": 6}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Stores of their own, and a hub with one model."""
    root = tmp_path_factory.mktemp("models")
    (root / "hub" / REPOSITORY).mkdir(parents=True)
    tiny_file(root / "hub" / REPOSITORY / "tiny-Q8_0.gguf", storage="q8_0", seed=3)
    tiny_file(root / "first.gguf", storage="q8_0")
    tiny_file(root / "second.gguf", "qwen2", storage="q8_0")
    tiny_file(root / "dense.gguf", storage="f32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEFIT_HOME", str(root / "befit"))
        patch.setenv("HF_HOME", str(root / "huggingface"))
        patch.setenv("OLLAMA_MODELS", str(root / "ollama"))
        store.copy(str(root / "second.gguf"), "stored:1m")
        yield root


@pytest.fixture(scope="module")
def hub(places: Path) -> Iterator[Hub]:
    with serve(places / "hub") as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture(scope="module")
def many(places: Path, hub: Hub) -> Iterator[ServerProcess]:
    server = ServerProcess(places / "first.gguf", str(places / "second.gguf"), "--any-model", "--pull")
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def llama(many: ServerProcess) -> ollama.Client:
    return ollama.Client(many.url)


def running(llama: ollama.Client) -> set[str | None]:
    return {model.model for model in llama.ps().models}


def test_models_come_when_they_are_asked_for_and_go(many: ServerProcess, llama: ollama.Client) -> None:
    assert running(llama) == {"first"}
    answers = {
        name: llama.generate(name, "hello", options=GREEDY).response for name in ("first", "second", "stored:1m")
    }
    assert answers["second"] == answers["stored:1m"] != answers["first"]  # the same weights
    assert running(llama) == {"first", "second", "stored:1m"}
    with openai.OpenAI(base_url=f"{many.url}/v1", api_key="none") as client:
        answer = client.completions.create(model="stored:1m", prompt="hello", max_tokens=3)
        assert (answer.model, answer.usage.completion_tokens) == ("stored:1m", 3)
    assert llama.generate("stored:1m", keep_alive=0).done_reason == "unload"
    assert running(llama) == {"first", "second"}
    assert llama.generate("stored:1m", keep_alive="100ms").done_reason == "load"
    end = time.monotonic() + 60
    while "stored:1m" in running(llama):
        assert time.monotonic() < end
        time.sleep(0.005)


def test_listing_and_showing_what_is_stored(llama: ollama.Client) -> None:
    listed = {model.model: model for model in llama.list().models}
    assert {"first", "second", "stored:1m"} <= set(listed)
    assert listed["stored:1m"].details.family == "qwen2"
    shown = llama.show("stored:1m")
    assert "completion" in shown.capabilities
    assert "im_start" in shown.template
    assert shown.modelinfo["general.architecture"] == "qwen2"
    with pytest.raises(ollama.ResponseError) as raised:
        llama.show("nobody:1b")
    assert raised.value.status_code == 404


def test_pulling_with_progress_and_on_demand(llama: ollama.Client, hub: Hub) -> None:
    parts = list(llama.pull(f"hf.co/{REPOSITORY}:Q8_0", stream=True))
    assert [parts[0].status, parts[-3].status, parts[-2].status, parts[-1].status] == [
        "pulling manifest", "verifying sha256 digest", "writing manifest", "success",
    ]  # fmt: skip
    fetched = [part for part in parts if part.digest]
    data = (hub.root / REPOSITORY / "tiny-Q8_0.gguf").read_bytes()
    assert {part.digest for part in fetched} == {f"sha256:{hashlib.sha256(data).hexdigest()}"}
    assert (fetched[-1].completed, fetched[-1].total) == (len(data), len(data))
    name = f"hf:{REPOSITORY}:Q8_0"
    assert llama.generate(name, "hello", options=GREEDY).done
    llama.delete(name)
    assert name not in running(llama)
    assert llama.generate(name, "hello", options=GREEDY).done  # fetched again
    with pytest.raises(ollama.ResponseError):
        llama.pull(f"hf:{REPOSITORY}:Q2_K")


def test_a_pull_ends_with_its_client_and_goes_on_with_the_next(
    many: ServerProcess, llama: ollama.Client, hub: Hub, places: Path
) -> None:
    folder = hub.root / "tester" / "slow-GGUF"
    folder.mkdir()
    data = tiny_file(places / "slow.gguf", storage="f32", seed=5).read_bytes() + bytes(1 << 24)
    (folder / "slow.gguf").write_bytes(data)
    hub.pause = 0.02
    try:
        with many.http.stream("POST", "/api/pull", json={"model": "hf:tester/slow-GGUF"}) as answer:
            for line in answer.iter_lines():
                if '"completed":' in line and int(line.rpartition('"completed":')[2].rstrip("}")) > 200_000:
                    break
        while hub.open:  # until the server has noticed that nobody wants it any more
            time.sleep(0.005)
        before = sum(path.stat().st_size for path in (places / "huggingface").rglob("*.incomplete"))
        assert 0 < before < len(data)
    finally:
        hub.pause = 0.0
    assert llama.pull("hf:tester/slow-GGUF").status == "success"
    assert any(wanted and not wanted.startswith("bytes=0-") for wanted in hub.fetched("slow.gguf"))


def test_copying_making_and_removing(llama: ollama.Client, places: Path) -> None:
    llama.copy("second", "mine")  # what the server was started with, by the name that it serves
    assert "mine:latest" in {model.model for model in llama.list().models}
    plain = llama.generate("mine", "hello", options=GREEDY)
    settings = {"system": "Say hell.", "parameters": {"num_predict": 3, "stop": ["zzz"], "num_ctx": 64}}
    assert llama.create("terse:1m", from_="mine", **settings).status == "success"
    terse = llama.generate("terse:1m", "hello", options={"temperature": 0})
    assert terse.eval_count == 3
    assert terse.prompt_eval_count > plain.prompt_eval_count  # the system message is in it
    shown = llama.show("terse:1m")
    assert "num_predict 3" in shown.parameters
    assert "num_ctx 64" in shown.parameters
    assert 'SYSTEM """Say hell."""' in shown.modelfile
    for name in ("mine", "terse:1m"):
        llama.delete(name)
    left = {model.model for model in llama.list().models}
    assert not left & {"mine:latest", "terse:1m"}
    with pytest.raises(ollama.ResponseError) as raised:
        llama.delete("mine")
    assert raised.value.status_code == 404


def test_a_template_of_its_own(llama: ollama.Client) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    llama.create("bare:1m", from_="stored:1m", template=template)
    assert llama.show("bare:1m").template == template
    assert llama.generate("bare:1m", "hello", options=GREEDY).prompt_eval_count == 1
    for wrong in ("{{ .Prompt }}", "{% if %}"):
        with pytest.raises(ollama.ResponseError, match="template"):
            llama.create("bare:2m", from_="stored:1m", template=wrong)
    llama.delete("bare:1m")


def test_making_a_model_from_an_upload_and_quantising_it(llama: ollama.Client, places: Path) -> None:
    digest = llama.create_blob(places / "dense.gguf")
    said = [part.status for part in llama.create("up:1m", files={"dense.gguf": digest}, stream=True)]
    assert said[-1] == "success"
    assert llama.show("up:1m").details.quantization_level == "F32"
    assert llama.create("up:8bit", from_="up:1m", quantize="q8_0").status == "success"
    assert llama.show("up:8bit").details.quantization_level == "Q8_0"
    assert llama.generate("up:8bit", "hello", options=GREEDY).done
    for broken in ({"files": {"x.gguf": "sha256:" + "0" * 64}}, {"from_": "up:1m", "quantize": "q3_K"}, {}):
        with pytest.raises(ollama.ResponseError) as raised:
            llama.create("up:2m", **broken)
        assert raised.value.status_code == 400
    for name in ("up:1m", "up:8bit"):
        llama.delete(name)


def test_an_upload_must_be_what_it_says(many: ServerProcess) -> None:
    http, wrong = many.http, f"/api/blobs/sha256:{'0' * 64}"
    assert http.head(wrong).status_code == 404
    assert http.post(wrong, content=b"x").status_code == 400
    right = f"/api/blobs/sha256:{hashlib.sha256(b'x').hexdigest()}"
    assert http.post(right, content=b"x").status_code == 201
    assert http.head(right).status_code == 200
    assert http.head("/api/blobs/..%2fx").status_code in (400, 404)


@pytest.mark.parametrize("path", ["/etc/passwd", "./first.gguf", "first.gguf", "~/x.gguf", "../befit/models/stored/1m"])
def test_clients_name_no_files(many: ServerProcess, path: str) -> None:
    for route, body in (("generate", {"prompt": "x"}), ("show", {}), ("pull", {"stream": False})):
        assert many.http.post(f"/api/{route}", json={"model": path, **body}).status_code == 404
    assert many.http.request("DELETE", "/api/delete", json={"model": path}).status_code == 404


def test_what_the_server_was_started_with_stays(llama: ollama.Client, many: ServerProcess) -> None:
    with pytest.raises(ollama.ResponseError, match="nobody"):
        llama.delete("nobody:1b")
    assert many.http.post("/api/copy", json={"source": "stored:1m"}).status_code == 400


def test_ps_and_stop(many: ServerProcess, llama: ollama.Client, capsys: pytest.CaptureFixture[str]) -> None:
    llama.generate("stored:1m", keep_alive="10m")
    assert main(["ps", "--url", many.url]) == 0
    shown = capsys.readouterr().out
    assert "stored:1m" in shown
    assert "in 9 minutes" in shown or "in 10 minutes" in shown
    assert "for ever" in shown
    assert main(["stop", "stored:1m", "--url", many.url]) == 0
    assert "stored:1m" not in running(llama)
    assert main(["stop", "nobody:1b", "--url", many.url]) == 1
    assert "nobody:1b" in capsys.readouterr().err
    assert main(["ps", "--url", "http://127.0.0.1:9"]) == 1
    assert "127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_is_shared(places: Path) -> None:
    """Both fit alone and not together: the idle one makes room."""
    sizes = ("--memory", "205MB", "--max-seqs", "1", "--token-budget", "64")
    server = ServerProcess(places / "first.gguf", str(places / "second.gguf"), "--kv-tokens", "16384", *sizes)
    try:
        llama = ollama.Client(server.url)
        assert llama.generate("second", "hello", options=GREEDY).done
        assert running(llama) == {"second"}
        assert llama.generate("first", "hello", options=GREEDY).done
        assert running(llama) == {"first"}
        with pytest.raises(ollama.ResponseError, match="--any-model") as raised:
            llama.pull("x:1b")
        assert raised.value.status_code == 403
    finally:
        assert server.stop() == 0
