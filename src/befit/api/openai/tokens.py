"""`POST /tokenize` and `POST /detokenize`: text, or a chat, to token ids and back.

Shapes are vLLM's. llama.cpp has routes of the same names: its `content`, `add_special`, `parse_special` and
`with_pieces` are honoured too, and its answers' fields are among ours.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from befit.api.answers import json_response
from befit.api.body import read_body
from befit.api.generation import off_loop
from befit.api.models.fleet import Fleet
from befit.api.openai.chat import prompt_ids
from befit.api.openai.fields import ignored_header
from befit.api.openai.inputs import check_ids
from befit.api.openai.request_body import RequestBody, parse
from befit.api.openai.types import ChatRequest
from befit.api.service import Service
from befit.api.tools.request import tool_use
from befit.errors import InvalidRequest

_CHAT_FIELDS = (
    "messages",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
    "add_special_tokens",
)


class TokenizeRequest(RequestBody):
    """`/tokenize`: `prompt` (or llama.cpp's `content`), or `messages`."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None

    def check(self) -> None:
        """Refuse what cannot be honoured, and anything but one of prompt, content and messages."""
        super().check()
        given = [name for name in ("prompt", "content", "messages") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InvalidRequest(f"Send one of prompt, content and messages; there is {', '.join(given) or 'none'}.")


class DetokenizeRequest(RequestBody):
    """`/detokenize`."""

    model: str | None = None
    tokens: list[int]
    skip_special_tokens: bool | None = None


async def tokenize(fleet: Fleet, http: Request) -> Response:
    """Token ids of a text or a rendered chat, their number, and the context's size."""
    body = await read_body(http)
    request = parse(TokenizeRequest, body)
    service = await fleet.service(request.model)
    ids = await off_loop(len(body), _encode, service, request)
    tokenizer = service.tokenizer
    answer: dict[str, Any] = {
        "count": len(ids),
        "max_model_len": service.ctx,
        "tokens": ids,
        "token_strs": [tokenizer.token_text(token) for token in ids] if request.return_token_strs else None,
    }
    if request.with_pieces:
        answer["tokens"] = [{"id": token, "piece": _piece(service, token)} for token in ids]
    return json_response(answer, headers=ignored_header(request.ignored))


def _encode(service: Service, request: TokenizeRequest) -> list[int]:
    if request.messages is not None:
        fields = {name: getattr(request, name) for name in _CHAT_FIELDS}
        chat = ChatRequest(**{name: value for name, value in fields.items() if value is not None})
        chat.check()
        return prompt_ids(service, chat, tool_use(chat.tools, None, None))
    if request.content is not None:
        text, add_special = request.content, bool(request.add_special)
    else:
        text, add_special = request.prompt or "", request.add_special_tokens is not False
    return service.tokenizer.encode(text, add_special=add_special, parse_special=request.parse_special is not False)


def _piece(service: Service, token: int) -> str | list[int]:
    """The token's text, or its bytes when they are not whole characters, as in llama.cpp."""
    raw = service.tokenizer.token_bytes(token, skip_special=False)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return list(raw)


async def detokenize(fleet: Fleet, http: Request) -> Response:
    """The text of token ids, control tokens included unless skip_special_tokens."""
    body = await read_body(http)
    request = parse(DetokenizeRequest, body)
    service = await fleet.service(request.model)
    check_ids(request.tokens, service.tokenizer.vocab_size, "tokens", "tokens")
    skip = bool(request.skip_special_tokens)
    text = await off_loop(len(body), service.tokenizer.decode, request.tokens, skip_special=skip)
    return json_response({"prompt": text, "content": text}, headers=ignored_header(request.ignored))
