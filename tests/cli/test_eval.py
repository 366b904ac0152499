"""`befit eval` as a user runs it: against a scripted server, and with a befit serve of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from befit.cli import main
from befit.errors import ConfigError
from befit.eval import sandbox
from support.fake_openai import FakeOpenAI, whole
from support.files import tiny_file

Script = Callable[[dict[str, Any]], Any]


def _problem(number: int) -> dict[str, str]:
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": f'def f{number}(a):\n    """a plus {number}"""\n',
        "entry_point": f"f{number}",
        "test": f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
        "canonical_solution": f"    return a + {number}\n",
    }


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    try:
        sandbox.run("")
    except ConfigError as error:
        pytest.skip(f"this machine does not permit it: {error}")
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(json.dumps(_problem(number)) for number in range(4)))
    return path


@pytest.fixture
def serve() -> Iterator[Callable[[Script], FakeOpenAI]]:
    servers = []

    def serve(script: Script) -> FakeOpenAI:
        servers.append(FakeOpenAI(script))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def plus_two(body: dict[str, Any]) -> Any:
    """Right for one problem of the four: the same completion for all."""
    text = "    return a + 2\n\n# and so on"
    return whole({"choices": [{"text": text, "finish_reason": "stop"}], "usage": {"completion_tokens": 7}})


def test_greedy_completions_are_judged_and_reported(
    problems: Path, serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, report = serve(plus_two), tmp_path / "report.json"
    arguments = ["eval", "humaneval", "--url", server.url, "--problems", str(problems), "--json", str(report)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "pass@1  25.0%" in out
    assert "1 of 4 problems solved" in out
    written = json.loads(report.read_text())
    assert written["summary"] == {
        "pass_at": {"pass@1": 0.25}, "passed": 1, "answers": 4, "tokens": 28, "cut_by_length": 0
    }  # fmt: skip
    assert written["items"]["HumanEval/2#0"]["passed"]
    assert written["items"]["HumanEval/1#0"]["why"] == "AssertionError"
    assert written["items"]["HumanEval/2#0"]["text"] == "    return a + 2\n"
    assert {body["temperature"] for body in server.bodies} == {0}

    asked = len(server.bodies)
    assert main([*arguments, "--against", str(report)]) == 0
    assert len(server.bodies) == asked  # gone on with, and nothing was left to do
    assert "4 of 4 texts are the same" in capsys.readouterr().out


def test_a_run_that_broke_is_gone_on_with(problems: Path, serve: Any, tmp_path: Path) -> None:
    answered = []

    def breaks(body: dict[str, Any]) -> Any:
        answered.append(body["prompt"])
        return plus_two(body) if len(answered) < 3 else whole({"error": {"message": "broken"}}, "500 Oops")

    report = tmp_path / "report.json"
    server = serve(breaks)
    arguments = ["eval", "humaneval", "--url", server.url, "--problems", str(problems), "--json", str(report)]
    assert main([*arguments, "--concurrency", "1"]) == 1
    assert len(json.loads(report.read_text())["items"]) == 2
    server.script = plus_two
    assert main(arguments) == 0
    assert len(server.bodies) == 3 + 2
    assert len(json.loads(report.read_text())["items"]) == 4


def test_samples_differ_by_their_seeds(
    problems: Path, serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def by_seed(body: dict[str, Any]) -> Any:
        return whole({"choices": [{"text": f"    return a + {body['seed'] % 4}\n", "finish_reason": "stop"}]})

    server = serve(by_seed)
    arguments = ["eval", "humaneval", "--url", server.url, "--problems", str(problems)]
    assert main([*arguments, "--samples", "12"]) == 0
    assert sorted({body["seed"] for body in server.bodies}) == list(range(1, 13))
    out = capsys.readouterr().out  # each problem was solved in 3 of 12
    assert "pass@1  25.0%" in out
    assert "pass@10  100.0%" in out
    assert main([*arguments, "--samples", "2", "--temperature", "0"]) == 2


def test_a_chat_is_asked_for_the_whole_function(problems: Path, serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def chat(body: dict[str, Any]) -> Any:
        assert '"""a plus' in body["messages"][0]["content"]
        text = "Sure!\n```python\ndef f1(a):\n    return a + 1\n```"
        return whole({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})

    server = serve(chat)
    assert main(["eval", "humaneval", "--chat", "--url", server.url, "--problems", str(problems)]) == 0
    assert "1 of 4" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["line", "block"])
def test_holes_are_filled_over_infill(
    kind: str, serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, report = serve(lambda body: whole({"content": "    pass\n", "stop_type": "eos"})), tmp_path / "r.json"
    arguments = ["eval", "fim", "--kind", kind, "--holes", "6", "--url", server.url, "--json", str(report)]
    assert main(arguments) == 0
    assert "exact            0 of 6" in capsys.readouterr().out
    assert len(json.loads(report.read_text())["items"]) == 6
    assert {tuple(body["stop"]) for body in server.bodies} == {("\n",) if kind == "line" else ()}
    assert all(body["input_prefix"] and body["input_suffix"] for body in server.bodies)


def test_one_server_is_named(problems: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "humaneval", "--problems", str(problems)]) == 2
    assert "--url" in capsys.readouterr().err
    assert main(["eval", "fim", "--url", "http://127.0.0.1:9/v1"]) == 1
    assert "Nothing answers" in capsys.readouterr().err


def test_a_model_is_served_for_it_and_its_backends_agree_on_a_text(
    problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_file(tmp_path / "tiny.gguf")
    arguments = ["eval", "humaneval", str(model), "--problems", str(problems), "--max-tokens", "4"]
    assert main([*arguments, "--befit", "--ctx 256 --threads 1"]) == 0
    assert "0 of 4 problems solved" in capsys.readouterr().out

    found = {}
    (tmp_path / "text.py").write_text("def hello(world):\n    return world\n" * 4)
    for backend in ("native", "reference"):
        report = tmp_path / f"{backend}.json"
        options = ["--backend", backend, "--window", "64", "--json", str(report)]
        assert main(["eval", "perplexity", str(tmp_path / "text.py"), str(model), *options]) == 0
        found[backend] = json.loads(report.read_text())["summary"]
    assert found["native"]["perplexity"] == pytest.approx(found["reference"]["perplexity"], rel=0.005)
    assert found["native"]["scored"] == found["native"]["tokens"] - found["native"]["windows"] > 100


def test_a_text_without_tokens_has_no_perplexity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").write_text("")
    assert main(["eval", "perplexity", str(tmp_path / "empty"), str(tiny_file(tmp_path / "tiny.gguf"))]) == 1
    assert "less than two tokens" in capsys.readouterr().err
