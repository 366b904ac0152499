"""The pages in headless Chromium: `pip install playwright`, then `pytest -m browser`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import KEY

pytestmark = pytest.mark.browser

DONE = "/^(Done|Ended)/.test(document.getElementById('status').textContent)"


def until(page: Any, condition: str, seconds: float = 20) -> None:
    """Wait for a condition in JavaScript. Playwright's own waiting evaluates strings in the page, which its policy
    forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"{condition}: {page.inner_text('body')}"
        page.wait_for_timeout(30)


def generate(page: Any, button: str, tokens: int = 24) -> str:
    page.evaluate("count => { document.getElementById('max_tokens').value = count }", tokens)
    page.click(button)
    until(page, DONE)
    return str(page.inner_text("#status"))


def test_a_chat_is_streamed_and_gone_on_with(page, server):
    page.goto(server.url)
    until(page, "document.getElementById('model').textContent.includes('4096')")
    for turn in (1, 2):
        page.fill("#chat-input", "Hello " * 20)
        status = generate(page, "#panel-chat .go")
        assert "TTFT" in status
        assert "out" in status
        assert page.locator("#log .turn").count() == 2 * turn
    assert "from the cache" in status
    page.click("#chat-clear")
    assert page.locator("#log .turn").count() == 0


def test_enter_sends_and_stop_stops(page, slow):
    page.goto(slow.url)
    page.fill("#chat-input", "Write a long story.")
    page.evaluate("document.getElementById('max_tokens').value = 4000")
    page.press("#chat-input", "Enter")
    until(page, "document.querySelector('.turn.assistant').textContent.length > 10")
    assert page.is_disabled("#panel-chat .go")
    page.click("#panel-chat .stop")
    until(page, "document.getElementById('status').textContent === 'Stopped.'")
    slow.until_idle()
    assert page.is_enabled("#panel-chat .go")


def test_filling_in_and_taking_it(page, server):
    page.goto(f"{server.url}/#fill")
    until(page, "document.getElementById('fill-about').textContent.includes('Qwen2.5-Coder')")
    before = page.input_value("#fill-prefix")
    generate(page, "#panel-fill .go")
    out = page.text_content("#fill-out")
    page.click("#fill-take")
    assert page.input_value("#fill-prefix") == before + out


def test_completing_and_undoing_it(page, server):
    page.goto(server.url)
    page.click("#tab-complete")
    before = page.input_value("#complete-text")
    generate(page, "#panel-complete .go")
    assert page.input_value("#complete-text").startswith(before)
    assert len(page.input_value("#complete-text")) > len(before)
    page.click("#complete-undo")
    assert page.input_value("#complete-text") == before


def test_meters_move(page, server):
    page.goto(f"{server.url}/#complete")
    generate(page, "#panel-complete .go", 200)
    until(page, "Number(document.getElementById('m-ttft').textContent) >= 0")
    until(page, "document.getElementById('m-line').getAttribute('points').includes(' ')")
    assert page.inner_text("#m-waiting") == "0"


def test_an_error_is_told_and_what_was_written_is_given_back(page, server):
    page.goto(server.url)
    until(page, "document.getElementById('model').textContent.includes('4096')")
    page.evaluate("document.getElementById('top_p').value = 7")
    page.fill("#chat-input", "Hello")
    page.click("#panel-chat .go")
    until(page, "document.getElementById('status').className === 'bad'")
    assert "top_p" in page.inner_text("#status")
    assert page.input_value("#chat-input") == "Hello"
    assert page.locator("#log .turn").count() == 0


def test_what_a_model_writes_is_never_a_document(page, server):
    page.goto(server.url)
    page.evaluate("""() => {
        const text = "<img src=x onerror=alert(1)>\\n```html\\n<script>alert(2)</script>\\n```\\nend";
        Chat.turn("assistant", text);
    }""")
    assert page.locator("#log img, #log script").count() == 0
    assert page.inner_text("#log pre") == "<script>alert(2)</script>"
    assert page.locator("#log p").nth(1).inner_text() == "end"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_key_is_asked_for_and_kept_for_the_tab(page, guarded, path):
    page.goto(guarded.url + path)
    until(page, "document.getElementById('notice').textContent.includes('API key')")
    page.fill("#key", KEY)
    page.press("#key", "Tab")
    until(page, "document.getElementById('notice').hidden")
    page.reload()
    until(page, "!['…', 'API'].includes(document.getElementById('model').textContent)")
    assert page.evaluate("[sessionStorage.length, Object.values(localStorage).join()]") == [1, ""]


def test_tabs_and_theme_by_keyboard(page, server):
    page.goto(server.url)
    page.focus("#tab-chat")
    page.press("#tab-chat", "ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-fill"
    assert page.is_visible("#panel-fill")
    assert not page.is_visible("#panel-chat")
    colours = set()
    for theme in ("light", "dark"):
        page.select_option("#theme", theme)
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") in colours
    assert page.input_value("#theme") == "dark"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/#fill", "/#complete", "/docs"])
def test_contrast_and_narrow_screens(page, server, path, scheme):
    """Texts have the contrast that WCAG 2.2 AA wants (4.5), and nothing is wider than a telephone."""
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(server.url + path)
    until(page, "!['…', 'API'].includes(document.getElementById('model').textContent)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    poor = page.evaluate((Path(__file__).parent / "contrast.js").read_text())
    assert poor == []


def test_the_description_lists_routes_and_finds_fields(page, server):
    page.goto(f"{server.url}/docs")
    until(page, "document.querySelectorAll('.route').length > 25")
    page.fill("#find", "input_prefix")
    assert page.locator(".route:visible").count() == 1
    page.click(".route:visible summary")
    sample = page.inner_text(".route[open] pre")
    assert sample.startswith(f"curl {server.url}/infill")
    assert "n_predict" in page.inner_text(".route[open] table")


@pytest.mark.skipif("BEFIT_TEST_PICTURES" not in os.environ, reason="draws the pictures of the documents")
@pytest.mark.qwen
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures(page, coder, scheme):
    page.emulate_media(color_scheme=scheme)
    page.goto(coder.url)
    until(page, "document.getElementById('model').textContent.includes('4096')")
    page.evaluate("document.getElementById('temperature').value = 0")
    page.fill("#chat-input", "Write a Python class for a linked list with append, insert, remove and reverse.")
    page.click("#panel-chat .go")
    until(page, "document.getElementById('log').textContent.length > 500")
    until(page, "Number(document.getElementById('m-rate').textContent) > 10")
    page.screenshot(path=str(Path(os.environ["BEFIT_TEST_PICTURES"]) / f"page-{scheme}.png"))
