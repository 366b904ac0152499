"""A request for each route that works when it is pasted into a shell, on any model that can do what is asked."""

from __future__ import annotations

import json
from typing import Any

BASE = "http://127.0.0.1:8000"
"""Where `befit serve` listens unless told otherwise."""

_CHAT = [{"role": "user", "content": "Write a Python function that reverses a string."}]
_CODE = "def fibonacci(n):\n"
_TOOL = {
    "name": "read_file",
    "description": "The text of a file",
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
}

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": _CHAT, "max_tokens": 128},
    "/chat/completions": {"messages": _CHAT, "max_tokens": 128},
    "/v1/completions": {"prompt": _CODE, "max_tokens": 64, "temperature": 0},
    "/v1/responses": {"input": "What is a monad?", "max_output_tokens": 128},
    "/v1/responses/input_tokens": {"input": "What is a monad?"},
    "/v1/embeddings": {"input": ["def add(a, b): return a + b", "a sum of two numbers"]},
    "/v1/messages": {"max_tokens": 128, "system": "Answer in one sentence.", "messages": _CHAT},
    "/v1/messages/count_tokens": {"messages": _CHAT},
    "/tokenize": {"prompt": _CODE, "return_token_strs": True},
    "/detokenize": {"tokens": [65, 66, 67]},
    "/infill": {"input_prefix": "def mean(values):\n    ", "input_suffix": "\n    return total\n", "n_predict": 32},
    "/completion": {"prompt": _CODE, "n_predict": 32},
    "/apply-template": {"messages": _CHAT},
    "/api/generate": {"prompt": "Why is the sky blue?", "stream": False, "options": {"num_predict": 64}},
    "/api/chat": {"messages": _CHAT, "stream": False},
    "/api/embed": {"input": "a sum of two numbers"},
    "/api/embeddings": {"prompt": "a sum of two numbers"},
    "/api/show": {"model": ""},
    "/api/pull": {"model": "smollm2:135m"},
    "/api/copy": {"source": "smollm2:135m", "destination": "mine"},
    "/api/create": {"model": "terse", "from": "smollm2:135m", "system": "Answer in one sentence."},
    "/": {"inputs": _CODE, "parameters": {"max_new_tokens": 32}},
    "/generate": {"inputs": _CODE, "parameters": {"max_new_tokens": 32, "details": True}},
    "/generate_stream": {"inputs": _CODE, "parameters": {"max_new_tokens": 32}},
    "/invocations": {"inputs": _CODE, "parameters": {"max_new_tokens": 32}},
    "/chat_tokenize": {"messages": _CHAT},
}
"""By path of a POST."""

DELETED: dict[str, dict[str, Any]] = {"/api/delete": {"model": "mine"}}
"""By path of a DELETE that has a body."""

MANAGING = frozenset({"/api/pull", "/api/copy", "/api/create", "/api/delete"})
"""What a server answers only if it was started with `--any-model`, and to pull with `--pull`."""

FURTHER: dict[str, dict[str, dict[str, Any]]] = {
    "/v1/chat/completions": {
        "Streamed": {"messages": _CHAT, "stream": True, "stream_options": {"include_usage": True}},
        "A tool": {
            "messages": [{"role": "user", "content": "What does setup.py say?"}],
            "tools": [{"type": "function", "function": _TOOL}],
            "max_tokens": 128,
        },
        "JSON by a schema": {
            "messages": [{"role": "user", "content": "A colour and its red part."}],
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "colour",
                    "schema": {
                        "type": "object",
                        "properties": {"name": {"type": "string"}, "red": {"type": "integer"}},
                        "required": ["name", "red"],
                        "additionalProperties": False,
                    },
                },
            },
            "max_tokens": 64,
        },
    },
    "/v1/completions": {
        "Filling in the middle": {
            "prompt": "def mean(values):\n    ",
            "suffix": "\n    return total / len(values)\n",
            "max_tokens": 32,
        },
        "Streamed": {"prompt": _CODE, "max_tokens": 64, "stream": True},
    },
    "/api/chat": {"Lines of JSON": {"messages": _CHAT}},
}
"""What else a route can do: titles and bodies."""


def curl(method: str, path: str, body: dict[str, Any] | None = None) -> str:
    """A command for a POSIX shell."""
    url = BASE + path
    if body is None:
        return f"curl {url}" if method == "get" else f"curl -X {method.upper()} {url}"
    text = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
    asked = f"-X {method.upper()} {url}" if method == "delete" else url
    return f"curl {asked} \\\n  -H 'content-type: application/json' \\\n  -d '{text}'"
