"""Generated code is run where it can hurt nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from befit.errors import ConfigError
from befit.eval import sandbox
from befit.eval.sandbox import Limits, run

SMALL = Limits(memory=256 << 20, seconds=1, file_size=1 << 20, files=16)


@pytest.fixture(scope="module", autouse=True)
def permitted() -> None:
    try:
        run("")
    except ConfigError as error:
        pytest.skip(f"this machine does not permit it: {error}")


@pytest.mark.parametrize(
    "program",
    [
        "assert sum(range(5)) == 10",
        "import math, re, typing, collections, hashlib, heapq",
        "open('scratch', 'w').write('here it may')",
        "import os\nassert os.listdir('.') == [] and 'PATH' not in os.environ and 'BEFIT_HOME' not in os.environ",
        "print('to nobody')",
    ],
)
def test_what_a_function_needs_works(program: str) -> None:
    assert run(program, SMALL).passed


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("assert False, 'wrong'", "AssertionError: wrong"),
        ("def", "SyntaxError"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 22), 2)", "unreachable"),
        ("import socket\nsocket.create_connection(('192.0.2.1', 80), 2)", "unreachable"),
        ("import os\nos.fork()", "BlockingIOError"),
        ("import subprocess\nsubprocess.run(['true'])", "BlockingIOError"),
        ("import threading\nthreading.Thread(target=print).start()", "can't start new thread"),
        ("x = bytearray(1 << 30)", "MemoryError"),
        ("with open('big', 'wb') as f:\n  while True:\n    f.write(bytes(1 << 18))", "File too large"),
        ("files = [open('/dev/null') for _ in range(99)]", "Too many open files"),
        ("while True: pass", "not over after 1 seconds"),
        ("def f(): f()\nf()", "RecursionError"),
        ("input()", "EOFError"),
        ("import sys\nsys.exit(0)", "SystemExit"),
        ("import os\nos._exit(0)", "ended early, with status 0"),
        ("import ctypes\nctypes.string_at(0)", f"ended early, with status -{signal.SIGSEGV.value}"),
    ],
)
def test_what_it_does_not_need_is_not_there(program: str, told: str) -> None:
    outcome = run(program, SMALL)
    assert not outcome.passed
    assert told in outcome.detail


def test_files_elsewhere_stay_as_they_are(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    for attempt in (
        f"open({str(mine)!r}, 'w')",
        f"import os; os.remove({str(mine)!r})",
        f"open('{tmp_path}/new', 'w')",
    ):
        assert "PermissionError" in run(attempt, SMALL).detail
    assert mine.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_other_processes_are_not_to_be_seen() -> None:
    assert "ProcessLookupError" in run(f"import os; os.kill({os.getpid()}, 9)", SMALL).detail


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run("open('left', 'w').write('x')", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_where_it_cannot_be_shut_in_it_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same child on a system that refuses namespaces."""
    refusing = tmp_path / "confine.py"
    source = sandbox.CONFINE.read_text(encoding="utf-8")
    refusing.write_text(source.replace("_libc.unshare(flags) == 0", "_libc.unshare(-1) == 0"))
    monkeypatch.setattr(sandbox, "CONFINE", refusing)
    with pytest.raises(ConfigError, match="the network, other processes"):
        run("assert True", SMALL)
    assert run("assert True", SMALL, anyway=True).passed
