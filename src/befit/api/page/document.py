"""A page as one document: its style sheet and scripts within it, allowed by their hashes and nothing else.

One document needs no further routes, which with keys would have to be open too; and a browser runs only what has a hash
in the Content-Security-Policy (CSP level 3), whatever a model writes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.responses import Response

_ASSET = re.compile(r'<link rel="stylesheet" href="(?P<style>[\w.]+)">|<script src="(?P<script>[\w.]+)"></script>')


@cache
def document(name: str) -> tuple[bytes, str]:
    """The page in the file `name`, and the Content-Security-Policy that it is to be sent with."""
    folder = files("befit.api.page")
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def inline(found: re.Match[str]) -> str:
        kind = found.lastgroup or ""
        text = folder.joinpath(found[kind]).read_text("utf-8")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
        return f"<{kind}>{text}</{kind}>"

    page = _ASSET.sub(inline, folder.joinpath(name).read_text("utf-8"))
    policy = (
        f"default-src 'none'; script-src {' '.join(hashes['script'])}; style-src {' '.join(hashes['style'])}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.encode(), policy


def page_answer(name: str) -> Response:
    """The answer to a browser that opens the page."""
    body, policy = document(name)
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return Response(body, headers=headers, media_type="text/html; charset=utf-8")
