"""The command line as a whole: quick help, one-line errors, exit statuses."""

import json
import resource
import subprocess
import sys

import click
import pytest

from befit import cli
from befit.cli import main
from befit.errors import DownloadError

HEAVY = ("numpy", "fastapi", "uvicorn", "tokenizers", "jinja2", "tqdm", "prompt_toolkit", "asyncio", "logging")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["serve", "--help"]])
def test_help_imports_next_to_nothing(arguments: list[str]) -> None:
    code = (
        "import json, sys; from befit.cli import main; status = main(sys.argv[1:]); "
        f"print(json.dumps([status, sorted(set({HEAVY}) & set(sys.modules))]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: befit")
    assert json.loads(done.stderr) == [0, []]


def test_help_is_instant() -> None:
    def seconds(*arguments: str) -> float:
        """Processor time of a Python, which a busy machine stretches less than the clock's."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    shown = min(seconds("-m", "befit.cli", "-h") for _ in range(5))
    bare = min(seconds("-c", "import click") for _ in range(5))
    assert shown < 0.15 or shown < 4 * bare


def test_every_verb_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-h"]) == 0
    shown = capsys.readouterr().out
    for verb in cli.VERBS:
        assert f"\n  {verb} " in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("befit")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (DownloadError("no network"), 1, "befit: error: no network\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "befit: error: [Errno 13] Permission denied: '/x'\n"),
        (
            KeyError("bug"),
            1,
            "befit: error: unexpected KeyError: 'bug' (BEFIT_DEBUG=1 shows",
        ),
        (KeyboardInterrupt(), 130, "\n"),
        (click.UsageError("not so"), 2, "Usage: befit list"),
    ],
)
def test_errors_are_one_line_and_a_status(
    error: BaseException,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("befit.store.list_models", fail)
    monkeypatch.delenv("BEFIT_DEBUG", raising=False)
    assert main(["list"]) == status
    assert capsys.readouterr().err.startswith(said)


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise DownloadError("no network")

    monkeypatch.setattr("befit.store.list_models", fail)
    monkeypatch.setenv("BEFIT_DEBUG", "1")
    with pytest.raises(DownloadError):
        main(["list"])


def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--nonsense"]) == 2
    assert "--nonsense" in capsys.readouterr().err
    assert main(["nonsense"]) == 2
