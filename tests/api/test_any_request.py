"""Whatever a client sends, the answer is a result or an error that is its own fault, in the documented shape."""

import asyncio
import json
from pathlib import Path

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from befit.api.description.openapi import BODIES
from befit.api.openai.fields import HINTS, UNSUPPORTED

FIELDS = {path: body.model_fields for path, body in BODIES.items()}
NAMES = sorted({*HINTS, *UNSUPPORTED, "nobody_knows"}.union(*FIELDS.values()))

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.sampled_from(NAMES), inner),
    max_leaves=6,
)
sensible = {
    "/v1/completions": {"prompt": "ab"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"input": "hi"},
    "/v1/responses/input_tokens": {"input": "hi"},
    "/v1/embeddings": {"input": "hi"},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [65]},
}


@settings(max_examples=120)
@given(
    path=st.sampled_from(sorted(FIELDS)),
    fields=st.dictionaries(st.sampled_from(NAMES), values, max_size=4),
    model=st.sampled_from(["fake", None]),
)
def test_any_fields(serve_fake, path, fields, model):
    engine, app = serve_fake()

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://befit") as client:
            return await client.post(path, json={"model": model, **sensible[path], **fields})

    response = asyncio.run(ask())
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        error = json.loads(response.content)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["message"]
    assert engine.open == 0


def test_every_field_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "openai.md").read_text()
    assert [name for name in NAMES if name != "nobody_knows" and name not in text] == []
