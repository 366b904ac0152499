"""Many clients on a real server: more than run at once, sessions that edit, and what the server says of itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from befit.cli import main

pytestmark = pytest.mark.model


def bench(server: Any, tmp_path: Path, *options: str) -> dict[str, Any]:
    file = tmp_path / "load.json"
    assert main(["bench", "serve", "--url", f"{server.url}/v1", *options, "--json", str(file)]) == 0
    [run] = json.loads(file.read_text())["runs"]
    return run


def test_more_clients_than_run_at_once_all_get_their_answers(server: Any, tmp_path: Path) -> None:
    size = ("--prompt-tokens", "24", "--output-tokens", "4", "--warmup", "0")
    run = bench(server, tmp_path, "--concurrency", "100", "--requests", "100", *size)
    assert (run["completed"], run["errors"], run["short"]) == (100, {}, 0)
    assert run["output_tokens"]["total"] == 400
    if sys.platform == "linux":
        assert run["from_server"]["server_cpu_us"] > 0
    server.until_idle()


def test_sessions_that_edit_in_the_middle_find_their_first_halves_again(server: Any, tmp_path: Path) -> None:
    size = ("--workload", "editor", "--prompt-tokens", "320", "--output-tokens", "2", "--warmup", "0")
    run = bench(server, tmp_path, "--concurrency", "3", "--requests", "12", *size)
    assert run["errors"] == {}
    # Three of four visits, and of each of those half of the text, to a page less.
    assert run["cache_hit_rate"] == pytest.approx(3 / 4 / 2, abs=0.04)
    assert run["from_server"]["prefix_hit_rate"] == pytest.approx(run["cache_hit_rate"])
