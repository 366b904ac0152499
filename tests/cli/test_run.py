"""`befit run`: which argument is what, the prompt from a pipe, streaming, and how it ends."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from befit import store
from befit.cli import main
from befit.cli.run import split_words
from befit.engine.outputs import Delta
from befit.errors import RequestFailed

from .conftest import END, FakeEngine


@pytest.fixture(autouse=True)
def no_input(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard input that has nothing to say."""
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        yield


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Make `data` what is piped in."""
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    monkeypatch.setattr(sys, "stdin", os.fdopen(read, "r"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), (store.DEFAULT_MODEL, None)),
        (("Write a Python function that reverses a linked list.",), (store.DEFAULT_MODEL, "...")),
        (("hello",), (store.DEFAULT_MODEL, "...")),
        (("smollm2:135m",), ("smollm2:135m", None)),
        (("smollm2",), ("smollm2", None)),
        (("other:7b",), ("other:7b", None)),
        (("models/mine.gguf",), ("models/mine.gguf", None)),
        (("explain what is in model.gguf",), (store.DEFAULT_MODEL, "...")),
        (("Note: be brief",), (store.DEFAULT_MODEL, "...")),
        (("smollm2", "hello"), ("smollm2", "hello")),
    ],
)
def test_which_argument_is_what(engine: FakeEngine, words: tuple[str, ...], expected: tuple[str, str | None]) -> None:
    model, prompt = expected
    assert split_words(words, None) == (model, words[0] if prompt == "..." else prompt)


def test_a_stored_name_is_a_model(engine: FakeEngine) -> None:
    place = store.home() / "models" / "mine" / "1b"
    place.mkdir(parents=True)
    (place / "manifest.json").write_text("{}")
    assert split_words(("mine",), None) == ("mine", None)
    assert split_words(("mine",), "smollm2") == ("smollm2", "mine")


def test_an_existing_file_with_spaces_is_a_model(engine: FakeEngine, tmp_path: Path) -> None:
    file = tmp_path / "my model.gguf"
    file.touch()
    assert split_words((str(file),), None) == (str(file), None)


def test_the_answer_streams_to_stdout(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.script = [[Delta(0, "def ", [1]), Delta(0, "", [2]), Delta(0, "f(): ...", [3]), END]]
    assert main(["run", "Write f.", "--stats", "--system", "Be brief.", "--seed", "7"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "def f(): ...\n"
    assert "output 3 tokens" in shown.err
    assert "first token after" in shown.err
    assert engine.prompts == ["<s>Be brief.<u>Write f."]
    assert (engine.params[0].seed, engine.params[0].temperature, engine.params[0].top_p) == (7, 0.2, 0.9)
    assert engine.closed == 1


def test_options_reach_the_engine(engine: FakeEngine) -> None:
    main(["run", "--ctx=128", "--threads=2", "--backend=reference", "--chat-template=t.jinja", "-m", "x:y", "Hi"])
    assert engine.refs == ["x:y"]
    assert engine.templates == ["t.jinja"]
    assert (engine.options[0].ctx, engine.options[0].threads, engine.options[0].backend) == (128, 2, "reference")


def test_a_pipe_is_added_to_the_prompt(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, "x = 'é'\n".encode())
    assert main(["run", "Explain."]) == 0
    pipe(monkeypatch, b"What is 2 + 2?")
    assert main(["run"]) == 0
    assert engine.prompts == ["<u>Explain.\n\nx = 'é'\n", "<u>What is 2 + 2?"]


def test_no_prompt_and_no_terminal_is_wrong_usage(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 2
    assert "no prompt" in capsys.readouterr().err
    assert engine.refs == []


def test_binary_input_is_refused(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, b"ab\xff")
    assert main(["run", "Explain."]) == 2
    assert "byte 2 of 3 is 0xff" in capsys.readouterr().err


def test_a_wrong_sampling_option_is_wrong_usage(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--top-p", "0", "Hi"]) == 2
    assert "top_p is 0.0; it must be above 0" in capsys.readouterr().err
    assert main(["run", "smollm2", "Write", "a", "function"]) == 2
    assert "put the prompt in quotes" in capsys.readouterr().err
    assert engine.refs == []


def test_a_cut_answer_says_so(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.script = [[Delta(0, "abc", [1, 2, 3], finish_reason="length")]] * 2
    main(["run", "--max-tokens", "3", "Hi"])
    assert "(cut at --max-tokens 3)" in capsys.readouterr().err
    main(["run", "Hi"])
    assert "the context holds 1,000 tokens and the conversation now has 8" in capsys.readouterr().err


def test_an_answer_that_repeats_itself_says_so(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.script = [[Delta(0, "abc", [1, 2, 3], finish_reason="stop", stop_reason="repetition_detected")]]
    main(["run", "Hi"])
    assert "(ended: the answer began to repeat itself" in capsys.readouterr().err


def test_a_prompt_that_does_not_fit_is_an_error(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "x" * 2000]) == 1
    assert "the conversation has 2,003 tokens and the context holds 1,000" in capsys.readouterr().err


def test_a_failed_request_is_an_error(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.script = [[Delta(0, "", [], finish_reason="error", error=RequestFailed("It broke."))]]
    assert main(["run", "Hi"]) == 1
    assert capsys.readouterr().err == "befit: error: It broke.\n"


def test_ctrl_c_ends_with_130(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.script = [[Delta(0, "par", [1]), lambda: os.kill(os.getpid(), signal.SIGINT)]]
    assert main(["run", "Hi"]) == 130
    assert capsys.readouterr().out == "par\n"
    assert engine.closed == 1


def test_a_reader_that_leaves_ends_it_quietly(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(SystemExit) as ended:
        main(["run", "Hi"])
    assert ended.value.code == 1
    assert engine.closed == 1


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "none.gguf"
    done = subprocess.run(
        [sys.executable, "-m", "befit.cli", "run", str(missing), "Hi"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"befit: error: there is no file {missing}.\n"


def test_what_the_model_recommends_is_the_default(engine: FakeEngine) -> None:
    engine.model.metadata |= {"general.sampling.temp": 0.6, "general.sampling.top_k": 20}
    assert main(["run", "hello"]) == 0
    assert main(["run", "hello", "--temperature", "0", "--top-k", "0"]) == 0
    assert [(p.temperature, p.top_k, p.top_p) for p in engine.params] == [(0.6, 20, 0.9), (0, 0, 0.9)]


def test_a_folder_with_a_config_is_a_model(engine: FakeEngine, tmp_path: Path) -> None:
    assert split_words((str(tmp_path),), None) == (store.DEFAULT_MODEL, str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert split_words((str(tmp_path),), None) == (str(tmp_path), None)
