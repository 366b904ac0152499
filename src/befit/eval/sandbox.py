"""Running code that a model has written: in a process that has shut itself in (see `confine`), once a program.

What it protects from is code that goes wrong: endless loops, memory, files, processes, calls to the network. The
program can read what any user of this machine can read; nothing that it reads gets out but an error's first 300
characters.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from befit.errors import ConfigError

CONFINE = Path(__file__).with_name("confine.py")


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one program: bytes of address space, seconds of processor time (twice that of waiting), bytes a file, open
    files."""

    memory: int = 1 << 30
    seconds: int = 10
    file_size: int = 16 << 20
    files: int = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether the program came to its end, and if not, why."""

    passed: bool
    detail: str = ""


def run(program: str, limits: Limits | None = None, *, anyway: bool = False) -> Outcome:
    """Run a program and say whether it came to its end without an exception.

    anyway: also where the process could not be shut in; else that raises ConfigError, and nothing was run.
    """
    limits = limits or Limits()
    job = json.dumps({"program": program, "limits": asdict(limits), "anyway": anyway}).encode()
    with tempfile.TemporaryDirectory(prefix="befit-eval-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", str(CONFINE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"},
            start_new_session=True,
        )
        late = False
        try:
            said, _ = process.communicate(job, 2 * limits.seconds + 5)
        except subprocess.TimeoutExpired:
            late, said = True, b""
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    answers: dict[str, object] = {}
    for line in said.splitlines():
        answers.update(json.loads(line))
    if answers.get("open") and not anyway:
        raise ConfigError(
            f"Generated code cannot be shut in here: {', '.join(map(str, answers['open']))} stays open to it. "  # type: ignore[call-overload]
            "Use another machine or a container that permits it, or --without-isolation if this one can be lost."
        )
    if answers.get("passed"):
        return Outcome(True)
    if "error" in answers:
        return Outcome(False, str(answers["error"]))
    if late or process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return Outcome(False, f"not over after {limits.seconds} seconds")
    return Outcome(False, f"ended early, with status {process.returncode}")
