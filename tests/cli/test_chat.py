"""The chat: commands, messages of many lines, a stopped reply, a full context."""

import io
import os
import signal
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from befit.cli import lines, main
from befit.engine.outputs import Delta
from befit.errors import RequestFailed

from .conftest import END, FakeEngine

Chat = Callable[[str], tuple[str, str]]


@pytest.fixture
def chat(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Chat:
    """Type some lines into a chat; returns what came out on standard output and standard error."""

    def run(typed: str, *options: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        assert main(["run", "--chat", *options]) == 0
        shown = capsys.readouterr()
        return shown.out, shown.err

    return run


def test_a_conversation_grows(chat: Chat, engine: FakeEngine) -> None:
    out, err = chat("Hi\nAnd?\n")
    assert out == "Hello.\nHello.\n"
    assert engine.prompts == ["<u>Hi", "<u>Hi<a>Hello.<u>And?"]
    assert "fake:1b, context 1,000 tokens" in err


def test_clear_keeps_only_the_system_message(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n/clear\nAnew\n"))
    main(["run", "--chat", "--system", "Brief."])
    assert engine.prompts == ["<s>Brief.<u>Hi", "<s>Brief.<u>Anew"]


def test_a_prompt_on_the_command_line_is_the_first_message(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Second\n"))
    main(["run", "--chat", "First, please."])
    assert engine.prompts == ["<u>First, please.", "<u>First, please.<a>Hello.<u>Second"]


def test_bye_leaves(chat: Chat, engine: FakeEngine) -> None:
    chat("/bye\nHi\n")
    assert engine.prompts == []


def test_help_and_unknown_commands(chat: Chat, engine: FakeEngine) -> None:
    _, err = chat("/help\n/nope\n/usr/bin holds what?\n\n")
    assert "/clear   forget" in err
    assert "There is no command /nope" in err
    assert engine.prompts == ["<u>/usr/bin holds what?"]


def test_many_lines_are_one_message(chat: Chat, engine: FakeEngine) -> None:
    chat('"""\ndef f():\n    pass\n"""\none \\\ntwo\n')
    assert engine.prompts[0] == "<u>def f():\n    pass"
    assert engine.prompts[1].endswith("<u>one \ntwo")


def test_ctrl_c_stops_the_reply_and_not_the_chat(chat: Chat, engine: FakeEngine) -> None:
    engine.script = [[Delta(0, "par", [1]), lambda: os.kill(os.getpid(), signal.SIGINT)]]
    out, err = chat("Hi\nAgain\n")
    assert out == "parHello.\n"
    assert "(stopped)" in err
    assert engine.prompts[1] == "<u>Hi<a>par<u>Again"
    assert engine.closed == 2


def test_a_reply_stopped_before_it_began_leaves_no_trace(chat: Chat, engine: FakeEngine) -> None:
    engine.script = [[lambda: os.kill(os.getpid(), signal.SIGINT)]]
    _, err = chat("Hi\nAgain\n")
    assert "not part of the conversation" in err
    assert engine.prompts[1] == "<u>Again"


def test_a_full_context_is_told_with_both_numbers(chat: Chat, engine: FakeEngine) -> None:
    engine.model.config.ctx = 30
    _, err = chat("Hi\n" + "x" * 40 + "\nOk\n")
    assert "the conversation has 57 tokens and the context holds 30" in err
    assert "/clear starts a new conversation" in err
    assert engine.prompts == ["<u>Hi", "<u>Hi<a>Hello.<u>Ok"]


def test_a_failed_reply_leaves_the_chat_open(chat: Chat, engine: FakeEngine) -> None:
    failed = Delta(0, "", [], finish_reason="error", error=RequestFailed("It broke."))
    engine.script = [[Delta(0, "par", [1]), failed]]
    _, err = chat("Hi\nAgain\n")
    assert "It broke." in err
    assert engine.prompts[1] == "<u>Again"


def test_an_empty_reply_leaves_no_trace(chat: Chat, engine: FakeEngine) -> None:
    engine.script = [[END]]
    chat("Hi\nAgain\n")
    assert engine.prompts[1] == "<u>Again"


def test_a_terminal_edits_and_breaks_lines() -> None:
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        read = lines.terminal_reader(">>> ")
        keys.send_text("one\r")
        assert read() == "one"
        keys.send_text("a\x1b\rb\r")  # Alt-Enter
        assert read() == "a\nb"
        keys.send_text("a \\\rb\r")
        assert read() == "a \nb"
        keys.send_text('"""\rx\r\ry"""\r')
        assert read() == "x\n\ny"
        keys.send_text("gone\x03kept\r")  # Ctrl-C drops the line
        assert read() == "kept"
        keys.send_text("\x04")
        assert read() is None


@given(st.text(alphabet='a"\\\n ', max_size=12))
def test_a_quoted_block_holds_any_lines(body: str) -> None:
    text = f'"""{body}"""'
    assert lines.is_complete(text)
    if '"' not in body:
        assert lines.unwrap(text) == body.strip("\n")
