"""A real browser before a real server, on a model with random weights that fills in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import ServerProcess
from support.files import CONTROL, tiny_file
from support.tokenizers import QWEN

KEY = "a-key-for-the-page"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coder")
    return tiny_file(folder / "tiny.gguf", "qwen2", control=[*CONTROL, *QWEN], context=4096)


@pytest.fixture(scope="session")
def server(model: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(model, "--kv-tokens", "16384", "--ctx", "4096", "--served-name", "coder")
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="session")
def slow(smollm2_path: Path) -> Iterator[ServerProcess]:
    """A model that takes its time and does not end after a few tokens."""
    server = ServerProcess(smollm2_path, "--kv-tokens", "4096", "--ctx", "4096")
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="session")
def coder(qwen_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(qwen_path, "--kv-tokens", "8192", "--ctx", "4096", "--served-name", "qwen2.5-coder:0.5b")
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="session")
def guarded(model: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(model, "--kv-tokens", "16384", "--ctx", "4096", "--api-key", KEY)
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium: the one that is installed, else playwright's own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab. What a script throws, the policy forbids or the page asks another host for fails the test."""
    context = browser.new_context(viewport={"width": 1024, "height": 860})
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if "Content Security" in message.text else None)
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    yield page
    context.close()
    assert wrong == []
    assert len(hosts) <= 1
