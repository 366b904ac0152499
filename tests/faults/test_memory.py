"""A memory limit of a cgroup: the server sizes itself to it and stays below it under load.

The limit is one that the server reads, in a file tree of its own in place of /sys/fs/cgroup; the kernel does not
enforce it. What the kernel would do is SIGKILL, which test_machine.py does.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.faults
LIMIT = 320 * 10**6
TREE = (
    "top=/sys/fs/cgroup && mount -t tmpfs none $top && echo $0 > $top/memory.max && echo 0 > $top/memory.current"
    ' && exec "$@"'
)


@pytest.fixture
def within() -> Sequence[str]:
    """A command in front of another one, which then sees the limit as that of the topmost cgroup."""
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/sys/fs/cgroup"], check=False).returncode:
        pytest.skip("this system does not let its users mount anything (unshare -rm)")
    if "0::" not in Path("/proc/self/cgroup").read_text():
        pytest.skip("this process is in no cgroup of version 2")
    return ["unshare", "-rm", "sh", "-c", TREE, str(LIMIT)]


def test_a_server_stays_below_the_limit_that_it_reads(start: Any, tiny: Path, within: Sequence[str]) -> None:
    server = start(tiny, "--max-seqs", "64", "--kv-tokens", "100000", within=within)
    assert f"of {LIMIT / 1e6:.0f} MB" in server.process.last_words()
    texts = [f"{number} " + "hello " * 700 for number in range(12)]

    def ask(text: str) -> str:
        answer: str = server.ask(prompt=text, max_tokens=40)
        return answer

    expected = [ask(text) for text in texts[:4]]
    with ThreadPoolExecutor(12) as clients:
        assert list(clients.map(ask, texts))[:4] == expected
    resident, most = server.process.memory()
    assert resident <= most < LIMIT
    server.until_idle()
    assert httpx.get(f"{server.url}/health", timeout=30).status_code == 200


def test_more_than_the_limit_is_refused_before_anything_is_loaded(tiny: Path, within: Sequence[str]) -> None:
    command = [*within, sys.executable, "-m", "befit.cli", "serve", str(tiny), "--port", "0", "--memory", "1GiB"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert f"memory is 1,073,741,824 bytes and the process's cgroup grants {LIMIT:,}" in ended.stderr
    command[-2:] = ["--kv-tokens", "4000000"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "does not fit" in ended.stderr
