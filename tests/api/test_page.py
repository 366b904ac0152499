"""The pages: one document each, which runs its own scripts and nothing else, and what their meters read."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

PAGES = ["/", "/docs"]


class Outline(HTMLParser):
    """What a page has in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.controls: list[dict[str, str | None]] = []
        self.labelled: set[str] = set()
        self.references: list[str] = []
        self._in_label = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if name := given.get("id"):
            self.ids.append(name)
        for where in ("href", "src"):
            if (target := given.get(where)) is not None:
                self.references.append(target)
        if tag == "label":
            self._in_label += 1
            self.labelled.add(given.get("for") or "")
        if tag in ("input", "select", "textarea"):
            self.controls.append(given | {"labelled": "yes"} if self._in_label else given)
        for target in (given.get("aria-controls"), given.get("aria-labelledby")):
            if target is not None:
                self.references.append(f"#{target}")
        assert "style" not in given, "the policy does not allow it"
        assert not [name for name in given if name.startswith("on")], "the policy does not allow it"

    def handle_endtag(self, tag: str) -> None:
        self._in_label -= tag == "label"


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_one_document_whose_scripts_are_allowed_by_their_hashes(client, path):
    answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        texts = re.findall(rf"<{kind}>(.*?)</{kind}>", answer.text, re.DOTALL)
        assert texts
        assert len(re.findall(rf"<{kind}", answer.text)) == len(texts)
        allowed = re.search(rf"{kind}-src ([^;]+)", policy)[1].split()
        assert allowed == [
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts
        ]


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_loads_nothing_from_elsewhere_and_its_parts_refer_to_each_other(client, app, path):
    outline = Outline((await client.get(path)).text)
    assert len(outline.ids) == len(set(outline.ids))
    for target in outline.references:
        if target.startswith("#"):
            assert target[1:] in outline.ids, target
        elif not target.startswith("data:image/"):
            assert (await client.get(target)).status_code == 200, target
    for control in outline.controls:
        assert control.get("labelled") or control["id"] in outline.labelled, f"{control} has no label"


@pytest.mark.parametrize("path", PAGES)
async def test_scripts_find_the_elements_that_they_name(client, path):
    text = (await client.get(path)).text
    named = set(re.findall(r'getElementById\("([\w-]+)"\)', text)) | set(re.findall(r'show\("([\w-]+)",', text))
    assert len(named) > 3
    assert named <= set(Outline(text).ids)


@pytest.mark.parametrize("path", PAGES)
async def test_head(client, path):
    whole, head = await client.get(path), await client.head(path)
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == str(len(whole.content))


async def test_no_page_is_written_by_a_model(client):
    for path in PAGES:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", (await client.get(path)).text
        )


async def test_stats(client, engine):
    first = (await client.get("/stats")).json()
    engine.observer.first_token(0.25)
    second = (await client.get("/stats")).json()
    assert second["time"] >= first["time"]
    assert (second["waiting"], second["kv_usage"], second["prompt_tokens_total"]) == (1, 0.5, 7)
    assert second["time_to_first_token"] == {"count": 1, "sum": 0.25}
