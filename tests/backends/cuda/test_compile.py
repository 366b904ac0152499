"""Every kernel compiles for Ampere, Ada and Hopper, to machine code and without a card."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

import befit
from support import compile_kernels


@pytest.mark.parametrize("capability", [80, 89, 90])
def test_kernels_compile(capability, tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = str(Path(befit.__file__).parents[1])
    command = [sys.executable, compile_kernels.__file__, str(capability)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 14 + 3 * (capability >= 89) + 2 * len(compile_kernels.WIDTHS)
